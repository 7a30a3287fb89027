"""What a training loop is told by, and tells to, whoever runs it.

The loop asks a context for its rank, its device and where to resume, and gives it metrics and checkpoints. Ray Train
has a context of its own (`ray_train`); the one here serves a single process: a test, a notebook, a bare machine.
"""

import ctypes
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, Protocol

import torch

from swath.errors import ConfigError
from swath.keeping import Keeper

Metrics = Mapping[str, float]
DeviceName = Literal["auto", "cpu", "cuda"]
Listener = Callable[[Metrics], None]
"""Whoever wants to hear of a run's reports."""
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""glibc's malloc.h."""


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
        self._keeper = Keeper(folder, keep, save_minutes)
        self._told = told
        self._listeners = listeners

    def report(self, metrics: Metrics, checkpoint: Path | None) -> None:
        """Copy the checkpoint, drop old ones, and tell the listeners."""
        if checkpoint is not None:
            self.newest = self._keeper.keep(checkpoint, metrics["megapixels"], metrics.get("val_part/miou"))
        for listener in self._listeners:
            listener(metrics)

    def save(self, checkpoint: Path, megapixels: float) -> None:
        """Copy the checkpoint, and drop old ones."""
        self.newest = self._keeper.keep(checkpoint, megapixels)

    def save_due(self) -> bool:
        """Whether the last checkpoint is `save_minutes` old."""
        return self._keeper.is_due()

    def stop(self, megapixels: float) -> bool:
        """Whether this process has been asked to end."""
        return self._told()


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


def keep_memory() -> None:
    """Let this process keep the memory that a network's tensors leave, for those of its next step.

    glibc gives large blocks back to the system, which has to clear each page anew: a third of a U-Net's training on two
    cores went there (README, "Training"). Other systems' allocators are left as they are.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never
