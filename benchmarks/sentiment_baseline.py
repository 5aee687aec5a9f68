"""TF-IDF with logistic regression on the sentences that the Transformer is trained and judged on.

    python benchmarks/sentiment_baseline.py

Words and pairs of words; the strength of the regularisation is chosen on the validation split, the test
split is looked at once. The carried network's score of the same split is printed beside it.
"""

from __future__ import annotations

import json
from typing import Any

from edgekit import cache, registry
from edgekit.data.sentiment import texts

STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Inverse strengths C that are tried."""


def main() -> None:
    """Print both scores as one JSON document."""
    print(json.dumps({"split": "test", **baseline(), **network()}, indent=1))


def baseline() -> dict[str, Any]:
    """The accuracy of TF-IDF with logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    said = {split: texts(split, cache.folder()) for split in ("train", "validation", "test")}
    inputs = {split: [text.text for text in found] for split, found in said.items()}
    targets = {split: [text.label for text in found] for split, found in said.items()}
    fitted = [
        make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=C, max_iter=2000)
        ).fit(inputs["train"], targets["train"])
        for C in STRENGTHS
    ]
    scores = [model.score(inputs["validation"], targets["validation"]) for model in fitted]
    best = scores.index(max(scores))
    return {
        "samples": len(inputs["test"]),
        "baseline": round(float(fitted[best].score(inputs["test"], targets["test"])), 4),
        "baseline_validation": round(float(scores[best]), 4),
        "C": STRENGTHS[best],
    }


def network() -> dict[str, Any]:
    """What the provenance of the carried weights says."""
    told = json.loads((registry.recipes_folder() / "transformer.provenance.json").read_text(encoding="utf-8"))
    scores = told["scores"]
    return {"network": scores["test"]["value"], "network_validation": scores["validation"]["value"]}


if __name__ == "__main__":
    main()
