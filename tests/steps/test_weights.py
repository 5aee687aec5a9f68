from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgekit.runtime.errors import BadFileError, SystemRefusedError
from edgekit.steps.train import load_weights, save_weights


def network(width: int = 3) -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Conv2d(1, width, 3), torch.nn.BatchNorm2d(width))


def test_weights_come_back_as_float32_contiguous(tmp_path: Path) -> None:
    made, loaded = network().to(memory_format=torch.channels_last), network()
    save_weights(made, tmp_path / "w.safetensors")
    load_weights(loaded, tmp_path / "w.safetensors")
    for name, tensor in made.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])


@pytest.mark.parametrize("nested", [False, True])
def test_a_torch_state_dict_is_read(tmp_path: Path, nested: bool) -> None:
    made, loaded = network(), network()
    state = made.state_dict()
    torch.save({"state_dict": state, "epoch": 3} if nested else state, tmp_path / "w.pt")
    load_weights(loaded, tmp_path / "w.pt")
    assert torch.equal(made[0].weight, loaded[0].weight)


class Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run",)


def test_a_pickle_with_code_is_refused_and_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"code": Code()}, tmp_path / "w.pt")
    with pytest.raises(BadFileError, match="more than tensors"):
        load_weights(network(), tmp_path / "w.pt")
    assert capsys.readouterr().out == ""


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "w.pt")
    with pytest.raises(BadFileError, match="more than tensors"):
        load_weights(network(), tmp_path / "w.pt")


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.9])
def test_a_truncated_file_is_named(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"w.{suffix}"
    save_weights(network(), path) if suffix == "safetensors" else torch.save(network().state_dict(), path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(BadFileError, match="truncated"):
        load_weights(network(), path)


def test_a_pickle_called_safetensors_is_named(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(BadFileError, match="a pickle, not safetensors"):
        load_weights(network(), tmp_path / "w.safetensors")


def test_the_counters_of_batch_norms_may_be_missing(tmp_path: Path) -> None:
    """Files made before PyTorch 0.4.1 do not have them."""
    made, loaded = network(), network()
    old = {name: tensor for name, tensor in made.state_dict().items() if "batches" not in name}
    assert len(old) == len(made.state_dict()) - 1
    torch.save(old, tmp_path / "w.pt")
    load_weights(loaded, tmp_path / "w.pt")
    assert torch.equal(made[0].weight, loaded[0].weight)


def test_another_architecture_is_told_by_its_names(tmp_path: Path) -> None:
    save_weights(
        torch.nn.Sequential(torch.nn.Conv2d(1, 5, 3), torch.nn.Identity(), torch.nn.Linear(2, 2)),
        tmp_path / "w.safetensors",
    )
    with pytest.raises(BadFileError) as caught:
        load_weights(
            torch.nn.Sequential(*network(), torch.nn.ReLU(), torch.nn.Linear(2, 2)),
            tmp_path / "w.safetensors",
        )
    message = caught.value.message
    assert "missing: 1.weight" in message
    assert "and 2 more" in message
    assert "unexpected: 2.bias, 2.weight" in message
    assert "0.weight (5, 1, 3, 3) instead of (3, 1, 3, 3)" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    made = network()
    made[0].bias.data[1] = value
    save_weights(made, tmp_path / "w.safetensors")
    with pytest.raises(BadFileError, match=r"in: 0\.bias"):
        load_weights(network(), tmp_path / "w.safetensors")


def test_no_file_and_no_state_dict(tmp_path: Path) -> None:
    with pytest.raises(BadFileError, match="no such weights"):
        load_weights(network(), tmp_path / "w.safetensors")
    torch.save([torch.zeros(1)], tmp_path / "w.pt")
    with pytest.raises(BadFileError, match="no state dict"):
        load_weights(network(), tmp_path / "w.pt")


def test_a_folder_that_cannot_be_made_is_the_systems_refusal(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemRefusedError):
        save_weights(network(), tmp_path / "file" / "w.safetensors")
