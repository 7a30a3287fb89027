"""The training loop under Ray Train: several workers, on however many nodes, that go on after one is lost.

Ray's annotations are those of Train's first version; what runs is the second, hence the ignored types.
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
)
from ray.train.torch import TorchTrainer, get_device

import patchstore
from swath import config as configuration
from swath import loop, ray_cluster, tracking
from swath.config import Config
from swath.console import ReportLine
from swath.context import Listener, Metrics, checkpoint_name, use_threads
from swath.errors import SwathError, TrainingError
from swath.ray_cluster import connected


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a worker is told; plain values, since it travels to other machines."""

    config: str
    """The configuration as JSON."""
    folder: str
    """The run's folder, on storage that every node sees."""
    cpus: int
    tracking_uri: str
    run_id: str


def train(config: Config, folder: Path, tracker: tracking.Tracker, tracking_uri: str,
          callbacks: Sequence[UserCallback] = (), gpu: bool | None = None) -> loop.Run:
    """Train one model on `config.cluster.workers` workers; checkpoints go to `folder`, callbacks hear of reports.

    gpu: whether each worker takes a GPU; None: as the cluster has them.

    Raises TrainingError when more workers are lost than `cluster.restarts` allows, and what the loop raises.
    """
    workers = config.cluster.workers
    with connected(config.cluster.address, ray_cluster.own_cores(config.cluster)):
        gpu = ray_cluster.use_gpu(config.cluster) if gpu is None else gpu
        cpus = config.cluster.cpus or max(1, ray_cluster.cores(ray_cluster.nodes(), workers, gpu))
        tracker.tags({"swath.device": "cuda" if gpu else "cpu"})
        order = Order(config=config.to_json(), folder=str(folder), cpus=cpus, tracking_uri=tracking_uri,
                      run_id=tracker.run_id)
        trainer = TorchTrainer(
            _work, train_loop_config={"order": order},  # type: ignore[arg-type]
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpu, resources_per_worker={"CPU": cpus}
                                         | ({"GPU": 1} if gpu else {})),
            run_config=RunConfig(
                name=folder.name, storage_path=str(folder.parent), callbacks=list(callbacks),  # type: ignore[arg-type]
                logging_config=LoggingConfig(log_level="WARNING"),
                failure_config=FailureConfig(max_failures=config.cluster.restarts, controller_failure_limit=3),  # type: ignore[call-arg]
                checkpoint_config=CheckpointConfig(num_to_keep=config.train.keep,
                                                   checkpoint_score_attribute="val_part/miou")))
        try:
            result = trainer.fit()
        except TrainingFailedError as error:
            raise _reason(error) from error
        run: loop.Run = result.return_value  # type: ignore[attr-defined]
        return run


def _reason(error: Exception) -> SwathError:
    """The error of the first worker that failed, as one that a user can mend where it is one."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    for failure in failures.values():
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, SwathError):
                return cause
            cause = getattr(cause, "cause", None) or cause.__cause__
    first = next(iter(failures.values()), error)
    return TrainingError(f"a worker failed too often (cluster.restarts): {str(first).strip().splitlines()[-1]}")


def _work(settings: dict[str, Any]) -> loop.Run:
    """One worker: the loop in Ray's context."""
    order: Order = settings["order"]
    use_threads(order.cpus)
    config = configuration.from_json(order.config)
    return loop.fit(config, patchstore.open(config.data.store, merge=config.data.merge), RayContext(order, config))


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is, in a file, so that the next attempt can tell what it repeats. To the second."""

    megapixels: float = 0.0
    repeated: float = 0.0
    """Megapixels that were seen again, over all attempts."""
    restarts: int = 0


class RayContext:
    """A worker of a Ray Train run."""

    def __init__(self, order: Order, config: Config) -> None:
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device: torch.device = get_device()
        checkpoint = ray.train.get_checkpoint()
        self.resume = self.newest = Path(checkpoint.path) if checkpoint else None
        self._folder = Path(order.folder)
        self._progress_file, self._progress = self._folder / "progress.json", Progress()
        self._noted_s = 0.0
        self._tracker: tracking.Tracker | None = None
        self._listeners: tuple[Listener, ...] = ()
        if self.rank == 0:
            self._tracker = tracking.MlflowTracker.attach(order.tracking_uri, order.run_id)
            self._listeners = (tracking.reporter(self._tracker), ReportLine())

    def report(self, metrics: Metrics, checkpoint: Path | None) -> None:
        """A barrier over all ranks; then rank 0 tells the listeners."""
        if checkpoint is None:
            ray.train.report(dict(metrics))
        else:
            name = checkpoint_name(metrics)
            ray.train.report(dict(metrics), checkpoint=Checkpoint.from_directory(checkpoint), checkpoint_dir_name=name)
            self.newest = self._folder / name
        for listener in self._listeners:
            listener(metrics)

    def note(self, text: str) -> None:
        """Rank 0 writes it into the record."""
        if self._tracker is not None:
            self._tracker.note(text)

    def stop(self, megapixels: float) -> bool:
        """Never; but rank 0 notes how far the run is, so that work which has to be repeated can be told."""
        if self._tracker is not None and time.monotonic() - self._noted_s >= 1.0:
            if self._noted_s == 0.0 and self._progress_file.exists():
                self._note_restart(self._tracker, megapixels)
            self._noted_s = time.monotonic()
            _write(self._progress_file, json.dumps(asdict(replace(self._progress, megapixels=megapixels))))
        return False

    def _note_restart(self, tracker: tracking.Tracker, megapixels: float) -> None:
        """Log that the attempt before was lost, and what it had seen beyond the place where this one begins."""
        before = Progress(**json.loads(self._progress_file.read_text()))
        repeated = before.repeated + max(0.0, before.megapixels - megapixels)
        self._progress = Progress(megapixels=megapixels, repeated=repeated, restarts=before.restarts + 1)
        tracker.log({"repeated_megapixels": repeated, "restarts": self._progress.restarts}, megapixels)


def _write(path: Path, text: str) -> None:
    """Write a small file such that a reader sees the old or the new text, never a part."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, path)
