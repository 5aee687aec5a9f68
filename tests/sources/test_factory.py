"""`package.module:function`: what is taken, and what is said of what is not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from edgekit.runtime.errors import EdgekitError, UnsupportedError, UsageError
from edgekit.sources import factory
from tests.sources.strange import FOLDER, found, own


@pytest.mark.parametrize("source", ["net:make", "shop.nets:Fixed", "a.b.c:D.create", "net.py:make"])
def test_a_module_and_a_function_are_taken(source: str) -> None:
    assert factory.takes(source)


@pytest.mark.parametrize(
    "source",
    ["crnn", "net.onnx", "net.pt2", "timm:resnet18", "hf:bert", "C:\\net.onnx", "a b:c", "net:", ":make"],
)
def test_everything_else_is_left_to_others(source: str) -> None:
    assert not factory.takes(source)


def refused(name: str, folder: Path = FOLDER) -> EdgekitError:
    with pytest.raises(EdgekitError) as caught:
        factory.make(own(name if ":" in name else f"shop.nets:{name}", folder=folder))
    return caught.value


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("raises", "KeyError: 'head' (at nets.py:", "correct the function"),
        ("nothing", "NoneType", "is a return missing?"),
        ("state", "OrderedDict", "load_state_dict"),
        ("listed", "ModuleList, which has no forward", "computes something"),
        ("lazy", "no shape yet", "run the network once"),
        ("sized", "missing a required argument: 'width'", "without arguments"),
        ("number", "of type int, not a function", "name a function"),
        ("Fixd", "has no 'Fixd'", "did you mean Fixed?"),
        ("shop.net:Fixed", "there is no module 'shop.net'", ""),
        ("shp.nets:Fixed", "there is no module 'shp'", "did you mean shop?"),
        ("shop/nets.py:Fixed", "names a file", "shop.nets:Fixed"),
    ],
)
def test_a_mistake_is_one_sentence_and_what_to_do(name: str, message: str, hint: str) -> None:
    error = refused(name)
    assert isinstance(error, UsageError)
    assert error.exit_code == 2
    assert message in error.message
    assert "\n" not in error.message
    assert hint in error.hint


def test_torchscript_is_refused_with_the_way_out() -> None:
    error = refused("scripted")
    assert isinstance(error, UnsupportedError)
    assert "TorchScript" in error.message
    assert ".pt2" in error.hint


@pytest.mark.parametrize(
    ("name", "code", "told"),
    [
        (
            "broken_a",
            "import torch\ndef make(:\n",
            "SyntaxError: invalid syntax (at broken_a.py:2: def make(:)",
        ),
        (
            "broken_b",
            "import not_there\n",
            "No module named 'not_there' (at broken_b.py:1: import not_there)",
        ),
        ("broken_c", "from torch import nope\n", "(at broken_c.py:1: from torch import nope)"),
        ("broken_d", "import json\nX = json.loads('{')\n", "(at broken_d.py:2: X = json.loads('{'))"),
        ("broken_e", "import sys\nsys.exit(3)\n", "SystemExit: 3 (at broken_e.py:2: sys.exit(3))"),
    ],
)
def test_a_module_that_cannot_be_imported_names_its_line(
    tmp_path: Path, name: str, code: str, told: str
) -> None:
    (tmp_path / f"{name}.py").write_text(code)
    error = refused(f"{name}:make", tmp_path)
    assert error.exit_code == 2
    assert told in error.message


def test_keras_objects_are_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "kerasnet.py").write_text(
        "Model = type('Model', (), {'__module__': 'keras.src.models', '__call__': lambda self, x: x})\n"
        "def make():\n    return Model()\n"
    )
    error = refused("kerasnet:make", tmp_path)
    assert isinstance(error, UnsupportedError)
    assert "onnx" in error.hint


def test_the_search_path_is_as_before() -> None:
    before = list(sys.path)
    factory.make(own("shop.nets:Fixed"))
    refused("raises")
    assert sys.path == before


def test_two_folders_may_have_a_module_of_the_same_name(tmp_path: Path) -> None:
    for width in (2, 3):
        (tmp_path / str(width)).mkdir()
        code = f"from torch import nn\ndef make():\n    return nn.Linear({width}, 1)\n"
        (tmp_path / str(width) / "samename.py").write_text(code)
    widths = [
        factory.make(own("samename:make", folder=tmp_path / width)).in_features for width in ("2", "3", "2")
    ]
    assert widths == [2, 3, 2]


def test_training_mode_half_precision_and_wrappers_are_put_right_and_said() -> None:
    given = found("half", ["image=[batch,1,8,8]"])
    assert given.module is not None
    assert not any(module.training for module in given.module.modules())
    assert {tensor.dtype for tensor in given.module.parameters()} == {torch.float32}
    assert any("evaluation mode" in note for note in given.notes)
    assert any("float16" in note for note in given.notes)
    wrapped = found("parallel", ["image=[batch,1,8,8]"])
    assert wrapped.module is not None
    assert type(wrapped.module.network).__name__ == "Fixed"
    assert "DataParallel" in " ".join(wrapped.notes)


def test_a_network_that_stands_there_ready_is_taken_as_it_is() -> None:
    assert isinstance(factory.make(own("shop.nets:ready")), nn.Module)


def test_weights_put_in_between_make_and_describe_count() -> None:
    said = own("shop.nets:Fixed", ["image=[batch,1,8,8]"])
    module = factory.make(said)
    before = factory.describe(said, module, ()).sha256
    assert factory.describe(said, module, ()).sha256 == before
    with torch.no_grad():
        module.fc.bias[0] += 1
    assert factory.describe(said, module, ()).sha256 != before


def test_a_shared_tensor_counts_once_and_a_copy_is_another_network() -> None:
    from edgekit.sources._found import weights_sha256

    def pair(tie: bool) -> nn.Module:
        torch.manual_seed(0)
        made = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
        made["b"].load_state_dict(made["a"].state_dict())
        if tie:
            made["b"].weight = made["a"].weight
        return made

    assert weights_sha256(pair(True)) == weights_sha256(pair(True))
    assert weights_sha256(pair(True)) != weights_sha256(pair(False))


def test_what_the_network_prints_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    given = found("Classifier", ["x=[batch:1..4,3,16,16]"])
    assert given.module is not None
    given.module(torch.zeros(1, 3, 16, 16))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "features" in printed.err
