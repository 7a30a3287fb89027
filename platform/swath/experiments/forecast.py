"""What a run will take: its steps and the windows that it scores, from the plan; seconds and bytes, from a trial.

The trial is a few training steps of the configured network on random pixels, through the loop's own step, and a few
windows through the predictor that scores. Reading is left out: `swath.pace` measures it. What comes out holds for the
machine that it was measured on, with one worker; where several train together, that is the time between them.
"""

import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from patchstore import Store, Window
from swath.config import Config
from swath.geometry import side_of, stride_of
from swath.loading.loader import Batch
from swath.models import inference
from swath.patches.planning import PatchPlan
from swath.prediction import streaming
from swath.prediction.windows import lattice
from swath.scoring import counting
from swath.scoring.counting import Region
from swath.training import loop
from swath.training.context import LocalContext
from swath.training.prepared import Prepared
from swath.training.setup import TrainingSetup, step_count, step_megapixels
from swath.training.validation import loss_patches

_SECONDS, _CALLS = 3.0, 20
"""A timing ends at the first of the two, with one call at least (and one untimed before it: buffers, kernels)."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a run does, as it follows from the plan."""

    steps: int
    batch: int
    """Patches in a step, over all workers."""
    megapixels: float
    """Megapixels seen at the end."""
    epochs: float
    """The same in passes over the train plan."""
    reports: int
    """Times that the validation sample is scored and a checkpoint written, the end included."""
    sample_windows_S: tuple[int, ...]
    """Windows of each scale that a report puts through the network for the score of the sample; of concentric ones,
    each of which shows all scales, those of the finest."""
    loss_patches: int
    """Patches of the validation loss of a report."""
    whole_windows_S: tuple[int, ...]
    """Windows of each scale for the final score of the whole split."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What was measured on this machine."""

    machine: str
    """What it was measured on."""
    step_s: float
    """Seconds of a worker's share of a training step, without reading."""
    step_patches: int
    """Patches of that share."""
    cores: float | None
    """Cores that were at work on it in the mean: fewer than torch may use where the machine has other things to do,
    and the figures are then of a machine that has. None for a GPU."""
    window_s_S: tuple[float, ...]
    """Seconds of a scored window of each scale: forward, brought to full resolution, blended."""
    checkpoint_bytes: int
    """One checkpoint: weights, optimiser state, moving average, trained cells."""

    @property
    def rate(self) -> float:
        """Patches that the network of one worker trains on in a second."""
        return self.step_patches / self.step_s


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """An estimate of time and disk for a run."""

    work: Work
    trial: Trial
    workers: int
    """Workers of the run, each of whom was taken to be as fast as the one that was measured."""
    checkpoints: int
    """Checkpoints that lie on the disk in the end."""

    @property
    def training_s(self) -> float:
        """Seconds of training steps."""
        return self.work.steps * self.trial.step_s

    @property
    def report_s(self) -> float:
        """Seconds of one report: the validation sample and the validation loss."""
        loss = self.work.loss_patches * min(self.trial.window_s_S)
        return (self._seconds(self.work.sample_windows_S) + loss) / self.workers

    @property
    def whole_s(self) -> float:
        """Seconds of the final score."""
        return self._seconds(self.work.whole_windows_S) / self.workers

    @property
    def seconds(self) -> float:
        """Seconds of the run, reading left out."""
        return self.training_s + self.work.reports * self.report_s + self.whole_s

    @property
    def disk_bytes(self) -> int:
        """Bytes of the run's checkpoints in the end."""
        return self.checkpoints * self.trial.checkpoint_bytes

    def to_json(self) -> dict[str, Any]:
        """What was measured and what follows from it, as plain values."""
        return {**asdict(self.trial), "workers": self.workers, "patches_per_s": self.trial.rate,
                "training_s": self.training_s, "report_s": self.report_s, "whole_s": self.whole_s,
                "seconds": self.seconds, "checkpoints": self.checkpoints, "disk_bytes": self.disk_bytes}

    def _seconds(self, windows_S: Sequence[int]) -> float:
        return sum(n * s for n, s in zip(windows_S, self.trial.window_s_S, strict=True))


def work(prepared: Prepared) -> Work:
    """What a run does, over the plans of its train and its val split. No pixel is read."""
    store, split, config = prepared.store, prepared.split, prepared.config
    train, val = prepared.plan, prepared.val_plan
    step, steps = step_megapixels(config), step_count(config, train)
    every = counting.report_megapixels(store, split, config)
    reports = min(steps - 1, int((steps - 1) * step / every + 1e-9)) + 1  # the last one always (is_due)
    sample = counting.sample(store, split, "val", config).regions
    return Work(steps=steps, batch=config.train.batch, megapixels=steps * step, epochs=steps * step / train.megapixels,
                reports=reports, sample_windows_S=windows(store, sample, config, val),
                loss_patches=loss_patches(store, split, config, val),
                whole_windows_S=windows(store, counting.whole(store, split, "val"), config, val))


def windows(store: Store, regions: Iterable[Region], config: Config, plan: PatchPlan) -> tuple[int, ...]:
    """How many windows of each scale score the regions."""
    total_S = np.zeros(len(plan.placement_scales), np.int64)
    sides = dict(zip(plan.scenes, plan.side_SC[:, :len(plan.placement_scales)].tolist(), strict=True))
    for scene, group in groupby(sorted(regions, key=lambda region: region.scene), key=lambda region: region.scene):
        size = config.patches.size
        lattices = [lattice(store.scenes[scene].shape, side_of(size, side / size), config.score.overlap, size)
                    for side in sides[scene]]
        for region in group:
            total_S += [math.prod(map(len, places.touching((region.rows, region.cols)))) for places in lattices]
    return tuple(total_S.tolist())


def one_worker(prepared: Prepared, device: torch.device) -> TrainingSetup:
    """The set-up of one worker of a run, with its share of the batch, that is neither saved nor reported anywhere."""
    config = prepared.config
    share = replace(config, train=replace(config.train, batch=config.train.batch // config.cluster.workers),
                    cluster=replace(config.cluster, workers=1), track=replace(config.track, samples=""))
    return TrainingSetup(replace(prepared, config=share), LocalContext(Path(), device))


def trial(setup: TrainingSetup) -> Trial:
    """Time a worker's training steps and scored windows on random pixels, and weigh a checkpoint.

    Raises what the loop raises for a configuration that cannot be trained.
    """
    state = setup.start()
    train, batch = setup.network(state), _random_batch(setup)
    step_s, cores = _mean_seconds(lambda: loop.train_step(setup, state, train, batch), setup.context.device)
    net = state.best.eval()
    forward = inference.network_forward(net, setup.precision, setup.config.score.symmetries)
    sides = np.median(setup.val_plan.side_SC, axis=0).round().astype(int).tolist()
    window_s_S = tuple(_window_seconds(setup, forward, some) for some in ([sides] if setup.val_plan.is_concentric else
                                                                        [[side] for side in sides]))
    with state.save(setup.config, setup.card, setup.trained_cells()) as folder:
        weight = sum(path.stat().st_size for path in Path(folder).iterdir())
    return Trial(machine=machine(setup.context.device), step_s=step_s, cores=cores, window_s_S=window_s_S,
                 step_patches=setup.config.train.batch, checkpoint_bytes=weight)


def machine(device: torch.device) -> str:
    """The device in words: a GPU's name, or how many cores torch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} of {os.cpu_count()} cores"


def _window_seconds(setup: TrainingSetup, forward: inference.Forward, sides: Sequence[int]) -> float:
    """Seconds of a window, seen at once with all these sides in scene pixels, on its way to classes: a row of windows,
    as many as are a batch; on a CPU, which is slow and as fast with few, a quarter of that."""
    size, overlap = setup.config.patches.size, setup.config.score.overlap
    whole, side = streaming.batch_size(size, len(sides)), sides[0]
    count = whole if setup.context.device.type == "cuda" else -(-whole // 4)
    reader = _Noise((side, side + (count - 1) * stride_of(side, overlap)), setup.store.bands, setup.store.dtype)

    def once() -> None:
        strip = streaming.part(reader, size=size, scales=[side / size for side in sides], overlap=overlap,
                               is_concentric=True)
        rows = streaming.blend(strip, forward, classes=setup.classes, batch=count, device=setup.context.device)
        for _ in streaming.classes_of(rows):
            pass

    return _mean_seconds(once, setup.context.device)[0] / count


def _mean_seconds(call: Callable[[], object], device: torch.device) -> tuple[float, float | None]:
    """Mean seconds of a call, over a few of them after one that is not timed; and the cores at work, on a CPU."""
    call()
    _wait(device)
    began, cpu, calls = time.perf_counter(), time.process_time(), 0
    while calls == 0 or (calls < _CALLS and time.perf_counter() - began < _SECONDS):
        call()
        _wait(device)
        calls += 1
    took = time.perf_counter() - began
    return took / calls, (time.process_time() - cpu) / took if device.type == "cpu" else None


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _random_batch(setup: TrainingSetup) -> Batch:
    """A worker's share of a batch, of random pixels and labels."""
    size, count = setup.config.patches.size, setup.config.train.batch
    labels_NHW = np.random.default_rng(0).integers(setup.classes, size=(count, size, size), dtype=np.uint8)
    shape = count, setup.plan.scales_per_sample, setup.store.bands, size, size
    images_NSBHW = random_pixels(shape, setup.store.dtype)
    images, labels = (torch.from_numpy(array).to(setup.context.device) for array in (images_NSBHW, labels_NHW))
    return Batch(index=0, images_NSBHW=images, labels_NHW=labels, windows=[Window("", 0, 0, size)] * count,
                 ids=np.arange(count))


def random_pixels(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Pixels of no scene: below 256, which every type of pixel can hold."""
    return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8).astype(dtype)


class _Noise:
    """A scene of random pixels that costs nothing to read."""

    def __init__(self, shape: tuple[int, int], bands: int, dtype: np.dtype[Any]) -> None:
        self.shape, self.bands, self.dtype = shape, bands, dtype
        self._images = random_pixels((1, bands, 1, 1), dtype)

    def read(self, windows: Sequence[tuple[int, int, int]], size: int, /) -> NDArray[Any]:
        """See `pixels.Reader`."""
        if self._images.shape[0] < len(windows) or self._images.shape[-1] != size:
            self._images = random_pixels((len(windows), self.bands, size, size), self.dtype)
        return self._images[:len(windows)]
