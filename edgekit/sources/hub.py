"""`timm:NAME`, `hf:ORGANISATION/NAME`: a network of a hub, through the hub's own library.

Weights come as safetensors or as tensors alone; code that a hub keeps is never run.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgekit.declare import parse_inputs, told_preprocess
from edgekit.runtime.errors import MissingPackageError
from edgekit.runtime.manifest import Preprocess
from edgekit.sources._hub_errors import FACTORY, hub_error
from edgekit.sources._words import prints_aside, told

if TYPE_CHECKING:
    from torch import nn

    from edgekit.spec import Found, Own, Sample

LIBRARIES = {"timm": "timm", "hf": "transformers"}
LONGEST = 128
"""Tokens that a text network takes when nothing says how many."""


def takes(source: str) -> bool:
    """Whether `source` is `timm:NAME` or `hf:NAME`."""
    hub, colon, name = source.partition(":")
    return hub in LIBRARIES and bool(colon and name.strip())


def load(own: Own, weights: Path | None, samples: Sequence[Sample]) -> Found:
    """Fetch the network and find out what it takes and returns.

    `weights` are not read here: a caller that has some puts them in between `make` and `describe`.

    Raises:
        MissingPackageError: the hub's library is not installed, or does not load.
        UsageError: the hub has no such network, or none that is safe to read.
        SystemRefusedError: the hub cannot be reached, or its files cannot be stored.
    """
    return describe(own, make(own, pretrained=weights is None), samples)


def make(own: Own, pretrained: bool = True) -> nn.Module:
    """The hub's network, in evaluation mode, in float32, on the CPU.

    Without `pretrained` the weights are left to the caller: timm then asks no hub at all.

    Raises:
        as `load`.
    """
    from edgekit.sources._describe import prepared

    hub, _, name = own.source.partition(":")
    name = name.strip()
    library = _library(hub, own.source)
    fetch: dict[str, Callable[[], Any]] = {
        "timm": lambda: library.create_model(name, pretrained=pretrained),
        "hf": lambda: _transformer(library, _place(name, own.folder), pretrained),
    }
    with prints_aside():
        try:
            network = fetch[hub]()
        except ImportError as error:
            raise _lacking(error, own.source) from error
        except (Exception, SystemExit) as error:
            raise hub_error(error, own.source, _closest(library, hub, name), _locally(hub)) from error
    return prepared(network, own.source)


def describe(own: Own, module: nn.Module, samples: Sequence[Sample], names: Sequence[str] = ()) -> Found:
    """What the network takes and returns; see `factory.describe`.

    Raises:
        UsageError: nothing says what it takes, it fails when run, or a state is not there.
        UnsupportedError: what it returns, keeps or changes cannot be deployed.
    """
    from edgekit.sources._describe import described

    notes = _trained(own, module)
    texts = () if own.inputs or samples else _declared(own, module)
    if texts:
        own = replace(own, inputs=parse_inputs(texts))
        notes = (*notes, f"inputs as the hub declares them: {', '.join(texts)}")
    found = described(own, module, samples, names)
    return replace(found, notes=(*notes, *found.notes))


def _library(hub: str, source: str) -> ModuleType:
    name = LIBRARIES[hub]
    if importlib.util.find_spec(name) is None:
        raise MissingPackageError(
            f"{source} needs the package {name}, which is not installed", f"pip install {name}"
        )
    try:
        with prints_aside():
            return importlib.import_module(name)
    except ImportError as error:
        raise _lacking(error, source) from error
    except Exception as error:
        raise MissingPackageError(
            f"{source}: the package {name} does not load: {told(error)}", f"pip install --upgrade {name}"
        ) from error


def _lacking(error: ImportError, source: str) -> MissingPackageError:
    """A package that the hub's library needs in its turn."""
    name = (error.name or "").partition(".")[0]
    hint = f"pip install {name}" if isinstance(error, ModuleNotFoundError) and name else FACTORY
    return MissingPackageError(f"{source} cannot be made: {told(error)}", hint)


def _transformer(library: ModuleType, place: str, pretrained: bool) -> Any:
    if pretrained:
        return library.AutoModel.from_pretrained(place, use_safetensors=True, trust_remote_code=False)
    settings = library.AutoConfig.from_pretrained(place, trust_remote_code=False)
    return library.AutoModel.from_config(settings, trust_remote_code=False)


def _place(name: str, folder: Path) -> str:
    """A folder that holds a repository's files, if there is one of that name, else the hub's name."""
    local = (folder / name).expanduser()
    return str(local) if local.is_dir() else name


def _locally(hub: str) -> str:
    """What to do on a machine without a connection."""
    if hub == "hf":
        return "download the repository elsewhere and give its folder: hf:./FOLDER"
    return "download the weights elsewhere and give them: --weights FILE"


def _closest(library: ModuleType, hub: str, name: str) -> str:
    """A name that was probably meant; only timm knows its names without asking."""
    if hub != "timm" or not hasattr(library, "list_models"):
        return ""
    names: list[str] = []
    with suppress(Exception):
        names = [str(each) for each in library.list_models()]
    plain = name.partition(".")[0]
    if plain in names:
        return ""
    close = difflib.get_close_matches(plain, names, n=1)
    return f"did you mean timm:{close[0]}?" if close else ""


def _declared(own: Own, module: nn.Module) -> tuple[str, ...]:
    """The inputs that the hub knows of, as `--input` takes them."""
    return _image_input(module) if own.source.startswith("timm:") else _token_inputs(module)


def _image_input(module: nn.Module) -> tuple[str, ...]:
    kept = _kept(module)
    if kept is None:
        return ()
    return (f"x=float32[batch,{kept.channels},{kept.height},{kept.width}]",)


def _trained(own: Own, module: nn.Module) -> tuple[str, ...]:
    """A note of the preprocessing that the weights were trained with, where the user gives none."""
    kept = _kept(module) if own.preprocess is None and own.source.startswith("timm:") else None
    return (f"its weights were trained with --preprocess {told_preprocess(kept)}",) if kept else ()


def _kept(module: nn.Module) -> Preprocess | None:
    """What timm keeps beside the weights: size, mean and standard deviation."""
    kept = getattr(module, "pretrained_cfg", None)
    size = kept.get("input_size") if isinstance(kept, dict) else None
    if not (isinstance(kept, dict) and isinstance(size, (tuple, list)) and len(size) == 3):
        return None
    channels, height, width = map(int, size)
    mean, std = _numbers(kept.get("mean"), 0.0), _numbers(kept.get("std"), 1.0)
    return Preprocess(height=height, width=width, channels=channels, mean=mean, std=std)


def _numbers(values: Any, default: float) -> tuple[float, ...]:
    return tuple(map(float, values)) if isinstance(values, (tuple, list)) else (default,)


def _token_inputs(module: nn.Module) -> tuple[str, ...]:
    """Tokens and their mask, or an image, as the configuration of transformers has it."""
    settings = getattr(module, "config", None)
    main = getattr(module, "main_input_name", "")
    if main == "input_ids":
        length = min(int(getattr(settings, "max_position_embeddings", 0) or LONGEST), LONGEST)
        return tuple(f"{name}=int64[batch,time:1..{length}]" for name in ("input_ids", "attention_mask"))
    size, channels = (getattr(settings, name, None) for name in ("image_size", "num_channels"))
    if main == "pixel_values" and isinstance(size, int) and isinstance(channels, int):
        return (f"pixel_values=float32[batch,{channels},{size},{size}]",)
    return ()
