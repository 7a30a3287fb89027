"""A run's checkpoints as folders on disk: which of them are whole, and which are kept.

A run's folder holds one folder for each checkpoint, named by the kilopixels seen, so that names sort by age. Each has a
manifest with the size and the SHA-256 of its files: a copy that was cut off at any moment is told by that.
"""

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FILES = ("state.pt", "config.json", "card.json")
MANIFEST = "manifest.json"
_BEST = "best.json"


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """What a run begins with."""

    checkpoint: Path | None
    """Folder of a whole checkpoint; None: initial weights."""
    said: str
    """Which of the possible ones it is, for a person."""
    damaged: tuple[str, ...] = ()
    """The run's checkpoints that are newer, but not whole, each with what is wrong with it."""


def beginning(folder: Path, resume: str = "") -> Beginning:
    """What a run begins with, in this order: the newest whole checkpoint in its folder; the one that `train.resume`
    names; its initial weights."""
    newest, damaged = newest_whole(folder)
    if newest is not None:
        return Beginning(checkpoint=newest, said=f"goes on from its own checkpoint {newest}", damaged=damaged)
    if resume:
        return Beginning(checkpoint=Path(resume), said=f"goes on from train.resume: {resume}", damaged=damaged)
    return Beginning(checkpoint=None, said="begins with its initial weights", damaged=damaged)


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint in a run's folder."""
    return newest_whole(folder)[0]


def newest_whole(folder: Path) -> tuple[Path | None, tuple[str, ...]]:
    """The newest whole checkpoint in a run's folder, and what keeps each newer one from being whole."""
    damaged: list[str] = []
    for path in sorted(_checkpoints(folder), reverse=True):
        said = why_incomplete(path)
        if not said:
            return path, tuple(damaged)
        damaged.append(f"checkpoint {path} is not whole and is left out: {said}")
    return None, tuple(damaged)


def seal(folder: Path) -> None:
    """Write the manifest of a checkpoint's files."""
    manifest = {name: _digest(folder / name) for name in FILES}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2))


def why_incomplete(folder: Path) -> str:
    """What keeps a folder from being a whole checkpoint; empty for one that is."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if not isinstance(manifest, dict):
            raise ValueError("no object")
    except (OSError, ValueError) as error:
        return f"{MANIFEST}: {error}"
    wrong = [name for name in FILES if not (folder / name).is_file() or _digest(folder / name) != manifest.get(name)]
    return f"{', '.join(wrong)} missing, or not as written" if wrong else ""


def write_whole(path: Path, text: str) -> None:
    """Write a small file such that a reader sees the old or the new text, never a part."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    with fresh.open("rb") as file:
        os.fsync(file.fileno())  # else a machine that loses its power may leave an empty one
    os.replace(fresh, path)


@dataclass(frozen=True, kw_only=True)
class _Best:
    """The checkpoint with the highest score."""

    name: str
    score: float


class CheckpointStore:
    """Keeps the newest `keep` checkpoints of a run and the best, for the one process that saves them.

    Which is the best stands in a file, so that it outlasts the process.
    """

    def __init__(self, folder: Path, keep: int, minutes: float = 0.0) -> None:
        self._folder, self._keep, self._minutes = folder, keep, minutes
        self._kept_s = time.monotonic()

    def is_due(self) -> bool:
        """Whether so many minutes have passed since the last checkpoint, or since the run began; never for 0."""
        return 0 < self._minutes * 60 <= time.monotonic() - self._kept_s

    def add(self, checkpoint: Path, megapixels: float, score: float | None = None) -> Path:
        """Copy a checkpoint into the run's folder, and remove what is no longer kept there; returns its place.

        One without a score (saved between two reports) is never the best.
        """
        place = self._folder / f"kpx{round(megapixels * 1000):012d}"
        if place.exists():  # left by an attempt that ended before it was complete
            shutil.rmtree(place)
        shutil.copytree(checkpoint, place)
        best = self._best(place)
        if score is not None and math.isfinite(score) and (best is None or score > best.score):
            best = _Best(name=place.name, score=score)
            write_whole(self._folder / _BEST, json.dumps(asdict(best)))
        self._prune(place, best)
        self._kept_s = time.monotonic()
        return place

    def _best(self, newest: Path) -> _Best | None:
        """The best so far, where it is still there and not newer than the newest."""
        try:
            best = _Best(**json.loads((self._folder / _BEST).read_text()))
        except (OSError, ValueError, TypeError):  # none yet, or the disk was full
            return None
        return best if best.name <= newest.name and _is_complete(self._folder / best.name) else None

    def _prune(self, newest: Path, best: _Best | None) -> None:
        """Remove what is not to be kept; also what is newer, which the run has not gone on from: it is damaged."""
        complete = sorted(path for path in _checkpoints(self._folder) if path <= newest and _is_complete(path))
        keep = {path.name for path in complete[-self._keep :]} | ({best.name} if best else set())
        for path in list(_checkpoints(self._folder)):
            if path.name not in keep:
                shutil.rmtree(path)


def _checkpoints(folder: Path) -> Iterator[Path]:
    return folder.glob("kpx*/")


def _is_complete(folder: Path) -> bool:
    """Whether a checkpoint's files have the sizes of its manifest: what a copy that was cut off has not, without
    reading them again."""
    try:
        manifest: dict[str, dict[str, Any]] = json.loads((folder / MANIFEST).read_text())
        return all((folder / name).stat().st_size == manifest[name]["bytes"] for name in FILES)
    except (OSError, ValueError, TypeError, KeyError):
        return False


def _digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
