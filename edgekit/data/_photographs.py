"""Photographs that pip packages carry, each in one split: what other pictures are laid upon."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from edgekit.runtime.errors import BadFileError, MissingPackageError
from edgekit.runtime.manifest import sha256_of
from edgekit.runtime.preprocess import read_image
from edgekit.spec import Source

INSTALL = "pip install 'edgekit-deploy[train]'"
SKIMAGE, SKLEARN, MATPLOTLIB = "skimage/data", "sklearn/datasets/images", "matplotlib/mpl-data/sample_data"
SOURCES = (
    Source(
        name="Photographs: brick, camera, chelsea, coffee, grass, gravel, retina",
        licence="CC0-1.0",
        package="scikit-image",
    ),
    Source(
        name="Photographs: astronaut, coins, hubble, ihc, rocket",
        licence="public domain",
        package="scikit-image",
    ),
    Source(name="Photographs: china, flower", licence="CC-BY-2.0", package="scikit-learn"),
    Source(name="Photograph: Grace Hopper", licence="public domain", package="matplotlib"),
)
FILES = {
    "train": (
        (SKLEARN, "china.jpg", "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29"),
        (MATPLOTLIB, "grace_hopper.jpg", "a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130"),
        (SKIMAGE, "coffee.png", "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7"),
        (SKIMAGE, "camera.png", "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a"),
        (SKIMAGE, "brick.png", "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf"),
        (SKIMAGE, "grass.png", "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89"),
        (
            SKIMAGE,
            "hubble_deep_field.jpg",
            "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
        ),
        (SKIMAGE, "ihc.png", "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef"),
        (SKIMAGE, "retina.jpg", "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6"),
    ),
    "validation": (
        (SKIMAGE, "coins.png", "f8d773fc9cfa6f4d8e5942dc34d0a0788fcaed2a4fefbbed0aef5398d7ef4cba"),
        (SKIMAGE, "rocket.jpg", "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c"),
    ),
    "test": (
        (SKLEARN, "flower.jpg", "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638"),
        (SKIMAGE, "astronaut.png", "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5"),
        (SKIMAGE, "chelsea.png", "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb"),
        (SKIMAGE, "gravel.png", "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12"),
    ),
}
"""Folder, file and hash of each; calibration takes those of training."""
DISTRIBUTIONS = {"skimage": "scikit-image", "sklearn": "scikit-learn"}


@lru_cache(maxsize=len(FILES))
def photographs(split: str) -> tuple[np.ndarray, ...]:
    """The photographs of a split in colour: uint8 (height, width, 3) each.

    Raises:
        MissingPackageError: a package that carries one of them is not installed.
        BadFileError: a file is not the one that is known.
    """
    return tuple(_read(*known) for known in FILES["train" if split == "calibration" else split])


def _read(folder: str, name: str, sha256: str) -> np.ndarray:
    package, _, inside = folder.partition("/")
    found = find_spec(package)
    path = Path((found and found.origin) or "").parent / inside / name
    if not path.is_file():
        package = DISTRIBUTIONS.get(package, package)
        raise MissingPackageError(f"the photograph {name} is not here: the package {package} has it", INSTALL)
    if sha256_of(path) != sha256:
        raise BadFileError(f"{path}: not the photograph that is known", f"reinstall it: {INSTALL}")
    image = read_image(path)
    return np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image
