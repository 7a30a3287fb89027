"""What a training loop is told by, and tells to, whoever runs it.

The loop asks a context for its rank, its device and where to resume, and gives it metrics and checkpoints. Ray Train
has a context of its own (`ray_train`); the one here serves a single process: a test, a notebook, a bare machine.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch

from swath.models.checkpoint_files import CheckpointStore
from swath.names import MEGAPIXELS, SAMPLE_MIOU
from swath.say import Listener, Metrics


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

    def save(self, checkpoint: Path, megapixels: float) -> None:
        """Take a checkpoint folder, which is copied, between two reports. Rank 0 calls it."""

    def save_due(self) -> bool:
        """Whether it is time to save between two reports. Asked before each step; some rank's yes is enough."""

    def stop(self, megapixels: float) -> bool:
        """Whether the run should save and end early. Asked before each step, with the megapixels seen so far."""


class LocalContext:
    """A run in the calling process; checkpoints go to `folder`, where the newest `keep` and the best are kept.

    `told` says whether the process has been asked to end; `save_minutes` as `train.save_minutes`.
    """

    rank = 0
    world_size = 1

    def __init__(self, folder: Path, device: torch.device, *, keep: int = 2, save_minutes: float = 0.0,
                 resume: Path | None = None, told: Callable[[], bool] = lambda: False,
                 listeners: tuple[Listener, ...] = (), note: Callable[[str], None] = warnings.warn) -> None:
        """note: who takes the run's remarks."""
        self.device = device
        self.note = note
        self.resume = self.newest = resume
        self._checkpoints = CheckpointStore(folder, keep, save_minutes)
        self._told = told
        self._listeners = listeners

    def report(self, metrics: Metrics, checkpoint: Path | None) -> None:
        """Copy the checkpoint, drop old ones, and tell the listeners."""
        if checkpoint is not None:
            self.newest = self._checkpoints.add(checkpoint, metrics[MEGAPIXELS], metrics.get(SAMPLE_MIOU))
        for listener in self._listeners:
            listener(metrics)

    def save(self, checkpoint: Path, megapixels: float) -> None:
        """Copy the checkpoint, and drop old ones."""
        self.newest = self._checkpoints.add(checkpoint, megapixels)

    def save_due(self) -> bool:
        """Whether the last checkpoint is `save_minutes` old."""
        return self._checkpoints.is_due()

    def stop(self, megapixels: float) -> bool:
        """Whether this process has been asked to end."""
        return self._told()


