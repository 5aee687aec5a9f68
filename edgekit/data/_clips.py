"""A user's own folder of labelled clips.

Two layouts are read: one sub-folder per class (`left/drive.gif`), or clips beside a `labels.tsv` whose lines
are `clip<TAB>label`. A clip is a folder of numbered frames, a GIF, an animated PNG or WebP, or an `.npy` of
uint8, (time, height, width) or (time, height, width, 3).
"""

from __future__ import annotations

from pathlib import Path

from edgekit.data._folder import CLIP, FolderDataset, Listed, labelled
from edgekit.runtime.clips import CLIP_SUFFIXES, prepare_clip, read_clip
from edgekit.runtime.manifest import Labels, Preprocess
from edgekit.spec import Sample


class ClipDataset(FolderDataset):
    """Labelled clips, read when they are asked for: `Sample.inputs[0]` is (time, channels, height, width)."""

    def __getitem__(self, index: int, /) -> Sample:
        path, target = self._pairs[index]
        return Sample((prepare_clip(read_clip(path), self._preprocess)[0],), target)


def load_clips(folder: Path, preprocess: Preprocess, labels: Labels) -> ClipDataset:
    """The labelled clips of a folder.

    Raises:
        BadFileError: the folder is missing, unreadable or holds no clips, or a label is not one of
            `labels`; names the file and the line.
    """
    return ClipDataset(labelled(folder, labels, CLIP, _by_class), preprocess)


def _by_class(folder: Path) -> Listed:
    """The clips of every sub-folder."""
    found = sorted(
        path for path in folder.glob("*/*") if path.is_dir() or path.suffix.lower() in CLIP_SUFFIXES
    )
    return [(path, path.parent.name, str(path)) for path in found]
