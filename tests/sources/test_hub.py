"""`timm:` and `hf:` names, with small modules in the place of the two libraries.

The stand-ins raise what the libraries raise: chains of errors were looked up in timm 1.0 and in
transformers 5. The real timm is not tried here: it needs torchvision. A hub that answers is not
tried either.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch

from edgekit.runtime.errors import EdgekitError, MissingPackageError, SystemRefusedError, UsageError
from edgekit.sources import factory, hub
from edgekit.spec import Found, Sample
from tests.sources.strange import own, samples

TIMM = """
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 10)
        self.pretrained_cfg = {"input_size": (3, 32, 48), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2)}
    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))
def list_models():
    return ["resnet18", "resnet50"]
asked = []
def create_model(name, pretrained=False):
    print("downloading")
    asked.append((name, pretrained))
    if name != "resnet18":
        raise RuntimeError("Unknown model (%s)" % name)
    return Net()
"""

TRANSFORMERS = """
import socket
from collections import OrderedDict
from types import SimpleNamespace
from torch import nn
class Output(OrderedDict):
    pass
class Bert(nn.Module):
    main_input_name = "input_ids"
    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(max_position_embeddings=16)
        self.words, self.places = nn.Embedding(20, 8), nn.Embedding(16, 8)
    def forward(self, input_ids=None, attention_mask=None, token_type_ids=None, return_dict=None):
        places = self.places.weight[:input_ids.shape[1]]
        return Output(last_hidden_state=(self.words(input_ids) + places) * attention_mask.unsqueeze(-1))
class RepositoryNotFoundError(OSError):
    pass
class Answer(Exception):
    def __init__(self, status):
        super().__init__(f"HTTP {status}")
        self.response = SimpleNamespace(status_code=status)
def fails(error, cause):
    try:
        raise cause
    except Exception as first:
        raise error from first
REFUSED = OSError("We couldn't connect to the hub to load the files")
FAULTS = {
    "org/away": lambda: fails(REFUSED, socket.gaierror(-2, "Name or service not known")),
    "org/silent": lambda: fails(OSError("no files"), ConnectionError("refused")),
    "org/busy": lambda: fails(OSError("no files"), Answer(503)),
    "org/nope": lambda: fails(OSError("no such"), RepositoryNotFoundError("404")),
    "org/missing": lambda: fails(OSError("no such"), Answer(404)),
    "org/closed": lambda: fails(OSError("gated"), Answer(403)),
    "org/pickled": lambda: fails(OSError("there is no file named model.safetensors"), KeyError("x")),
    "org/coded": lambda: fails(ValueError("set the option `trust_remote_code=True`"), KeyError("x")),
    "org/full": lambda: fails(OSError("no files"), OSError(28, "No space left on device")),
    "org/lacking": lambda: fails(ImportError("Bert requires the sentencepiece library"), KeyError("x")),
    "org/strange": lambda: fails(ValueError("a config of another kind"), KeyError("x")),
}
asked = []
class AutoModel:
    @staticmethod
    def from_pretrained(name, **options):
        asked.append((name, options))
        FAULTS.get(name, lambda: None)()
        return Bert()
    @staticmethod
    def from_config(settings, trust_remote_code):
        return Bert()
class AutoConfig:
    @staticmethod
    def from_pretrained(name, trust_remote_code):
        return {}
"""

Standing = Callable[[str, str], None]


@pytest.fixture
def standing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standing]:
    """`standing(name, code)`: a module of that name, in the place of any real one."""
    before: dict[str, ModuleType] = {
        name: sys.modules.pop(name) for name in ("timm", "transformers") if name in sys.modules
    }
    folder = tmp_path / "stand_ins"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)

    def put(name: str, code: str) -> None:
        (folder / f"{name}.py").write_text(code)

    yield put
    for name in ("timm", "transformers"):
        sys.modules.pop(name, None)
    sys.modules.update(before)


def load(
    source: str, inputs: Sequence[str] = (), given: Sequence[Sample] = (), folder: Path = Path()
) -> Found:
    return hub.load(own(source, inputs, folder=folder), None, given)


def refused(source: str) -> EdgekitError:
    with pytest.raises(EdgekitError) as caught:
        load(source)
    error = caught.value
    assert "\n" not in error.message + error.hint
    assert "http" not in error.message
    return error


@pytest.mark.parametrize(
    ("source", "taken"),
    [
        ("timm:resnet18", True),
        ("timm:resnet18.a1_in1k", True),
        ("hf:bert-base-uncased", True),
        ("hf:org/name", True),
        ("timm:", False),
        ("hf", False),
        ("package.module:function", False),
        ("net.onnx", False),
    ],
)
def test_hub_names_are_taken_and_nothing_else(source: str, taken: bool) -> None:
    assert hub.takes(source) is taken
    assert not (taken and factory.takes(source))


def test_a_timm_network_brings_its_size_and_says_how_it_was_trained(
    standing: Standing, capsys: pytest.CaptureFixture[str]
) -> None:
    standing("timm", TIMM)
    found = load("timm:resnet18")
    assert [(spec.name, spec.shape) for spec in found.inputs] == [("x", ("batch", 3, 32, 48))]
    assert found.outputs[0].shape == ("batch", 10)
    assert found.module is not None
    assert not found.module.training
    assert any("--preprocess size=32x48,mean=0.5/0.4/0.3,std=0.2/0.2/0.2" in note for note in found.notes)
    assert capsys.readouterr().out == ""


def test_what_the_user_says_of_the_inputs_counts(standing: Standing) -> None:
    standing("timm", TIMM)
    found = load("timm:resnet18", ["image=[batch:1..2,3,16,16]"])
    assert found.inputs[0].shape == ("batch", 3, 16, 16)
    assert load("timm:resnet18", given=samples(((3, 20, 24),))).inputs[0].shape == ("batch", 3, 20, 24)


def test_own_weights_need_no_hub(standing: Standing) -> None:
    standing("timm", TIMM)
    said = own("timm:resnet18")
    module = hub.make(said, pretrained=False)
    with torch.no_grad():
        module.get_parameter("fc.bias").fill_(7)
    found = hub.describe(said, module, ())
    assert found.module is not None
    with torch.no_grad():
        assert float(found.module(torch.zeros(1, 3, 32, 48))[0].max()) > 5
    assert sys.modules["timm"].asked == [("resnet18", False)]


def test_a_transformer_takes_tokens_and_their_mask(standing: Standing) -> None:
    standing("transformers", TRANSFORMERS)
    found = load("hf:org/name")
    assert [(spec.name, spec.shape, spec.dtype) for spec in found.inputs] == [
        ("input_ids", ("batch", "time"), "int64"),
        ("attention_mask", ("batch", "time"), "int64"),
    ]
    assert found.inputs[0].ranges["time"] == (1, 16)
    assert [spec.name for spec in found.outputs] == ["last_hidden_state"]
    options = {"use_safetensors": True, "trust_remote_code": False}
    assert sys.modules["transformers"].asked == [("org/name", options)]


def test_own_weights_of_a_transformer_need_its_configuration_alone(standing: Standing) -> None:
    standing("transformers", TRANSFORMERS)
    assert type(hub.make(own("hf:org/name"), pretrained=False)).__name__ == "Bert"
    assert sys.modules["transformers"].asked == []


def test_a_folder_of_that_name_stands_in_for_the_hub(standing: Standing, tmp_path: Path) -> None:
    standing("transformers", TRANSFORMERS)
    (tmp_path / "kept").mkdir()
    load("hf:./kept", folder=tmp_path)
    assert Path(sys.modules["transformers"].asked[0][0]) == tmp_path / "kept"


@pytest.mark.parametrize(
    ("name", "kind", "message", "hint"),
    [
        ("away", SystemRefusedError, "cannot be reached: gaierror", "give its folder"),
        ("silent", SystemRefusedError, "cannot be reached: ConnectionError: refused", "give its folder"),
        ("busy", SystemRefusedError, "cannot be reached: it answers 503", "give its folder"),
        ("full", SystemRefusedError, "cannot be stored", "free some space"),
        ("nope", UsageError, "the hub knows no hf:org/nope", "check the name"),
        ("missing", UsageError, "the hub knows no hf:org/missing", "check the name"),
        ("closed", UsageError, "does not give hf:org/closed to everybody", "accept its terms"),
        ("pickled", UsageError, "has no safetensors weights", "convert them"),
        ("coded", UsageError, "code of its own", "package.module:function"),
        ("lacking", MissingPackageError, "requires the sentencepiece library", ""),
        ("strange", UsageError, "ValueError: a config of another kind", "give a factory"),
    ],
)
def test_a_hub_that_gives_no_network_is_one_sentence_and_what_to_do(
    standing: Standing, name: str, kind: type[EdgekitError], message: str, hint: str
) -> None:
    standing("transformers", TRANSFORMERS)
    error = refused(f"hf:org/{name}")
    assert type(error) is kind
    assert message in error.message
    assert hint in error.hint
    assert error.__cause__ is not None


def test_a_misspelt_name_answers_with_the_one_that_was_meant(standing: Standing) -> None:
    standing("timm", TIMM)
    error = refused("timm:resnet81")
    assert isinstance(error, UsageError)
    assert "the hub knows no timm:resnet81" in error.message
    assert error.hint == "did you mean timm:resnet18?"


@pytest.mark.parametrize(("source", "package"), [("timm:resnet18", "timm"), ("hf:org/name", "transformers")])
def test_a_library_that_is_not_there_is_named_with_its_command(
    monkeypatch: pytest.MonkeyPatch, source: str, package: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    error = refused(source)
    assert isinstance(error, MissingPackageError)
    assert package in error.message
    assert error.hint == f"pip install {package}"


def test_a_package_that_the_library_needs_is_named_with_its_command(standing: Standing) -> None:
    standing("timm", "import vision_that_is_not_there\n")
    error = refused("timm:resnet18")
    assert isinstance(error, MissingPackageError)
    assert error.hint == "pip install vision_that_is_not_there"


def test_what_is_no_network_is_refused(standing: Standing) -> None:
    standing("timm", "def create_model(name, pretrained=False):\n    return {}\n")
    assert isinstance(refused("timm:resnet18"), UsageError)
