"""What a training loop is told by, and tells to, whoever runs it.

The loop asks a context for its rank, its device and where to resume, and gives it metrics and checkpoints. Ray Train
has a context of its own (`ray_train`); the one here serves a single process: a test, a notebook, a bare machine.
"""

import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, Protocol

import torch

from swath.errors import ConfigError

Metrics = Mapping[str, float]
DeviceName = Literal["auto", "cpu", "cuda"]
Listener = Callable[[Metrics], None]
"""Whoever wants to hear of a run's reports."""


class Context(Protocol):
    """The surroundings of one worker of a run."""

    @property
    def rank(self) -> int:
        """Number of this worker, from 0."""

    @property
    def world_size(self) -> int:
        """Number of workers."""

    @property
    def device(self) -> torch.device:
        """Device of this worker."""

    @property
    def resume(self) -> Path | None:
        """Folder of the checkpoint to go on from, or none."""

    @property
    def newest(self) -> Path | None:
        """Folder of the checkpoint that was kept last, or none."""

    def report(self, metrics: Metrics, checkpoint: Path | None) -> None:
        """Take metrics and, from rank 0, a checkpoint folder, which is copied. Every rank calls it, equally often."""

    def note(self, text: str) -> None:
        """Take a remark for the run's record."""

    def stop(self, megapixels: float) -> bool:
        """Whether the run should save and end early. Asked before each step, with the megapixels seen so far."""


class LocalContext:
    """A run in the calling process; checkpoints go to `folder`, where the newest is kept, and the `keep` best are."""

    rank = 0
    world_size = 1

    def __init__(self, folder: Path, device: torch.device, *, keep: int = 2, resume: Path | None = None,
                 listeners: tuple[Listener, ...] = (), note: Callable[[str], None] = warnings.warn) -> None:
        """note: who takes the run's remarks."""
        self.device = device
        self.note = note
        self.resume = resume
        self._folder = folder
        self._keep = keep
        self._listeners = listeners
        self._kept: list[tuple[float, Path]] = []

    def report(self, metrics: Metrics, checkpoint: Path | None) -> None:
        """Copy the checkpoint, drop old ones, and tell the listeners."""
        if checkpoint is not None:
            place = self._folder / checkpoint_name(metrics)
            if place.exists():  # left by an attempt that ended before it was complete
                shutil.rmtree(place)
            shutil.copytree(checkpoint, place)
            self._kept.append((metrics.get("val_part/miou", 0.0), place))
            self._prune()
        for listener in self._listeners:
            listener(metrics)

    def stop(self, megapixels: float) -> bool:
        """Never: a process of one's own is interrupted by its signals."""
        return False

    @property
    def newest(self) -> Path | None:
        """Folder of the checkpoint that was kept last, or that the run began with."""
        return self._kept[-1][1] if self._kept else self.resume

    def _prune(self) -> None:
        keep = [*sorted(self._kept, key=lambda kept: kept[0])[-self._keep :], self._kept[-1]]
        for kept in self._kept:
            if kept not in keep:
                shutil.rmtree(kept[1])
        self._kept = [kept for kept in self._kept if kept in keep]


def checkpoint_name(metrics: Metrics) -> str:
    """Folder name of a checkpoint: the kilopixels seen, so that names sort by age."""
    return f"kpx{round(metrics['megapixels'] * 1000):012d}"


def choose_device(name: DeviceName) -> torch.device:
    """The device that a configuration's `cluster.device` means on this machine.

    Raises ConfigError when a GPU is asked for and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("cluster.device is cuda, but this machine has no usable GPU; use --cluster.device auto")
    return torch.device(name)


def use_threads(cpus: int) -> None:
    """Let torch use so many cores (0: all of the machine's), whatever OMP_NUM_THREADS says."""
    torch.set_num_threads(cpus or os.cpu_count() or 1)
