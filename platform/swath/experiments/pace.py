"""How fast patches reach the network on this machine: reading, augmenting and collating measured apart, and together.

Each part works on whole batches of the run's own order, in the calling process, as a reader of the loader does.
TensorStore decodes in threads of its own, so the processor time of a part says what it costs and the wall time what the
caller waits: a core that does nothing else delivers 1000 / (CPU ms of all parts) patches a second. Files that were read
before come from the page cache.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from swath.loading import reader
from swath.loading.loader import Batch
from swath.patches import ordering
from swath.training.setup import TrainingSetup

_BATCHES = 8
"""Batches that a part is measured on, after one that is not counted."""
_SECONDS = 3.0
"""The loader is measured for so long, or for four times as many batches, whichever ends first."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one part of the way costs for a patch."""

    wall_ms: float
    """Milliseconds until the caller has it."""
    cpu_ms: float
    """Milliseconds of processor time, over all of the process's threads."""

    @property
    def rate(self) -> float:
        """Patches a second of one core that does this alone."""
        return 1000 / self.cpu_ms


@dataclass(frozen=True, kw_only=True)
class Pace:
    """The way of a patch from the store to the network."""

    parts: dict[str, Part]
    """read: decoded into its place of the batch. augment: varied there, foreign labels ignored. collate: the batch's
    numbers in the order, its windows and tensors, which the caller's own process does."""
    loader_rate: float
    """Patches a second that the loader as configured delivers to a caller who does nothing else."""
    readers: int
    """The loader's processes."""
    device_rate: float
    """Patches a second that the device takes."""

    @property
    def slowest(self) -> str:
        """The part that costs the most processor time."""
        return max(self.parts, key=lambda name: self.parts[name].cpu_ms)

    @property
    def core_rate(self) -> float:
        """Patches a second of one core that does all of it."""
        return 1000 / sum(part.cpu_ms for part in self.parts.values())

    @property
    def cores(self) -> float:
        """Cores that keep the device busy."""
        return self.device_rate / self.core_rate

    @property
    def limit(self) -> str:
        """What ends first, in words."""
        if self.loader_rate < self.device_rate:
            return f"the loader, and of its parts {self.slowest}"
        return "the device"

    def to_json(self) -> dict[str, Any]:
        """What was measured and what follows from it, as plain values."""
        return {**asdict(self), "slowest": self.slowest, "limit": self.limit, "core_rate": self.core_rate,
                "cores": self.cores}


def measure(setup: TrainingSetup, device_rate: float) -> Pace:
    """Measure the way of the patches of a run's train plan, for a device that takes `device_rate` patches a second.

    Raises what Store.read raises.
    """
    loader, size, bands = setup.loader, setup.plan.size, setup.store.bands
    store = setup.store.with_cache(ordering.cache_bytes(setup.plan, loader.batch, loader.world_size))
    images_NSBHW = np.empty((loader.share, setup.plan.scales_per_sample, bands, size, size), setup.store.dtype)
    labels_NHW = np.empty((loader.share, size, size), np.uint8)
    tasks = [loader.task(index)[0] for index in range(1 + _BATCHES)]
    varies: list[Callable[[], None]] = []

    def read(index: int) -> None:
        wait, vary = reader.begin(store, tasks[index], images_NSBHW, labels_NHW, loader.augment, loader.seed)
        wait()
        varies.append(vary)

    def augment(index: int) -> None:
        varies[index]()

    def collate(index: int) -> None:
        task, ids = loader.task(1 + _BATCHES + index)
        Batch(index=index, images_NSBHW=torch.from_numpy(images_NSBHW), ids=ids,
              labels_NHW=torch.from_numpy(labels_NHW), windows=task.windows)

    parts = {call.__name__: _part(call, loader.share) for call in (read, augment, collate)}
    return Pace(parts=parts, loader_rate=_loader_rate(setup), readers=loader.readers, device_rate=device_rate)


def _part(call: Callable[[int], None], batch: int) -> Part:
    """Time a part over batches 1, 2, …, after batch 0."""
    call(0)
    wall, cpu = time.perf_counter(), time.process_time()
    for index in range(_BATCHES):
        call(1 + index)
    patches = _BATCHES * batch
    return Part(wall_ms=(time.perf_counter() - wall) * 1000 / patches,
                cpu_ms=max(time.process_time() - cpu, 1e-9) * 1000 / patches)


def _loader_rate(setup: TrainingSetup) -> float:
    """Patches a second of the loader, once what it has read ahead is used up."""
    batches, done = setup.loader.batches(0, 5 * _BATCHES), 0
    for _ in range(_BATCHES):
        next(batches)
    began = time.perf_counter()
    for _ in batches:
        done += setup.loader.share
        if time.perf_counter() - began > _SECONDS:
            break
    return done / (time.perf_counter() - began)
