"""`net.pt2`: what a program says of itself, and that nothing in a file can run."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim, export, save

from edgekit.runtime.errors import BadFileError, EdgekitError, UnsupportedError, UsageError
from edgekit.runtime.manifest import State, TensorSpec
from edgekit.sources import program
from edgekit.spec import Found
from tests.sources.strange import own
from tests.sources.strangers.shop import nets

pytestmark = pytest.mark.filterwarnings(
    "ignore:The tensor attributes"
)  # torch.export, of every recurrent layer
BATCH = Dim("batch", min=1, max=16)
Records = dict[str, bytes]


def written(folder: Path, network: nn.Module, inputs: tuple[Any, ...], shapes: Any = None) -> Path:
    path = folder / "net.pt2"
    save(export(network, inputs, dynamic_shapes=shapes), path)
    return path


def loaded(path: Path, inputs: tuple[str, ...] = (), states: tuple[str, ...] = ()) -> Found:
    return program.load(own(path.name, inputs, states, path.parent), None, ())


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    images = (torch.zeros(2, 3, 32, 32),)
    return written(tmp_path_factory.mktemp("detector"), nets.Detector().eval(), images, ({0: BATCH},))


def test_inputs_ranges_and_outputs_are_the_programs_own(detector: Path) -> None:
    found = loaded(detector)
    assert found.inputs == (TensorSpec("x", ("batch", 3, 32, 32), "float32", {"batch": (1, 16)}),)
    assert [(spec.name, spec.shape, spec.dtype) for spec in found.outputs] == [
        ("boxes", ("batch", 64, 4), "float32"),
        ("scores", ("batch", 64), "float32"),
        ("labels", ("batch", 64), "int64"),
    ]
    assert "input x=float32[batch:1..16,3,32,32] is the program's own" in found.notes


def test_it_computes_what_the_network_computed(detector: Path) -> None:
    torch.manual_seed(0)
    network = nets.Detector().eval()
    images = torch.randn(3, 3, 32, 32)
    module = loaded(detector).module
    assert module is not None
    with torch.no_grad():
        expected, found = network(images), module(images)
    for name, tensor in zip(("boxes", "scores", "labels"), found, strict=True):
        torch.testing.assert_close(tensor, expected[name])


def test_recurrent_layers_become_layers_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nets.Denoiser().eval()
    feeds = (torch.randn(2, 7, 20), torch.randn(1, 2, 8), torch.randn(1, 2, 16), torch.randn(1, 2, 12))
    path = written(tmp_path, network, feeds, ({0: BATCH}, {1: BATCH}, {1: BATCH}, {1: BATCH}))
    found = loaded(path, states=("h1=output.1", "h2=output.2", "h3=output.3"))
    assert found.module is not None
    assert sum(isinstance(module, nn.GRU) for module in found.module.modules()) == 3
    assert found.states[1] == State("h2", "output.2", (1, "batch", 16))
    with torch.no_grad():
        torch.testing.assert_close(found.module(*feeds), network(*feeds))


@pytest.mark.parametrize(
    ("layer", "state"),
    [
        (nn.LSTM(3, 4, num_layers=2, bidirectional=True), None),
        (nn.LSTM(3, 4, bias=False, batch_first=True), "both"),
        (nn.RNN(3, 4, nonlinearity="relu"), None),
        (nn.GRU(3, 4, num_layers=2, bidirectional=True, batch_first=True), "one"),
    ],
)
def test_every_kind_of_recurrent_layer_is_restored(
    tmp_path: Path, layer: nn.RNNBase, state: str | None
) -> None:
    shape = (layer.num_layers * (2 if layer.bidirectional else 1), 2, 4)
    starts = {None: (), "one": (torch.randn(shape),), "both": ((torch.randn(shape), torch.randn(shape)),)}[
        state
    ]
    feeds = (torch.randn(2, 2, 3), *starts)
    path = written(tmp_path, layer.eval(), feeds)
    module = loaded(path).module
    assert module is not None
    assert any(isinstance(each, nn.RNNBase) for each in module.modules())
    flat = [
        torch.as_tensor(each) for feed in feeds for each in (feed if isinstance(feed, tuple) else (feed,))
    ]
    with torch.no_grad():
        expected = torch.utils._pytree.tree_leaves(layer(*feeds))
        torch.testing.assert_close(list(module(*flat)), expected)


def test_the_user_may_ask_for_less_than_the_program_takes(detector: Path) -> None:
    assert loaded(detector, ("x=[batch:1..4,3,32,32]",)).inputs[0].ranges == {"batch": (1, 4)}
    assert loaded(detector, ("x=[1,3,32,32]",)).outputs[0].shape == (1, 64, 4)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("x=[batch:1..64,3,32,32]", "takes x="),
        ("x=[batch,3,64,64]", "takes x="),
        ("y=[2,3,32,32]", "takes x, not y"),
    ],
)
def test_more_than_the_program_takes_is_refused(detector: Path, asked: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        loaded(detector, (asked,))


def test_sizes_in_steps_need_a_fixed_one(tmp_path: Path) -> None:
    shapes = ({0: BATCH, 3: 4 * Dim("w", min=2, max=16)},)
    path = written(tmp_path, nets.Detector().eval(), (torch.zeros(2, 3, 32, 32),), shapes)
    with pytest.raises(UsageError, match="only some sizes of 'x' at axis 3") as caught:
        loaded(path)
    assert "x=float32[batch:1..16,3,32,64]" in caught.value.hint
    assert loaded(path, ("x=[batch:1..16,3,32,48]",)).outputs[0].shape == ("batch", 96, 4)


def test_weights_beside_a_program_are_refused(detector: Path) -> None:
    with pytest.raises(UsageError, match="has its weights in it"):
        program.load(own(detector.name, folder=detector.parent), Path("other.safetensors"), ())


@pytest.mark.parametrize(
    ("network", "feed", "hint"),
    [
        (nets.Detector().train(), torch.zeros(2, 3, 8, 8), "network.eval()"),
        (nets.Fixed().eval().half(), torch.zeros(2, 64).half(), "network.float()"),
        (nn.LSTM(3, 4, proj_size=2).eval(), torch.zeros(2, 2, 3), "without projection"),
    ],
)
def test_programs_no_engine_can_stand_for_are_refused(
    tmp_path: Path, network: nn.Module, feed: torch.Tensor, hint: str
) -> None:
    path = written(tmp_path, network, (feed,))
    with pytest.raises(UnsupportedError) as caught:
        loaded(path)
    assert hint in caught.value.hint


def test_a_file_that_is_missing_cut_or_something_else_is_a_bad_file(detector: Path, tmp_path: Path) -> None:
    content = detector.read_bytes()
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("readme.txt", "hello")
    for wrong in (None, b"", b"hello", content[: len(content) // 2], content[:-40], other.getvalue()):
        path = tmp_path / "wrong.pt2"
        if wrong is not None:
            path.write_bytes(wrong)
        with pytest.raises(BadFileError):
            loaded(path)


# Files that would run something.


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> Any:
        return (Path.touch, (self.proof,))


def altered(source: Path, folder: Path, change: Callable[[Records], None]) -> Path:
    """The archive with other records, written as torch writes it."""
    reader = torch._C.PyTorchFileReader(str(source))
    records = {name: reader.get_record(name) for name in reader.get_all_records()}
    change(records)
    path = folder / "net.pt2"
    writer = torch._C.PyTorchFileWriter(str(path))
    for name, record in records.items():
        if not name.startswith(".data/") and name not in ("version", "byteorder"):
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return path


def model_of(records: Records) -> Any:
    return json.loads(records["models/model.json"])


def with_model(records: Records, model: Any) -> None:
    records["models/model.json"] = json.dumps(model).encode()


def pickled(proof: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save((Evil(proof),), buffer)
    return buffer.getvalue()


def evil_inputs(proof: Path) -> Callable[[Records], None]:
    return lambda records: records.update({"data/sample_inputs/model.pt": pickled(proof)})


def evil_weight(proof: Path) -> Callable[[Records], None]:
    def change(records: Records) -> None:
        name = "data/weights/model_weights_config.json"
        config = json.loads(records[name])
        next(iter(config["config"].values()))["use_pickle"] = True
        records[name] = json.dumps(config).encode()
        records["data/weights/weight_0"] = pickled(proof)

    return change


def evil_legacy(proof: Path) -> Callable[[Records], None]:
    return lambda records: records.update({"data/weights/model.pt": pickled(proof)})


def evil_constant(proof: Path) -> Callable[[Records], None]:
    return lambda records: records.update({"data/constants/opaque_obj_0": pickle.dumps(Evil(proof))})


def evil_size(proof: Path) -> Callable[[Records], None]:
    def change(records: Records) -> None:
        model = model_of(records)
        sizes = model["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]
        sizes[0]["as_expr"]["expr_str"] = f"__import__('pathlib').Path({str(proof)!r}).touch() or 2"
        with_model(records, model)

    return change


def evil_operator(proof: Path) -> Callable[[Records], None]:
    def change(records: Records) -> None:
        model = model_of(records)
        node = model["graph_module"]["graph"]["nodes"][0]
        node["target"] = "torch.serialization.os.system"
        node["inputs"] = [{"name": "", "arg": {"as_string": f"touch {proof}"}, "kind": 1}]
        with_model(records, model)

    return change


def evil_container(proof: Path) -> Callable[[Records], None]:
    (proof.parent / "evilmodule.py").write_text(f"open({str(proof)!r}, 'w').close()\n")

    def change(records: Records) -> None:
        model = model_of(records)
        signature = model["graph_module"]["module_call_graph"][0]["signature"]
        protocol, spec = json.loads(signature["out_spec"])
        spec["context"] = json.dumps(
            [{"__enum__": True, "fqn": "evilmodule:X", "name": "a"}, "scores", "labels"]
        )
        signature["out_spec"] = json.dumps([protocol, spec])
        with_model(records, model)

    return change


def evil_library(proof: Path) -> Callable[[Records], None]:
    return lambda records: records.update({"data/aotinductor/model/model.so": b"\x7fELF"})


EVIL = [
    evil_inputs, evil_weight, evil_legacy, evil_constant,
    evil_size, evil_operator, evil_container, evil_library,
]  # fmt: skip


@pytest.mark.parametrize("evil", EVIL)
def test_nothing_in_a_file_runs(
    detector: Path,
    tmp_path: Path,
    evil: Callable[[Path], Callable[[Records], None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proof = tmp_path / "proof"
    monkeypatch.syspath_prepend(str(tmp_path))
    path = altered(detector, tmp_path, evil(proof))
    with pytest.raises((BadFileError, UnsupportedError)):
        loaded(path)
    assert not proof.exists()


def test_the_danger_is_real(detector: Path, tmp_path: Path) -> None:
    """torch's own reader runs these files: should it stop, the guard can be thinned out."""
    paths = []
    for evil in (evil_inputs, evil_size, evil_container):
        folder = tmp_path / evil.__name__
        folder.mkdir()
        paths.append(altered(detector, folder, evil(folder / "proof")))
    code = (
        "import contextlib, pathlib, sys, torch\n"
        "for path in sys.argv[1:]:\n"
        "    sys.path.insert(0, str(pathlib.Path(path).parent))\n"
        "    with contextlib.suppress(Exception): torch.export.load(path)\n"
    )
    subprocess.run([sys.executable, "-c", code, *map(str, paths)], capture_output=True, check=True)
    assert all((path.parent / "proof").exists() for path in paths)


def test_guards_are_not_executed(detector: Path, tmp_path: Path) -> None:
    proof = tmp_path / "proof"

    def change(records: Records) -> None:
        model = model_of(records)
        model["guards_code"] = [f"__import__('pathlib').Path({str(proof)!r}).touch() is None"]
        with_model(records, model)

    found = loaded(altered(detector, tmp_path, change))
    assert found.module is not None
    found.module(torch.zeros(2, 3, 32, 32))
    assert not proof.exists()


def test_an_unchanged_copy_of_an_archive_is_read(detector: Path, tmp_path: Path) -> None:
    assert loaded(altered(detector, tmp_path, lambda records: None)).sha256 == loaded(detector).sha256


# Files of other kinds.


def refused(path: Path) -> EdgekitError:
    error = program.refusal(str(path))
    assert error is not None
    return error


def test_torchscript_is_refused_by_its_content(tmp_path: Path) -> None:
    for name in ("net.pt", "net.ts", "net.pth", "net.pt2"):
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(tmp_path / name))
        error = refused(tmp_path / name)
        assert isinstance(error, UnsupportedError)
        assert "TorchScript" in error.message
        assert "torch.export.save" in error.hint


def test_weights_alone_are_told_from_a_network(tmp_path: Path, detector: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "weights.pt")
    assert "--weights" in refused(tmp_path / "weights.pt").hint
    assert "--weights" in refused(Path("net.safetensors")).hint
    (tmp_path / "renamed.pt").write_bytes(detector.read_bytes())
    assert "renamed.pt2" in refused(tmp_path / "renamed.pt").hint


def test_keras_files_are_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").touch()
    for path in (Path("net.keras"), Path("net.h5"), Path("net.tflite"), tmp_path / "saved"):
        error = refused(path)
        assert isinstance(error, UnsupportedError)
        assert "tf2onnx" in error.hint


@pytest.mark.parametrize("source", ["net.onnx", "crnn", "shop.nets:Fixed", "recipe.toml", "none.pt2"])
def test_what_may_be_a_model_is_not_refused(source: str) -> None:
    assert program.refusal(source) is None


def test_a_program_is_not_refused(detector: Path) -> None:
    assert program.refusal(str(detector)) is None
    assert program.takes(str(detector))
