"""Boxes and classes of images: what a bundle prints, by `edgekit run` and by its own `run.py`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image, ImageDraw

from edgekit.runtime.manifest import read_manifest, write_manifest
from tests.conftest import Cli, Ran

NETS = '''
import torch
import torch.nn as nn
import torch.nn.functional as F


class Detector(nn.Module):
    """A blob detector without training: every cell asks for the colour of its pixels. Three outputs."""

    def __init__(self, size=96, stride=8):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 2, 1)
        self.stride = stride
        y, x = torch.meshgrid(torch.arange(size // stride), torch.arange(size // stride), indexing="ij")
        self.register_buffer("centres", (torch.stack([x, y], -1).reshape(-1, 2) + 0.5) * stride)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()
            self.head.bias.fill_(-6)
            for colour in range(3):
                self.stem.weight[colour, colour, 1, 1] = 1
                self.head.weight[:, colour] = -12
            for wanted in range(2):
                self.head.weight[wanted, wanted] = 12

    def forward(self, image):
        features = F.avg_pool2d(F.relu(self.stem(image)), self.stride)
        scores = self.head(features).flatten(2).transpose(1, 2)
        sizes = 0 * scores + self.stride
        boxes = torch.cat([self.centres.expand_as(sizes), sizes], -1)
        return {"boxes": boxes, "scores": scores, "features": features}


detector = Detector
'''
GRAPH = """<ir_version: 8, opset_import: ["" : 17]>
main (float[batch,3,96,96] image) => (float[batch,n,4] boxes, int64[n,1] classes) {
  small = AveragePool<kernel_shape = [8, 8], strides = [8, 8]>(image)
  raw = Conv(small, weight, bias)
  prob = Sigmoid(raw)
  per_class = Reshape(prob, shape)
  best = ReduceMax<axes = [1, 2]>(per_class)
  nought = Mul(best, zero)
  corners = Add(cells, nought)
  chosen = NonMaxSuppression(corners, per_class, most, iou, score)
  index = Slice(chosen, two, three, one)
  rows = Squeeze(index, one)
  boxes = Gather<axis = 1>(corners, rows)
  classes = Slice(chosen, one, two, one)
}"""
"""As a stranger exports it: boxes and classes are chosen inside."""
CLASSIFIER = """<ir_version: 8, opset_import: ["" : 17]>
main (float[batch,3,8,8] image) => (float[batch,3] logits) {
  mean = GlobalAveragePool(image)
  logits = Flatten(mean)
}"""
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
SEEN = {"red": [160, 32, 176, 48], "green": [96, 64, 112, 80]}
"""Squares in pixels of an image of 192 x 96; each is one cell of the input, with bars above and below."""
DECODE = "boxes=boxes,scores=scores,format=cxcywh,activation=sigmoid,score=0.25,iou=0.45"


def write_graph(path: Path) -> None:
    y, x = np.mgrid[:12, :12].reshape(2, -1).astype(np.float32) * 8
    constants = {
        "weight": np.array([[12, -12, -12], [-12, 12, -12]], np.float32).reshape(2, 3, 1, 1),
        "bias": np.full(2, -6, np.float32), "zero": np.float32(0), "shape": np.array([0, 2, -1]),
        "cells": np.stack([y, x, y + 8, x + 8], -1)[None],
        "most": np.array([20]), "iou": np.array([0.45], np.float32), "score": np.array([0.25], np.float32),
        "one": np.array([1]), "two": np.array([2]), "three": np.array([3]),
    }  # fmt: skip
    model = onnx.parser.parse_model(GRAPH)
    model.graph.initializer.extend(numpy_helper.from_array(one, name) for name, one in constants.items())
    onnx.save(model, path)


def draw(path: Path, squares: dict[tuple[int, int, int], list[int]]) -> None:
    image = Image.new("RGB", (192, 96))
    for colour, (left, top, right, bottom) in squares.items():
        ImageDraw.Draw(image).rectangle([left, top, right - 1, bottom - 1], fill=colour)
    image.save(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a stranger works in."""
    folder = tmp_path_factory.mktemp("stranger")
    (folder / "nets.py").write_text(NETS)
    (folder / "names.txt").write_text("red\ngreen\n")
    (folder / "colours.json").write_text('{"red": 0, "green": 1, "blue": 2}')
    write_graph(folder / "chosen.onnx")
    onnx.save(onnx.parser.parse_model(CLASSIFIER), folder / "classifier.onnx")
    draw(folder / "street.png", {RED: SEEN["red"], GREEN: SEEN["green"], BLUE: [8, 8, 40, 40]})
    (folder / "images").mkdir()
    random = np.random.default_rng(0)
    for index in range(32):
        pixels = random.integers(0, 256, (6, 12, 3)).astype(np.uint8).repeat(16, 0).repeat(16, 1)
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
    return folder


Made = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def made(place: Path, edgekit: Cli) -> Made:
    """The bundle of a network for a target, compiled once."""
    words = {
        "detector": ["nets:detector", "--input", "image=float32[batch:1..2,3,96,96]", "--decode", DECODE],
        "chosen": ["chosen.onnx", "--input", "image=[batch:1..2,3,96,96]"],
        "classifier": ["classifier.onnx", "--input", "image=[batch:1..2,3,8,8]"],
    }  # fmt: skip
    labels = {"classifier": ["--labels", "colours.json", "--preprocess", "size=8x8"]}
    boxes = ["--labels", "names.txt", "--preprocess", "size=96x96,fit=letterbox"]
    int8 = ["--precision", "int8", "--calibration", "images"]

    def get(name: str, target: str) -> Path:
        output = place / f"{name}-{target}"
        if not output.exists():
            extra = int8 if (name, target) == ("detector", "openvino") else []
            said = [*words[name], *labels.get(name, boxes), *extra, "--json"]
            ran = edgekit("compile", *said, "-t", target, "-o", output, cwd=place)
            assert ran.code == 0, ran.err
        return output

    return get


def infer(bundle: Path, *arguments: str | Path) -> Ran:
    """`run.py infer`, as on a board: nothing of edgekit is importable."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-I", bundle / "run.py", "infer", *arguments],
        capture_output=True, text=True, timeout=120, env=environment, cwd=bundle,
    )  # fmt: skip
    return Ran(done.returncode, done.stdout, done.stderr)


def agrees(boxes: list[dict[str, Any]]) -> None:
    assert {box["label"] for box in boxes} == set(SEEN)
    assert len(boxes) == len(SEEN)
    for box in boxes:
        np.testing.assert_allclose(box["box"], SEEN[box["label"]], atol=0.5)
        assert box["score"] > 0.9


@pytest.mark.parametrize("target", ["openvino", pytest.param("onnxruntime", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["detector", "chosen"])
def test_boxes_are_told_in_pixels_of_the_image(
    name: str, target: str, made: Made, place: Path, edgekit: Cli
) -> None:
    bundle = made(name, target)
    ran = edgekit("run", bundle, "street.png", "--json", cwd=place)
    assert ran.code == 0, ran.err
    agrees(ran.json[0]["answer"])
    alone = infer(bundle, place / "street.png", "--json")
    assert alone.code == 0, alone.err
    assert alone.json["answer"] == ran.json[0]["answer"]


def test_one_line_a_box(made: Made, place: Path, edgekit: Cli) -> None:
    bundle = made("detector", "openvino")
    ran = edgekit("run", bundle, "street.png", cwd=place)
    rows = {line.split()[0]: [float(word) for word in line.split()[1:]] for line in ran.out.splitlines()}
    assert {label: row[1:] for label, row in rows.items()} == SEEN
    assert infer(bundle, place / "street.png").out == ran.out
    both = edgekit("run", bundle, "street.png", "street.png", cwd=place)
    assert both.out.splitlines() == [f"street.png\t{line}" for line in 2 * ran.out.splitlines()]


@pytest.mark.parametrize("target", ["openvino", pytest.param("onnxruntime", marks=pytest.mark.slow)])
def test_a_graph_that_suppresses_inside_hands_out_what_it_chose_from(target: str, made: Made) -> None:
    bundle = made("chosen", target)
    manifest = read_manifest(bundle)
    assert [spec.name for spec in manifest.outputs] == ["boxes", "scores"]
    assert manifest.detection is not None
    told = (manifest.detection.format, manifest.detection.score, manifest.detection.most_per_class)
    assert told == ("yxyx", 0.25, 20)
    nodes = onnx.load(bundle / "model.onnx").graph.node
    assert "NonMaxSuppression" not in {node.op_type for node in nodes}
    assert "NonMaxSuppression" in (bundle / "report.json").read_text()


def test_a_bundle_of_boxes_is_proved_again(made: Made, place: Path, edgekit: Cli) -> None:
    ran = edgekit("check", made("chosen", "onnxruntime"), "--json", cwd=place)
    assert (ran.code, ran.json["passed"]) == (0, True), ran.err


def test_labels_name_the_class_of_a_classifier(made: Made, place: Path, edgekit: Cli) -> None:
    draw(place / "sky.png", {BLUE: [0, 0, 192, 96]})
    bundle = made("classifier", "onnxruntime")
    assert edgekit("run", bundle, "sky.png", cwd=place).out == "blue\n"
    assert infer(bundle, place / "sky.png").out == "blue\n"


def test_without_labels_the_best_are_told_by_index(made: Made, place: Path, edgekit: Cli) -> None:
    draw(place / "leaf.png", {GREEN: [0, 0, 192, 96], RED: [0, 0, 96, 96]})
    bundle = place / "nameless"
    shutil.copytree(made("classifier", "onnxruntime"), bundle)
    write_manifest(replace(read_manifest(bundle), labels=None), bundle)
    ran = edgekit("run", bundle, "leaf.png", "--json", cwd=place)
    assert [row["index"] for row in ran.json[0]["answer"]["top"]] == [0, 1, 2]
    first = edgekit("run", bundle, "leaf.png", cwd=place).out.splitlines()[0].split()
    assert (first[0], float(first[1])) == ("0", pytest.approx(0.5))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("classifier.onnx", "--labels", "names.txt"), ("names.txt has 2 names", "has 3 classes")),
        (("classifier.onnx", "--decode", "boxes=boxes"), ("no output 'boxes'",)),
        (("crnn", "--decode", "boxes=boxes"), ("crnn is a recipe", "decode")),
        (("classifier.onnx", "--decode", "form=xyxy"), ("no key 'form'",)),
    ],
)
def test_what_cannot_be_is_refused(
    words: tuple[str, ...], said: tuple[str, ...], place: Path, edgekit: Cli
) -> None:
    ran = edgekit("compile", *words, "-t", "onnxruntime", cwd=place)
    assert ran.code == 2, ran.err
    assert all(part in ran.err for part in said), ran.err
