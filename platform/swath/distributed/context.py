"""A worker of a Ray Train run: the training loop's context there, and what the driver tells it."""

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import ray
import ray.train
import torch
from ray.train.torch import get_device

from swath.config import Config
from swath.distributed import connection
from swath.models.checkpoint_files import CheckpointStore, write_whole
from swath.names import MACHINE_TAG, MEGAPIXELS, NOTES_TAG, SAMPLE_MIOU
from swath.say import Listener, Metrics, ReportLine
from swath.tracking import mlflow_store, provenance
from swath.tracking.records import with_note

_LOOK_S = 1.0
"""Seconds between two looks at whether the run is to stop, and between two notes of how far it is."""


@dataclass(frozen=True, kw_only=True)
class WorkerTask:
    """What a worker is told; plain values, since it travels to other machines."""

    config: str
    """The configuration as JSON."""
    folder: str
    """The run's folder, on storage that every node sees."""
    resume: str
    """Folder of the checkpoint to go on from; empty: none."""
    cpus: int
    tracking_uri: str
    run_id: str

    @property
    def stop_file(self) -> Path:
        """The file by which the driver asks a run to save and stop: it has something in it then.

        It is there from the beginning, and is opened at each look: on a network file system what is in a file is seen
        sooner than that there is a new one (close-to-open consistency).
        """
        return Path(self.folder, "stop")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run is, in a file, so that the next attempt can tell what it repeats. To the second."""

    megapixels: float = 0.0
    repeated: float = 0.0
    """Megapixels that were seen again, over all attempts."""
    restarts: int = 0


class RayContext:
    """A worker of a Ray Train run.

    Checkpoints go to the run's folder without passing through Ray, which can keep the newest or the best, not both:
    its own list of them, from which a run with the same name goes on, fails where one was removed by somebody else.
    """

    def __init__(self, task: WorkerTask, config: Config) -> None:
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device: torch.device = get_device()
        self.resume = self.newest = Path(task.resume) if task.resume else None
        self._stop_file, self._node = task.stop_file, ray.get_runtime_context().get_node_id()
        self._checkpoints = CheckpointStore(Path(task.folder), config.train.keep, config.train.save_minutes)
        self._progress_file, self._progress = Path(task.folder, "progress.json"), Progress()
        self._looked_s = -_LOOK_S
        self._begun = False
        self._said, self._tracking_uri, self._run_id = "", task.tracking_uri, task.run_id
        self._tracker: mlflow_store.Tracker | None = None
        self._listeners: tuple[Listener, ...] = ()
        if self.rank == 0:
            self._tracker = mlflow_store.MlflowTracker.attach(task.tracking_uri, task.run_id)
            self._tracker.tags({MACHINE_TAG: json.dumps(provenance.machine())})
            self._listeners = (mlflow_store.reporter(self._tracker), ReportLine())

    def report(self, metrics: Metrics, checkpoint: Path | None) -> None:
        """Rank 0 keeps the checkpoint; a barrier over all ranks; then rank 0 tells the listeners."""
        if checkpoint is not None:
            self.newest = self._checkpoints.add(checkpoint, metrics[MEGAPIXELS], metrics.get(SAMPLE_MIOU))
        ray.train.report(dict(metrics))
        for listener in self._listeners:
            listener(metrics)

    def note(self, text: str) -> None:
        """Written into the record: by rank 0 among the other remarks, by others as a tag of their own, since none
        waits for another."""
        if self._tracker is not None:
            self._tracker.note(text)
        else:
            self._said = with_note(self._said, text)
            tracker = mlflow_store.MlflowTracker.attach(self._tracking_uri, self._run_id)
            tracker.tags({f"{NOTES_TAG}.rank{self.rank}": self._said})

    def save(self, checkpoint: Path, megapixels: float) -> None:
        """Keep a checkpoint that has no score."""
        self.newest = self._checkpoints.add(checkpoint, megapixels)

    def save_due(self) -> bool:
        """Whether the last checkpoint is `train.save_minutes` old, by rank 0's clock."""
        return self.rank == 0 and self._checkpoints.is_due()

    def stop(self, megapixels: float) -> bool:
        """Whether the driver asks for it, or this worker's node is to go. Rank 0 notes how far the run is, so that work
        which has to be repeated can be told."""
        if time.monotonic() - self._looked_s < _LOOK_S:
            return False
        self._looked_s = time.monotonic()
        if self._tracker is not None:
            if not self._begun:
                self._begin(self._tracker, megapixels)
            write_whole(self._progress_file, json.dumps(asdict(replace(self._progress, megapixels=megapixels))))
        asked = self.rank == 0 and bool(self._stop_file.read_bytes())
        return asked or self._node in connection.draining()

    def _begin(self, tracker: mlflow_store.Tracker, megapixels: float) -> None:
        """Log the number of workers; and where there was an attempt before, what it had seen beyond the place where
        this one begins."""
        self._begun = True
        tracker.log({"workers": self.world_size}, megapixels)
        if self._progress_file.exists():
            before = _read(self._progress_file)
            repeated = before.repeated + max(0.0, before.megapixels - megapixels)
            self._progress = Progress(megapixels=megapixels, repeated=repeated, restarts=before.restarts + 1)
            tracker.log({"repeated_megapixels": repeated, "restarts": self._progress.restarts}, megapixels)


def _read(file: Path) -> Progress:
    try:
        return Progress(**json.loads(file.read_text()))
    except (ValueError, TypeError):  # written when the disk was full: what it said is lost
        return Progress()
