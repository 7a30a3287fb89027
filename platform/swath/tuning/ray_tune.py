"""A search's trials under Ray Tune: Optuna proposes them, ASHA stops them, and each is a run like any other.

The driver begins the records of the trials and ends them, for a trial that is stopped or killed cannot.
"""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import optuna
from ray import tune
from ray.air.execution._internal import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune.execution import tune_controller
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from swath import say
from swath.config import ClusterConfig, Config
from swath.distributed import connection, training
from swath.errors import ConfigError, SwathError
from swath.experiments import experiment
from swath.experiments.prepare import prepare, with_absolute_paths
from swath.models import checkpoint
from swath.names import (
    DEVICE_SECONDS,
    MEGAPIXELS,
    RESTART_TAG,
    ROLE_TAG,
    SAMPLE_MIOU,
    SAMPLE_MIOU_SE,
    SEARCH_TAG,
    STATE_TAG,
    TRAIN_LOSS,
    TRIAL_TAG,
    VAL_LOSS,
    VAL_MIOU,
)
from swath.say import Metrics
from swath.tracking import mlflow_store, runs
from swath.tracking.mlflow_store import MlflowTracker, Tracker
from swath.tracking.records import cut
from swath.training import loop
from swath.training.prepared import Prepared
from swath.tuning import space
from swath.tuning.space import Point, Space
from swath.tuning.trials import STATUS, State, Trial

METRIC, CLOCK = SAMPLE_MIOU, MEGAPIXELS
_KEPT = (CLOCK, METRIC, SAMPLE_MIOU_SE, VAL_MIOU, VAL_LOSS, TRAIN_LOSS, DEVICE_SECONDS)
"""Metrics that the driver remembers of a trial; its record has all."""
_FAILED = "failed"
"""Key of a trial's last result when it failed by itself; after an exception Tune would try again, as for a process."""
_DRIVER = {"memory": 1e9}
"""What the driver of a trial with workers of its own takes: no core, else it would stand in the way of its workers."""
_PATIENCE_S = 5
"""Seconds between tries to end records in a tracking store that does not answer."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a search runs; plain values, since it travels to other machines."""

    base: Config
    """Every trial's configuration, but for its point."""
    space: Space
    workdir: Path
    location: mlflow_store.Location
    run_id: str
    """Of the search's own record."""

    def config(self, point: Point) -> Config:
        """The configuration of a trial."""
        return space.place(self.base, point)


def with_resources(base: Config) -> Config:
    """The base with what each trial has of the cluster that this process is connected to, and how many run at once.

    Raises ConfigError where the cluster has no room for a single trial, and where an autoscaled one has none yet and it
    is not said how far it is to grow.
    """
    cluster, settings, nodes = base.cluster, base.search, connection.nodes()
    gpu, gpus = connection.use_gpu(cluster), sum(gpus for _, gpus in nodes)
    most = settings.concurrent or (gpus // cluster.workers if gpu else 4)
    grows = gpu and cluster.device == "cuda" and bool(connection.elsewhere(cluster.address))
    if grows and gpus < max(1, most) * cluster.workers:
        if not (settings.concurrent and cluster.cpus):
            raise ConfigError(f"the cluster has {gpus} GPUs so far; say how many trials it is to grow for, and how "
                              "many cores its nodes have for each GPU: --search.concurrent N --cluster.cpus N")
        concurrent = min(settings.trials, most)
    else:
        fitting = [n for n in range(1, min(settings.trials, most) + 1)
                   if connection.cores(nodes, n * cluster.workers, gpu) >= max(1, cluster.cpus)]
        if not fitting:
            raise ConfigError(f"cluster.workers: the cluster has no room for a trial of {cluster.workers} workers with "
                              f"{max(1, cluster.cpus)} CPU cores each; use fewer")
        concurrent = fitting[-1]
    cpus = cluster.cpus or connection.cores(nodes, concurrent * cluster.workers, gpu)
    return replace(base, search=replace(settings, concurrent=concurrent),
                   cluster=replace(cluster, address="", cpus=cpus, device="cuda" if gpu else "cpu"))


def run(book: "TrialBook") -> None:
    """Run a book's trials on the cluster that this process is connected to.

    However it ends, but for the death of this process, no trial's record is left running.
    """
    os.environ |= {
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",        # MLflow has the results
        "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",       # a failed trial reports its reason alone
        "TUNE_DISABLE_SIGINT_HANDLER": "1",               # an interrupt ends the search, it does not finish its trials
        "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",               # they are in the records and in the table
        "RAY_AIR_NEW_OUTPUT": "0",                        # the new one prints a table into a job's standard output
    }
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for name in ("tune", "analysis.experiment_analysis"):  # that trials failed, and that no result.json is there
        logging.getLogger(f"ray.tune.{name}").setLevel(logging.CRITICAL)
    tune_controller.RayActorManager = OomTolerantActorManager  # type: ignore[attr-defined]
    search = book.search
    settings, length = search.base.search, search.base.train.megapixels
    tuner = tune.Tuner(
        tune.with_resources(partial(_trial, search=search), _resources(search.base.cluster)),
        tune_config=tune.TuneConfig(
            num_samples=settings.trials, max_concurrent_trials=settings.concurrent, search_alg=RecordedOptuna(book),
            scheduler=MegapixelAsha(book, grace=min(settings.grace or length / 9, length), length=length,
                            reduction=settings.reduction)),
        run_config=tune.RunConfig(
            name=search.run_id, storage_path=str(search.workdir / "searches"), verbose=0, callbacks=[book],
            failure_config=tune.FailureConfig(max_failures=search.base.cluster.restarts)))
    try:
        tuner.fit()
    except BaseException as error:
        book.close(f"its search ended: {experiment.reason(error)}")
        raise
    book.close("its search ended first")


def _resources(cluster: ClusterConfig) -> tune.PlacementGroupFactory:
    """What a trial asks Tune for: the cores and the GPU of a lone worker; several ask Ray Train for theirs."""
    alone = {"CPU": float(cluster.cpus)} | ({"GPU": 1.0} if cluster.device == "cuda" else {})
    return tune.PlacementGroupFactory([alone if cluster.workers == 1 else _DRIVER])


def _trial(settings: dict[str, Any], search: Search) -> None:
    """One trial, in a process of its own: the same as a run that is started by hand, recorded by the same tracker."""
    try:
        tracker = MlflowTracker.attach(search.location.uri, settings["run_id"])
        with experiment.ended_truly(tracker):
            prepared = prepare(*with_absolute_paths(search.config(settings["point"])))
            experiment.record(prepared, search.workdir, tracker, search.location, _fit)
    except Exception as error:  # noqa: BLE001 - it is recorded; Tune hears of it as a result
        tune.report({_FAILED: experiment.reason(error)})


def _fit(prepared: Prepared, folder: Path, tracker: Tracker, uri: str) -> loop.Run:
    """Run the loop, its reports going to Tune as well: here for one worker, by Ray Train for several."""
    config = prepared.config
    if config.cluster.workers > 1:
        heard = TuneReportCallback()  # type: ignore[no-untyped-call]
        return training.train(config, folder, tracker, uri, callbacks=[heard], gpu=config.cluster.device == "cuda")
    return experiment.fit_here(prepared, folder, tracker, lambda metrics: tune.report(dict(metrics)))


class OomTolerantActorManager(RayActorManager):
    """Tune's keeper of processes, but that one which Ray ends for want of memory counts as lost, like any other.

    Ray 2.60's own raises for it (_actor_task_failed), which would end the whole search with one trial.
    """

    def _actor_task_failed(self, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            exception = RayActorError(error_msg=str(exception).splitlines()[0])
        super()._actor_task_failed(tracked_actor_task, exception)


class TrialBook(tune.Callback):
    """What is known of each trial, on the driver. Of plain values, for Tune pickles it.

    A tracking store that is away for a while does not end the search: what could not be recorded is tried again.
    """

    def __init__(self, search: Search, heard: Callable[[Trial], None]) -> None:
        self.search = search
        self.trials: dict[str, Trial] = {}
        """By Tune's name of a trial."""
        self._heard = heard
        self._stopped: dict[str, str] = {}
        self._unrecorded: set[str] = set()

    def begin(self, trial_id: str, point: Point) -> str:
        """Begin the record of a trial; returns its run's id."""
        try:
            config = self.search.config(point)
            name, params = experiment.run_name(config), config.flat()
        except ConfigError:  # which the trial itself will raise, and end its record with
            name, params = "impossible", dict(point)
        tracker = MlflowTracker.start(
            self.search.location.uri, experiment=self.search.base.track.experiment, name=name, params=params,
            artifact_location=self.search.location.artifact_location,
            tags={SEARCH_TAG: self.search.run_id, ROLE_TAG: "trial", TRIAL_TAG: str(len(self.trials))})
        self.trials[trial_id] = Trial(run_id=tracker.run_id, name=name, point=point)
        return tracker.run_id

    def stop(self, trial_id: str, reason: str) -> None:
        """Note that the search stops a trial, and why."""
        self._stopped[trial_id] = reason

    def close(self, reason: str) -> None:
        """End the records of all trials that still run, and those that could not be ended yet."""
        for trial_id, trial in self.trials.items():
            if trial.state == "RUNNING":
                self._end(trial_id, "KILLED", reason)
        for _ in range(3):
            if self._unrecorded:
                time.sleep(_PATIENCE_S)
            for trial_id in sorted(self._unrecorded):
                self._record_end(trial_id)

    def on_trial_result(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, result: dict[str, Any],
                        **info: Any) -> None:
        """Remember what a trial has reported."""
        if _FAILED in result:
            return
        known = self.trials[trial.trial_id]
        fresh: Metrics = {name: float(result[name]) for name in _KEPT if name in result}
        before = tuple(m for m in known.history if m[CLOCK] < fresh[CLOCK])  # a restarted trial reports anew
        self._update(trial.trial_id, replace(known, history=(*before, fresh)))

    def on_trial_recover(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Record that a trial's process was lost, and goes on from its checkpoint."""
        known = self.trials[trial.trial_id]
        say.print_line(f"{known.run_id[:8]} {known.name}  its process was lost; it goes on from its checkpoint")
        self._stopped.pop(trial.trial_id, None)
        try:
            tracker = self._tracker(known)
            tracker.log({"restarts": float(trial.num_failures)}, known.last(CLOCK) or 0.0)
            tracker.tags({RESTART_TAG: _loss(trial)})
        except SwathError as error:
            say.print_line(f"{known.run_id[:8]} {known.name}  that could not be recorded: {error}")

    def on_trial_complete(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """End a trial that has come to its end, has failed, or is stopped."""
        if reason := (trial.last_result or {}).get(_FAILED):
            self._end(trial.trial_id, "FAILED", reason)
        elif self.trials[trial.trial_id].last(VAL_MIOU) is not None:
            self._end(trial.trial_id, "FINISHED", "")
        elif trial.trial_id in self._stopped:
            self._end(trial.trial_id, "STOPPED", self._stopped[trial.trial_id])
        else:
            self._end(trial.trial_id, "FAILED", "it ended without a final score")

    def on_trial_error(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """End a trial whose process was lost too often."""
        self._end(trial.trial_id, "FAILED", "its process was lost more often than cluster.restarts "
                  f"({self.search.base.cluster.restarts}): {_loss(trial)}")

    def _end(self, trial_id: str, state: State, reason: str) -> None:
        self._update(trial_id, replace(self.trials[trial_id], state=state, reason=reason))
        self._record_end(trial_id)

    def _record_end(self, trial_id: str) -> None:
        trial = self.trials[trial_id]
        assert trial.state != "RUNNING"
        try:
            tracker = self._tracker(trial)
            tracker.tags({STATE_TAG: trial.state})
            folder = runs.checkpoints(self.search.workdir, trial.run_id)
            if trial.state in ("STOPPED", "KILLED") and (newest := checkpoint.newest(folder)):
                tracker.tags({mlflow_store.CHECKPOINT_TAG: str(newest)})
            tracker.end(STATUS[trial.state], trial.reason)
            self._unrecorded.discard(trial_id)
        except SwathError as error:
            self._unrecorded.add(trial_id)
            say.print_line(f"{trial.run_id[:8]} {trial.name}  its end could not be recorded yet: {error}")

    def _tracker(self, trial: Trial) -> MlflowTracker:
        return MlflowTracker.attach(self.search.location.uri, trial.run_id)

    def _update(self, trial_id: str, trial: Trial) -> None:
        self.trials[trial_id] = trial
        self._heard(trial)


def _loss(trial: TuneTrial) -> str:
    """What Ray says of the loss of a trial's process."""
    assert trial.error_file is not None
    said = Path(trial.error_file).read_text().split("Failure # ")[-1].split("\n", 1)[-1]  # the first line counts them
    return cut(" ".join(said.split()), 300)


class RecordedOptuna(OptunaSearch):
    """Optuna's tree-structured Parzen estimator over a space, beginning with the search's own configuration as far as
    the space holds it. A proposal has a record from its first moment."""

    def __init__(self, book: TrialBook) -> None:
        base, over = book.search.base, book.search.space
        super().__init__(space=over.propose, points_to_evaluate=[over.origin(base)], metric=METRIC, mode="max",
                         seed=base.search.seed)
        self._book = book

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The next trial: its point and its run."""
        point = super().suggest(trial_id)
        return point and {"point": point, "run_id": self._book.begin(trial_id, point)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna how a trial ended: a failed one has no score, whatever it had reported before."""
        failed = error or _FAILED in (result or {})
        super().on_trial_complete(trial_id, None if failed else result, failed)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a search is not restored, since ASHA's rungs would not be (ray issue 30838)."""


class MegapixelAsha(AsyncHyperBandScheduler):
    """ASHA (Li et al. 2020, A System for Massively Parallel Hyperparameter Tuning) by megapixels seen."""

    def __init__(self, book: TrialBook, *, grace: float, length: float, reduction: float) -> None:
        super().__init__(CLOCK, METRIC, "max", max_t=cast(int, length), grace_period=cast(int, grace),
                         reduction_factor=reduction)
        self._book = book
        self._share = reduction

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Whether a trial goes on; one that has its final score has come to its end by itself."""
        if _FAILED in result:
            return str(TrialScheduler.STOP)
        if VAL_MIOU in result:
            return str(TrialScheduler.CONTINUE)
        decision = str(super().on_trial_result(tune_controller, trial, result))
        if decision == TrialScheduler.STOP:
            self._book.stop(trial.trial_id, f"stopped at {result[CLOCK]:.3g} Mpx: {METRIC} {result[METRIC]:.3f} is "
                              f"not among the best 1/{self._share:g} that came so far")
        return decision
