"""The training loop under Ray Train: several workers, on however many nodes, that go on after some are lost.

Each attempt is a Ray Train run of its own, which Ray does not restart, so that it begins with as many workers as there
is room for then. Ray's annotations are those of Train's first version; what runs is the second,
hence the ignored types.
"""

import math
import threading
import time
from collections.abc import Sequence
from concurrent import futures
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ray.exceptions import RayActorError
from ray.train import (
    FailureConfig,
    LoggingConfig,
    PreemptionError,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
)
from ray.train.torch import TorchTrainer
from ray.util import placement_group, remove_placement_group

import patchstore
from patchstore import PatchstoreError
from swath import config as configuration
from swath.config import Config
from swath.distributed import connection
from swath.distributed.connection import connected
from swath.distributed.context import RayContext, WorkerTask
from swath.errors import DeviceMemoryError, LoaderError, SwathError, TrainingError
from swath.models import checkpoint_files
from swath.names import DEVICE_TAG
from swath.runtime import use_threads
from swath.say import print_line, print_notes
from swath.tracking import mlflow_store, provenance
from swath.tracking.records import cut
from swath.training import loop, signals
from swath.training.prepared import Prepared
from swath.training.signals import StopRequest

_LEAVE_S = 20.0
"""Seconds that workers have for a step and for saving it once the driver is told to end: fewer than those that
jobs/runtime_env.yaml gives a job before SIGKILL."""
_FREED_S = 5.0
"""Seconds that are waited for room for fewer workers, which is there as soon as Ray has noticed which node is gone."""
_SLOW_STARTS = 3
"""How often the first attempt is begun anew when its workers do not start in time: an autoscaled cluster needs some."""


@dataclass(frozen=True, kw_only=True)
class Team:
    """The workers of an attempt."""

    workers: int
    cpus: int
    """Cores of each."""
    gpu: bool
    """Whether each has a GPU."""

    @property
    def bundle(self) -> dict[str, float]:
        """What Ray gives to each."""
        return {"CPU": float(self.cpus)} | ({"GPU": 1.0} if self.gpu else {})


def fit(prepared: Prepared, folder: Path, tracker: mlflow_store.Tracker, uri: str) -> loop.Run:
    """Train on the cluster's workers; a `Fit` of `experiment.train`. Each worker prepares the run for itself."""
    return train(prepared.config, folder, tracker, uri)


def train(config: Config, folder: Path, tracker: mlflow_store.Tracker, tracking_uri: str,
          callbacks: Sequence[UserCallback] = (), gpu: bool | None = None) -> loop.Run:
    """Train one model on `config.cluster.workers` workers; checkpoints go to `folder`, callbacks hear of reports.

    After workers or nodes are lost it goes on from the newest whole checkpoint, with fewer workers where there is no
    longer room for all; likewise, after saving, when a node is to go, which is no failure.

    gpu: whether each worker takes a GPU; None: as the cluster has them.

    Raises TrainingError when more is lost than `cluster.restarts` allows, what the loop raises, which is not tried
    again, and where a signal told this process to end, when the run has been saved, SystemExit or KeyboardInterrupt.
    """
    cluster = config.cluster
    with connected(cluster.address, connection.own_cores(cluster)), signals.catch_stop_signals() as told:
        gpu = connection.use_gpu(cluster) if gpu is None else gpu
        full = Team(workers=cluster.workers, gpu=gpu,
                    cpus=cluster.cpus or max(1, connection.cores(connection.nodes(), cluster.workers, gpu)))
        tracker.tags({DEVICE_TAG: "cuda" if gpu else "cpu"})
        task = WorkerTask(config=config.to_json(), folder=str(folder), resume="", cpus=full.cpus,
                          tracking_uri=tracking_uri, run_id=tracker.run_id)
        return _until_done(config, task, full, tracker, callbacks, told)


def _until_done(config: Config, task: WorkerTask, full: Team, tracker: mlflow_store.Tracker,
                callbacks: Sequence[UserCallback], told: StopRequest) -> loop.Run:
    """Attempt after attempt, until one comes to its end or it is clear that none will."""
    team, failures, stopped_at, slow_starts = full, 0, -1.0, _SLOW_STARTS
    while True:
        begins = checkpoint_files.beginning(Path(task.folder), config.train.resume)
        print_notes((*begins.damaged, begins.said))
        for damaged in begins.damaged:
            tracker.note(damaged)
        task = replace(task, resume=str(begins.checkpoint or ""), cpus=team.cpus)
        try:
            run = _attempt(_trainer(task, team, callbacks, slow_starts), task, told)
            if run.counts_RKQ is not None:
                return run
            told.reraise()
            what, counts = "a node is to go", run.megapixels <= stopped_at  # a run that gets nowhere ends some day
            stopped_at = run.megapixels
        except (TrainingFailedError, RayActorError) as error:  # the latter where Ray Train's own controller is lost
            told.reraise()
            cause = _cause(error)
            if isinstance(cause, DeviceMemoryError):  # mended by a smaller micro-batch, so often as it can be halved
                config = replace(config, train=replace(config.train, micro_batch=cause.smaller))
                task = replace(task, config=config.to_json())
                tracker.note(str(cause))
            elif cause is not None:  # it would come again
                raise cause from error
            what, counts = _last_line(error), cause is None and not _was_preempted(error)
        failures += counts
        if failures > config.cluster.restarts:
            raise TrainingError(f"a worker failed too often (cluster.restarts): {what}")
        team, slow_starts = _team(config, full, told), 0
        print_line(f"{what}; the run goes on with {team.workers} workers")


def _trainer(task: WorkerTask, team: Team, callbacks: Sequence[UserCallback], slow_starts: int) -> TorchTrainer:
    """One attempt, which ends with the first worker that is lost."""
    folder = Path(task.folder)
    failures = FailureConfig(max_failures=0, max_preemption_failures=0,  # type: ignore[call-arg]
                             controller_failure_limit=slow_starts)
    return TorchTrainer(
        _work, train_loop_config={"task": task},  # type: ignore[arg-type]
        scaling_config=ScalingConfig(num_workers=team.workers, use_gpu=team.gpu, resources_per_worker=team.bundle),
        run_config=RunConfig(  # type: ignore[call-arg]
            name=folder.name, storage_path=str(folder.parent), callbacks=list(callbacks),  # type: ignore[arg-type]
            logging_config=LoggingConfig(log_level="WARNING"), failure_config=failures))


def _attempt(trainer: TorchTrainer, task: WorkerTask, told: StopRequest) -> loop.Run:
    """Run the workers, in a thread: this one stays free for signals. Raises TrainingFailedError when one is lost."""
    task.stop_file.write_bytes(b"")
    result: Future[Any] = Future()

    def fit() -> None:
        try:
            result.set_result(trainer.fit())
        except BaseException as error:  # noqa: BLE001 - as executors do, whose threads would keep this process alive
            result.set_exception(error)

    threading.Thread(target=fit, name="ray-train", daemon=True).start()
    asked_s = math.inf
    while not futures.wait([result], timeout=0.2).done:
        if told and asked_s == math.inf:
            task.stop_file.write_bytes(b"stop")
            asked_s = time.monotonic()
        if time.monotonic() - asked_s > _LEAVE_S:
            told.reraise()
    run: loop.Run = result.result().return_value
    return run


def _team(config: Config, full: Team, told: StopRequest) -> Team:
    """The workers of the next attempt: all, where there is room for them within `cluster.wait_s`; else the most that
    there is room for and that divide the batch. Raises TrainingError where there is room for none."""
    if _has_room(full, config.cluster.wait_s, told):
        return full
    nodes = connection.nodes()
    for workers in range(full.workers - 1, 0, -1):
        cpus = config.cluster.cpus or connection.cores(nodes, workers, full.gpu)
        if config.train.batch % workers or not cpus or connection.room(nodes, cpus, full.gpu) < workers:
            continue
        team = replace(full, workers=workers, cpus=cpus)
        if _has_room(team, _FREED_S, told):
            return team
    told.reraise()
    raise TrainingError(f"after {config.cluster.wait_s:g} s (cluster.wait_s) the cluster has room for no worker; "
                        "go on with --run when it has")


def _has_room(team: Team, wait_s: float, told: StopRequest) -> bool:
    """Whether the cluster has room for workers, now or within some seconds. What is asked for meanwhile is what an
    autoscaled one grows by; what the workers before had may take a moment to be free, so a second is waited at least.
    """
    group = placement_group([team.bundle] * team.workers)
    try:
        until_s = time.monotonic() + max(1.0, wait_s)
        while not group.wait(0.2):
            told.reraise()
            if time.monotonic() > until_s:
                return False
        return True
    finally:
        remove_placement_group(group)


def _cause(error: Exception) -> SwathError | PatchstoreError | None:
    """The error that a user can mend, where one made a worker fail. A reader of patches that is gone is none."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    for failure in failures.values():
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, LoaderError):
                break
            if isinstance(cause, SwathError | PatchstoreError):
                return cause
            cause = getattr(cause, "cause", None) or cause.__cause__
    return None


def _was_preempted(error: Exception) -> bool:
    """Whether workers were lost with a node that was known to go (as Ray's own policy has it: then it matters not what
    else failed with them)."""
    return isinstance(error, PreemptionError) or any(lost.preempted for lost in _lost(error))


def _lost(error: Exception) -> list[RayActorError]:
    """What Ray says of the workers that are gone, as opposed to those that failed."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    causes = [getattr(failure, "health_check_failure", failure) for failure in failures.values()]
    return [cause for cause in causes if isinstance(cause, RayActorError)]


def _last_line(error: Exception) -> str:
    """What is said of a worker that is gone, or of the first that failed: those that are left fail for want of it."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    failure = next(iter((*_lost(error), *failures.values())), error)
    lines = str(failure).strip().splitlines() or [type(failure).__name__]
    return cut(lines[-1], 300)


def _work(settings: dict[str, Any]) -> loop.Run:
    """One worker: the loop in Ray's context."""
    task: WorkerTask = settings["task"]
    use_threads(task.cpus)
    config = configuration.from_json(task.config)
    context = RayContext(task, config)
    with provenance.recording_warnings(context.note):
        return loop.fit(config, patchstore.open(config.data.store, merge=config.data.merge), context)
