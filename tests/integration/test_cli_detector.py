"""The built-in detector on images and boxes of one's own: what is printed, and how mistakes are told."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from edgekit.data import digit_scenes
from tests.conftest import Cli, Ran

COUNT, FEW = 24, 12
SIDE = 96


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as YOLO's are, of scenes of the test split."""
    folder = tmp_path_factory.mktemp("mine")
    scenes = digit_scenes.load("test", digit_scenes.Options(), folder)
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for index in range(COUNT):
        picture, objects = scenes.scene(index)
        Image.fromarray(picture).save(folder / "images" / f"{index:02d}.png")
        lines = [
            f"{kind} {(x1 + x2) / 2 / SIDE} {(y1 + y2) / 2 / SIDE} {(x2 - x1) / SIDE} {(y2 - y1) / SIDE}\n"
            for kind, (x1, y1, x2, y2) in zip(objects.classes, objects.boxes.tolist(), strict=True)
        ]
        (folder / "labels" / f"{index:02d}.txt").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def compiled(edgekit: Cli, mine: Path) -> Ran:
    bundle = mine / "bundle"
    return edgekit(
        "compile", "detector", "--target", "onnxruntime", "--precision", "int8",
        "--data", mine, "--output", bundle, "--set", "limits.max_drop=0.05", "--json", cwd=mine,
    )  # fmt: skip


def test_a_detector_is_judged_by_map50_on_ones_own_boxes(compiled: Ran) -> None:
    assert compiled.code == 0, compiled.err
    told = compiled.json["accuracy"]
    assert (told["metric"], told["samples"]) == ("map50", COUNT)
    assert told["reference"] > 0.8
    assert compiled.json["layers"]["int8"] > 10


def test_of_few_images_no_interval_is_told(compiled: Ran, edgekit: Cli, mine: Path, tmp_path: Path) -> None:
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
        for path in sorted((mine / name).iterdir())[:FEW]:
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
    ran = edgekit("check", mine / "bundle", "--data", tmp_path, "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["accuracy"]["samples"], ran.json["accuracy"]["drop_interval"]) == (FEW, None)
    assert "Infinity" not in ran.out


def test_run_prints_the_boxes_that_are_there(compiled: Ran, edgekit: Cli, mine: Path) -> None:
    image, label = mine / "images" / "00.png", mine / "labels" / "00.txt"
    wanted = [[float(word) for word in line.split()] for line in label.read_text().splitlines()]
    ran = edgekit("run", mine / "bundle", image, "--json")
    assert ran.code == 0, ran.err
    found = ran.json[0]["answer"]
    near = [
        sum(abs(side - SIDE * centre) for side, centre in zip(_centre(box["box"]), one[1:3], strict=True)) < 6
        for one in wanted
        for box in found
        if box["class"] == one[0]
    ]
    assert sum(near) >= len(wanted) / 2
    assert all(box["score"] > 0.25 for box in found), "weaker ones are for judging"


def _centre(box: list[float]) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def test_a_bad_line_is_named_with_its_place(compiled: Ran, edgekit: Cli, mine: Path) -> None:
    (mine / "labels" / "05.txt").write_text("3 0.5 0.5 0.1 0.1\n12 0.5 0.5 0.1 0.1\n")
    ran = edgekit("check", mine / "bundle", "--data", mine, "--json")
    assert ran.code == 6
    assert "05.txt, line 2: there is no class 12" in ran.json["error"]["message"]
    assert ran.json["error"]["hint"]
