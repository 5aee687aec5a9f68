"""A user's own metric: where it comes from, what it is called with, and who is blamed."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest

from edgekit.runtime.errors import BadFileError, UsageError
from edgekit.runtime.manifest import Labels, TensorSpec
from edgekit.tasks._own import OwnTask, own_task


def logits(*rows: list[float]) -> list[dict[str, np.ndarray]]:
    return [{"logits": np.array(row, np.float32), "other": np.zeros(3)} for row in rows]


def written(folder: Path, code: str, name: str = "my_metric") -> Path:
    path = folder / f"{name}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(dedent(code))
    return path


def refused(metric: str, folder: Path) -> UsageError:
    before = list(sys.path)
    with pytest.raises(UsageError) as caught:
        own_task(metric, folder)
    assert sys.path == before
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value


def test_a_function_is_called_once_per_sample(tmp_path: Path) -> None:
    written(tmp_path, """
        import my_helper
        def score(prediction, truth):
            from my_late_helper import scale
            assert set(prediction) == {"logits", "other"}
            return my_helper.first(prediction["logits"]) * scale + truth
    """)  # fmt: skip
    written(tmp_path, "def first(row):\n    return row[0]\n", "my_helper")
    written(tmp_path, "scale = 10\n", "my_late_helper")
    before = list(sys.path)
    task = own_task("my_metric:score", tmp_path)
    found = task.scores(logits([1, 2], [3, 4]), [0.5, 1])
    assert found.tolist() == [10.5, 31.0]
    assert found.dtype == np.float64
    assert task.METRIC == "my_metric:score"
    assert sys.path == before


def test_the_same_name_in_another_folder_is_another_module(tmp_path: Path) -> None:
    for folder, value in (("a", 1), ("b", 2)):
        written(tmp_path / folder, f"def score(outputs, target):\n    return {value}\n")
        assert own_task("my_metric:score", tmp_path / folder).scores(logits([0]), [0]).tolist() == [value]


def test_a_metric_in_a_package_and_one_of_an_object(tmp_path: Path) -> None:
    written(tmp_path / "my_package", "", "__init__")
    written(tmp_path / "my_package", """
        class Threshold:
            def __call__(self, outputs, target, threshold=0.5):
                return (outputs["logits"] > threshold).all()
        above = Threshold()
    """)  # fmt: skip
    task = own_task("my_package.my_metric:above", tmp_path)
    assert task.scores(logits([1, 2], [0, 2]), [0, 0]).tolist() == [1.0, 0.0]


def test_a_function_cannot_change_what_is_compared_next(tmp_path: Path) -> None:
    written(tmp_path, """
        def score(outputs, target):
            outputs["logits"] += 1
            target.sort()
            return outputs["logits"].sum()
    """)  # fmt: skip
    task, answers, targets = own_task("my_metric:score", tmp_path), logits([1, 2]), [np.array([2, 1])]
    assert task.scores(answers, targets) == task.scores(answers, targets) == [5.0]
    assert targets[0].tolist() == [2, 1]


def test_what_user_code_prints_leaves_standard_output_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path, """
        print("importing")
        def score(outputs, target):
            print("scoring")
            return 0
    """)  # fmt: skip
    own_task("my_metric:score", tmp_path).scores(logits([0]), [0])
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "importing\nscoring\n"


@pytest.mark.parametrize(
    ("code", "said", "hint"),
    [
        ("import numpy\n\n1 / 0\n", "ZeroDivisionError: division by zero, at {file}, line 3", "correct it"),
        (
            "def score(outputs, target)\n    return 1\n",
            "SyntaxError: expected ':', at {file}, line 1",
            "correct",
        ),
        ("x = 1\nimport no_such_package_at_all\n", "at {file}, line 2", "install 'no_such_package_at_all'"),
        ("import sys\nsys.exit('bye')\n", "SystemExit: bye, at {file}, line 2", "correct"),
        ("score = 3\n", "has something that cannot be called as 'score'", "check"),
        ("def scores(a, b): return 1\n", "{file} has no function 'score'", "did you mean my_metric:scores?"),
        (
            "def score(a): return 1\n",
            "{file}, line 1: my_metric:score is called with (outputs, target)",
            "def",
        ),
        ("\ndef score(a, b, *, c): return 1\n", "{file}, line 2: my_metric:score is called", "def score("),
        ("x = '\0'\n", "{folder}", "correct"),
    ],
)
def test_what_cannot_be_imported_or_called_is_blamed_by_line(
    tmp_path: Path, code: str, said: str, hint: str
) -> None:
    path = written(tmp_path, code)
    found = refused("my_metric:score", tmp_path)
    assert said.format(file=path, folder=tmp_path) in found.message
    assert hint in found.hint
    assert found.exit_code == 2


def test_an_error_in_a_helper_is_blamed_there(tmp_path: Path) -> None:
    written(tmp_path, "import my_broken_helper\ndef score(a, b): return 1\n")
    helper = written(tmp_path, "\n\nraise ValueError('two\\nlines')\n", "my_broken_helper")
    assert f"ValueError: two, at {helper}, line 3" in refused("my_metric:score", tmp_path).message


def test_a_module_that_is_not_there(tmp_path: Path) -> None:
    written(tmp_path, "def score(a, b): return 1\n")
    found = refused("my_metrik:score", tmp_path)
    assert f"there is no module 'my_metrik' in {tmp_path}" in found.message
    assert "'my_metric'" in found.hint
    refused("no_such_package_at_all.my_metric:score", tmp_path)


@pytest.mark.parametrize("text", ["a:", ":b", "a:b:c", "a b:c", "../a:b", "a.py:b-c", "-:x"])
def test_what_is_no_module_and_function(tmp_path: Path, text: str) -> None:
    assert "is not MODULE:FUNCTION" in refused(text, tmp_path).message


def test_a_file_with_the_name_of_a_module_of_python(tmp_path: Path) -> None:
    path = written(tmp_path, "def score(a, b): return 1\n", "statistics")
    import statistics

    assert f"{path} has the name of a module of Python" in refused("statistics:score", tmp_path).message
    assert sys.modules["statistics"] is statistics


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return float('nan')", "line 2 gave nan for sample 1"),
        ("return float('inf')", "line 2 gave inf for sample 1"),
        ("return None", "gave None for sample 1, which is not a number"),
        ("return '0.5'", "gave '0.5' for sample 1, which is not a number"),
        ("return outputs['logits']", "which is not a number"),
        ("return {}['gone']", "raised KeyError: 'gone' for sample 1, at {file}, line 5"),
        ("import sys; sys.exit(3)", "raised SystemExit: 3 for sample 1, at {file}, line 5"),
        ("import numpy; numpy.stack([])", "for sample 1, at {file}, line 5"),
    ],
)
def test_a_function_that_fails_is_blamed_by_sample_and_line(tmp_path: Path, body: str, said: str) -> None:
    path = written(tmp_path, f"""
        def score(outputs, target):
            if target == 0:
                return 1
            {body}
    """)  # fmt: skip
    task = own_task("my_metric:score", tmp_path)
    with pytest.raises(UsageError) as caught:
        task.scores(logits([1, 2], [3, 4]), [0, 1])
    assert said.format(file=path) in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_an_engine_that_gives_nan_is_not_the_functions_fault(tmp_path: Path) -> None:
    written(tmp_path, "def score(outputs, target): return outputs['logits'].sum()\n")
    for metric in ("my_metric:score", "mse"):
        with pytest.raises(UsageError, match=r"gave .*nan for sample 0") as caught:
            own_task(metric, tmp_path).scores(logits([np.nan, 1]), [np.zeros(2)])
        assert "'logits' itself is not finite" in caught.value.hint


def word(name: str) -> OwnTask:
    return own_task(name, Path("nowhere"))


def test_accuracy() -> None:
    answers = logits([0, 2, 1], [5, 0, 0], [np.nan, 1, 2], [0, 0, 0])
    targets = [1, np.int32(2), 0, np.array([0])]
    assert word("accuracy").scores(answers, targets).tolist() == [1, 0, 0, 1]
    assert word("accuracy").METRIC == "accuracy"
    column = [{"logits": np.array([0, 1]).reshape(2, 1, 1)}]
    assert word("accuracy").scores(column, [1]).tolist() == [1]


def test_top5() -> None:
    rows = logits([9, 8, 7, 6, 5, 4], [9, 8, 7, 6, 5, 4], [0] * 6)
    assert word("top5").scores(rows, [4, 5, 5]).tolist() == [1, 0, 0]
    with pytest.raises(UsageError, match="always right with 5 classes"):
        word("top5").scores(logits([1, 2, 3, 4, 5]), [0])


@pytest.mark.parametrize(
    ("row", "target", "said"),
    [
        ([1, 2], "cat", "needs the index of a class, and the target of sample 0 is 'cat'"),
        ([1, 2], 1.0, "needs the index of a class"),
        ([1, 2], [0, 1], "needs the index of a class"),
        ([1, 2], 2, "target of sample 0 is 2, and 'logits' has 2 classes"),
        ([1, 2], -1, "target of sample 0 is -1"),
        ([1, 2], None, "no target for sample 0"),
        ([1], 0, "needs one row of class scores"),
        ([[1, 2], [3, 4]], 0, r"needs one row of class scores .* shape \(2, 2\)"),
    ],
)
def test_what_accuracy_cannot_use(row: Any, target: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        word("accuracy").scores(logits(row), [target])
    assert caught.value.hint


def test_errors_are_negated_so_that_a_drop_is_a_worsening() -> None:
    answers = logits([1, 3], [0, 0])
    targets = [np.array([[1], [1]]), [0.0, 3.0]]
    assert word("mse").scores(answers, targets).tolist() == [-2.0, -4.5]
    assert word("mae").scores(answers, targets).tolist() == [-1.0, -1.5]
    assert (word("mse").METRIC, word("mae").METRIC) == ("negative mse", "negative mae")
    for target in ([1, 2, 3], "text"):
        with pytest.raises(UsageError, match="mse needs targets like the first output"):
            word("mse").scores(answers[:1], [target])


def test_word_accuracy_reads_by_the_labels() -> None:
    labels = Labels(("", "a", "b"), decoder="ctc")
    steps = np.eye(3, dtype=np.float32)[[1, 1, 0, 2]]
    task = own_task("word_accuracy", Path(), labels)
    assert task.scores([{"logits": steps}, {"logits": steps}], ["ab", "aab"]).tolist() == [1, 0]
    with pytest.raises(BadFileError):
        task.scores([{"logits": steps[:, :2]}], ["ab"])
    assert "the network has no labels" in refused("word_accuracy", Path()).message


def test_a_word_that_is_misspelt() -> None:
    assert refused("acuracy", Path()).hint == "did you mean 'accuracy'?"
    assert "module:function" in refused("zzz", Path()).hint


def test_a_batch_is_cut_into_samples() -> None:
    outputs = {"a": np.arange(6).reshape(3, 2), "b": np.arange(3)}
    found = word("accuracy").split(outputs, 3)
    assert [one["a"].tolist() for one in found] == [[0, 1], [2, 3], [4, 5]]
    assert [(one["b"].shape, one["b"].item()) for one in found] == [((), 0), ((), 1), ((), 2)]


def test_the_batch_axis_is_found_by_its_name() -> None:
    steps = TensorSpec("steps", ("time", "batch", 4))
    array = np.arange(24).reshape(2, 3, 4)
    found = word("accuracy").split({"steps": array, "hn": np.zeros((2, 3, 1))}, 3, (steps,))
    assert [sorted(one) for one in found] == [["steps"]] * 3
    np.testing.assert_array_equal(found[1]["steps"], array[:, 1])
    square = np.arange(9).reshape(3, 3)
    found = word("accuracy").split({"steps": square[..., None]}, 3, (steps,))
    np.testing.assert_array_equal(found[2]["steps"][:, 0], square[:, 2])


def test_one_sample_has_outputs_without_a_batch() -> None:
    boxes = TensorSpec("boxes", ("boxes.0", 6))
    fixed = TensorSpec("fixed", (100, 6))
    outputs = {"boxes": np.zeros((1, 6)), "fixed": np.zeros((100, 6)), "loss": np.array(3.0)}
    specs = (boxes, fixed, TensorSpec("loss", ()))
    (found,) = word("accuracy").split(outputs, 1, specs)
    assert {name: array.shape for name, array in found.items()} == {
        "boxes": (1, 6), "fixed": (100, 6), "loss": (),
    }  # fmt: skip
    with pytest.raises(UsageError, match=r"'fixed' of shape \(100, 6\) has no axis of 2 samples"):
        word("accuracy").split({"fixed": np.zeros((100, 6))}, 2, specs)
