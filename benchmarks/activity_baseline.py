"""What the recurrent networks are held against: features by hand and logistic regression, on the same split.

    python benchmarks/activity_baseline.py

needs scikit-learn. Of each channel and of the lengths of both vectors it takes mean, spread, extremes,
quartiles, mean change and the energy of five bands; one setting, nothing is searched for.
"""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from edgekit import cache
from edgekit.data import activity

BANDS = ((1, 4), (4, 8), (8, 16), (16, 32), (32, 64))
"""Of the 128 samples' spectrum, 0.39 Hz a step."""


def split(name: str) -> tuple[np.ndarray, list[str]]:
    """Every window (n, 128, 6) of a split as it is, and its label."""
    data = activity.load(name, activity.Options(augment=0.0), cache.folder())
    samples = [data[index] for index in range(len(data))]
    return np.stack([sample.inputs[0] for sample in samples]), [sample.target for sample in samples]


def features(windows: np.ndarray) -> np.ndarray:
    """(n, 128, 6) -> (n, 104)."""
    lengths = np.linalg.norm(windows.reshape(*windows.shape[:2], 2, 3), axis=3)
    channels = np.concatenate([windows, lengths], axis=2)
    spectrum = np.abs(np.fft.rfft(channels - channels.mean(1, keepdims=True), axis=1))
    parts = [channels.mean(1), channels.std(1), *np.quantile(channels, (0, 0.25, 0.5, 0.75, 1), axis=1)]
    parts.append(np.abs(np.diff(channels, axis=1)).mean(1))
    parts += [np.log1p(spectrum[:, low:high].mean(1)) for low, high in BANDS]
    return np.concatenate(parts, axis=1)


def main() -> None:
    """Fit on the people of the training split, print the accuracy on the others."""
    windows, labels = split("train")
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    model.fit(features(windows), labels)
    for name in ("validation", "test"):
        windows, labels = split(name)
        print(f"{name:<10} {model.score(features(windows), labels):.4f} of {len(labels)} windows")


if __name__ == "__main__":
    main()
