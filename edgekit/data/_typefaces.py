"""Fonts and words that pip brings, found without importing the packages that carry them."""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from edgekit.runtime.errors import BadFileError, MissingPackageError
from edgekit.spec import Source

INSTALL = "pip install 'edgekit-deploy[train]'"


@dataclass(frozen=True, kw_only=True)
class Family:
    """A type family: the package that carries it, its files, and the split that alone may use it."""

    name: str
    module: str
    pattern: str
    styles: tuple[str, ...]
    source: Source
    split: str = "train"

    @property
    def files(self) -> tuple[str, ...]:
        """Paths inside the package."""
        return tuple(self.pattern.format(style) for style in self.styles)


def _matplotlibs(name: str, pattern: str, styles: tuple[str, ...], licence: str) -> Family:
    source = Source(name=name, licence=licence, package="matplotlib")
    return Family(
        name=name,
        module="matplotlib",
        pattern=f"mpl-data/fonts/ttf/{pattern}.ttf",
        styles=styles,
        source=source,
    )


def _packaged(name: str, file: str, styles: str, licence: str = "OFL-1.1", split: str = "train") -> Family:
    package = f"font-{name.lower().replace(' ', '-')}"
    return Family(
        name=name,
        module=package.replace("-", "_"),
        pattern=f"files/{file}",
        styles=tuple(styles.split()),
        source=Source(name=name, licence=licence, package=package),
        split=split,
    )


_DEJAVU = "Bitstream Vera licence, Arev licence"
_SOURCE_STYLES = "Light Regular Semibold Bold Black It LightIt BoldIt"

FAMILIES = (
    _matplotlibs("DejaVu Sans", "DejaVuSans{}", ("", "-Bold", "-Oblique", "-BoldOblique"), _DEJAVU),
    _matplotlibs("DejaVu Serif", "DejaVuSerif{}", ("", "-Bold", "-Italic", "-BoldItalic"), _DEJAVU),
    _matplotlibs("DejaVu Sans Mono", "DejaVuSansMono{}", ("", "-Bold", "-Oblique"), _DEJAVU),
    _matplotlibs("STIX", "STIXGeneral{}", ("", "Bol", "Italic", "BolIta"), "OFL-1.1"),
    _matplotlibs("Computer Modern", "cm{}10", ("r", "b", "ti", "ss", "tt"), "BaKoMa Fonts Licence, OFL-1.1"),
    _packaged(
        "Roboto", "Roboto-{}.ttf", "Light Regular Bold Black Italic LightItalic BoldItalic", "Apache-2.0"
    ),
    _packaged("Source Sans Pro", "SourceSansPro-{}.ttf", _SOURCE_STYLES),
    _packaged("Source Serif Pro", "SourceSerifPro-{}.ttf", _SOURCE_STYLES),
    _packaged("Fredoka One", "FredokaOne-{}.ttf", "Regular"),
    _packaged("Manrope", "Manrope-{}.ttf", "Light Regular Medium SemiBold ExtraBold", split="validation"),
    _packaged("Caladea", "Caladea-{}.ttf", "Regular Bold Italic BoldItalic", "Apache-2.0", split="test"),
    _packaged(
        "Hanken Grotesk",
        "HankenGrotesk-{}.otf",
        "Light Regular Medium SemiBold Bold Italic BoldItalic",
        split="test",
    ),
)

WORDS = Source(name="English word list", licence="MIT", package="pyspellchecker")
WORD_LENGTHS = range(2, 17)
_HELD_OUT = {"validation": range(80, 85), "test": range(85, 100)}


def sources() -> tuple[Source, ...]:
    """Every font and the word list, each once."""
    return tuple(dict.fromkeys([family.source for family in FAMILIES] + [WORDS]))


def families(split: str) -> tuple[Family, ...]:
    """The type families of a split: `train`, `validation` or `test`."""
    return tuple(family for family in FAMILIES if family.split == split)


@cache
def faces(family: Family) -> tuple[Path, ...]:
    """The font files of a family.

    Raises:
        MissingPackageError: the package that carries them is not installed, or lacks a file.
    """
    folder = _folder(family.module, family.source)
    paths = tuple(folder / file for file in family.files)
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise MissingPackageError(
            f"{family.source.package}: font file {missing[0].name} is not there", INSTALL
        )
    return paths


@cache
def words(split: str) -> tuple[str, ...]:
    """The words of a split, sorted; which split a word belongs to depends on its hash alone."""
    return tuple(word for word in _all_words() if _split_of(word) == split)


@cache
def _all_words() -> tuple[str, ...]:
    path = _folder("spellchecker", WORDS) / "resources" / "en.json.gz"
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            known = json.load(file)
    except (OSError, EOFError, ValueError) as cause:
        raise BadFileError(f"{path}: the word list cannot be read", f"reinstall it: {INSTALL}") from cause
    usable = (word for word in known if word.isascii() and word.isalpha() and word.islower())
    return tuple(sorted(word for word in usable if len(word) in WORD_LENGTHS))


def _split_of(word: str) -> str:
    percent = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big") % 100
    return next((split for split, percents in _HELD_OUT.items() if percent in percents), "train")


def _folder(module: str, source: Source) -> Path:
    found = find_spec(module)
    if found is None or found.origin is None:
        raise MissingPackageError(f"{source.name}: the package {source.package} is not installed", INSTALL)
    return Path(found.origin).parent
