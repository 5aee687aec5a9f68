from __future__ import annotations

import pytest

from edgekit.declare import (
    parse_detection,
    parse_errors,
    parse_input,
    parse_inputs,
    parse_preprocess,
    parse_share,
    parse_state,
    told_detection,
    told_input,
    told_preprocess,
)
from edgekit.runtime.errors import UsageError
from edgekit.runtime.manifest import Preprocess, TensorSpec


def test_an_input_on_one_line() -> None:
    (spec,) = parse_inputs(["image=float32[batch:1..8,1,64,width:32..1024]"])
    assert spec == TensorSpec(
        "image", ("batch", 1, 64, "width"), "float32", {"batch": (1, 8), "width": (32, 1024)}
    )
    assert parse_input(told_input(spec)) == spec


def test_types_spaces_and_scalars() -> None:
    ids, mask, scale = parse_inputs(["ids = int64[batch, time:1..512]", "mask=bool[batch,time]", "scale=[]"])
    assert (ids.dtype, mask.dtype, scale.dtype) == ("int64", "bool", "float32")
    assert scale.shape == ()
    assert mask.ranges == ids.ranges == {"batch": (1, 64), "time": (1, 512)}


def test_a_dimension_without_a_range_gets_a_wide_one() -> None:
    (spec,) = parse_inputs(["x=[batch,time,10]"])
    assert spec.ranges == {"batch": (1, 64), "time": (1, 1024)}


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["image"], "NAME=TYPE"),
        (["image=float32"], "NAME=TYPE"),
        (["=float32[1]"], "NAME=TYPE"),
        (["x=float64[1]"], "float64"),
        (["x=[0,3]"], "'0'"),
        (["x=[-1,3]"], "'-1'"),
        (["x=[batch:8..1]"], "no range"),
        (["x=[batch:0..1]"], "no range"),
        (["x=[1,,3]"], "''"),
        (["x=[a,a]"], "twice"),
        (["x=[1]", "x=[2]"], "twice"),
        (["x=[t:1..4]", "y=[t:1..8]"], "two ranges"),
    ],
)
def test_what_cannot_be_read_is_named(texts: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_inputs(texts)


def test_states() -> None:
    assert parse_state(" h = hn ") == ("h", "hn")
    for text in ("h", "h=", "=hn", "h=hn=x"):
        with pytest.raises(UsageError, match="INPUT=OUTPUT"):
            parse_state(text)


def test_preprocessing() -> None:
    found = parse_preprocess(
        "size=224x224,mean=0.485/0.456/0.406,std=0.229/0.224/0.225,order=BGR,fit=letterbox"
    )
    assert found == Preprocess(
        224, 224, 3, order="BGR", fit="letterbox", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    assert parse_preprocess("size=32x*", channels=1).width == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mean=1", "size"),
        ("size=224", "size=224"),
        ("size=ax3", "invalid literal"),
        ("size=8x8,order=GBR", "GBR"),
        ("size=8x8,fit=crop", "crop"),
        ("size=8x8,mean=1/2", "one for each"),
        ("size=8x8,std=0", "above 0"),
        ("size=8x8,color=red", "'color'"),
        ("size", "KEY=VALUE"),
    ],
)
def test_preprocessing_that_makes_no_sense(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_preprocess(text)


def test_preprocessing_and_back() -> None:
    for text in (
        "size=32x*,channels=1",
        "size=8x9,mean=0.5/0.25/0.125,std=2,order=BGR,fit=letterbox,fill=114",
    ):
        found = parse_preprocess(text)
        assert parse_preprocess(told_preprocess(found)) == found


def test_shares() -> None:
    assert parse_share("0.5%", "--max-drop") == parse_share("0.005", "--max-drop") == 0.005
    assert parse_share("100 %", "--max-error") == 1
    for text in ("0", "0%", "101%", "1.1", "-1%", "x", "", "nan", "%"):
        with pytest.raises(UsageError, match="100%"):
            parse_share(text, "--max-drop")


def test_errors_for_all_outputs_and_for_single_ones() -> None:
    assert parse_errors(["5%", "scores=2%", " a=b = 0.01"]) == (0.05, {"scores": 0.02, "a=b": 0.01})
    assert parse_errors([]) == (None, {})
    for texts, said in (
        (["5%", "2%"], "twice for all outputs"),
        (["a=5%", "a=5%"], "twice for 'a'"),
        (["a=x"], "100%"),
        (["a="], "100%"),
    ):
        with pytest.raises(UsageError, match=said):
            parse_errors(texts)


def test_detections_are_read_and_told() -> None:
    text = "boxes=b,scores=s,format=cxcywh,normalized=true,activation=sigmoid,score=0.3,iou=0.5,most=100"
    said = parse_detection(text)
    assert said == {
        "boxes": "b", "scores": "s", "format": "cxcywh", "normalized": True, "activation": "sigmoid",
        "score": 0.3, "iou": 0.5, "most": 100,
    }  # fmt: skip
    assert told_detection(said) == text
    assert parse_detection("") == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("boxes", "not KEY=VALUE"),
        ("box=b", "no key 'box'"),
        ("boxes=b,boxes=c", "stands twice"),
        ("iou=high", "is no number"),
        ("most=1.5", "is no number"),
        ("normalized=yes", "true or false"),
        ("format=xyz", "none of xyxy"),
        ("iou=2", "not from 0 to 1"),
    ],
)
def test_detections_that_cannot_be_are_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_detection(text)
