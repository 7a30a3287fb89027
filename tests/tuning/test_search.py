"""Searches on Ray: trials that finish, are stopped, fail or are killed, and what is recorded of them."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from swath import config as configuration
from swath.config import (
    ClusterConfig,
    Config,
    DataConfig,
    ModelConfig,
    PatchesConfig,
    ScoreConfig,
    SearchConfig,
    TrainConfig,
)
from swath.distributed.connection import connected, cores
from swath.errors import ConfigError, TrainingError
from swath.experiments import experiment
from swath.tracking import mlflow_store
from swath.training.schedule import ema_decay, learning_rate
from swath.tuning import ray_tune, study, trials
from swath.tuning.trials import Trial

pytestmark = pytest.mark.timeout(600)


def tiny(store_uri: str, *space: str, **settings: object) -> Config:
    return Config(
        data=DataConfig(store=store_uri),
        patches=PatchesConfig(size=64),
        model=ModelConfig(arch="linknet", encoder="tu-mobilenetv3_small_050"),
        train=TrainConfig(megapixels=0.3, batch=8, report_every=0.1),
        score=ScoreConfig(overlap=0),  # a quarter of the windows
        cluster=ClusterConfig(device="cpu", readers=0),
        search=SearchConfig(space=space, **settings),  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
    with connected(cpus=3):
        yield


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def found(cluster: None, store_uri: str, workdir: Path) -> study.Found:
    """Four trials, of which two learn, one has a loss of NaN and one learns nothing; the seed proposes the last after
    the first."""
    config = tiny(store_uri, "model.arch=linknet|deeplabv3plus", "train.lr=1e-2|1e-9|1e30", trials=4, grace=0.1,
                  reduction=1.5, concurrent=2, seed=157)
    config = replace(config, train=replace(config.train, micro_batch=1, clip=0, warmup=0))
    return study.run(config, workdir)


def record(found: study.Found, trial: Trial) -> mlflow_store.RunRecord:
    return mlflow_store.find(found.location.uri, trial.run_id)


def test_every_trial_ends_in_its_true_state(found: study.Found) -> None:
    assert trials.states(found.trials).keys() == {"FINISHED", "STOPPED", "FAILED"}
    assert sum(trials.states(found.trials).values()) == 4
    for trial in found.trials:
        recorded = record(found, trial)
        assert recorded.status == trials.STATUS[trial.state]
        assert recorded.tags["swath.state"] == trial.state
        assert recorded.tags.get("swath.reason", "") == trial.reason
        assert bool(trial.reason) == (trial.state != "FINISHED")
        assert ("val/miou" in recorded.metrics) == (trial.state == "FINISHED")


@pytest.mark.parametrize(("arch", "lr", "reason"), [
    ("linknet", "1e30", "TrainingError: the loss is "),
])
def test_a_failed_trial_says_why(found: study.Found, arch: str, lr: str, reason: str) -> None:
    failed = [t for t in found.trials if (t.point["model.arch"], t.point["train.lr"]) == (arch, lr)]
    assert failed
    assert all(t.state == "FAILED" and t.reason.startswith(reason) for t in failed)
    assert any(reason in row["reason"] and row["state"] == "FAILED" for row in trials.rows(found.trials))


def test_a_stopped_trial_says_why_and_keeps_its_checkpoint(found: study.Found) -> None:
    stopped = [t for t in found.trials if t.state == "STOPPED"]
    assert all("is not among the best" in t.reason and (t.last("megapixels") or 1) < 0.29 for t in stopped)
    assert all(Path(record(found, t).tags["swath.checkpoint"]).is_dir() for t in stopped)


def test_the_best_is_the_best(found: study.Found) -> None:
    best = mlflow_store.find(found.location.uri, found.best.run_id)
    assert best.metrics["val/miou"] == found.best.val_miou
    assert found.best.val_miou >= max(t.last("val/miou") or 0 for t in found.trials)
    winner = trials.best(found.trials)
    assert winner is not None
    assert best.params["model.arch"] == found.best.config.model.arch == winner.point["model.arch"]


def test_where_the_best_fails_when_retrained_its_trial_remains(found: study.Found, store_uri: str, workdir: Path
                                                               ) -> None:
    winner = trials.best(found.trials)
    assert winner is not None
    config, summary = tiny(store_uri, "loss.dice=0|1"), mlflow_store.MemoryTracker()
    kept = study._train_again(replace(config, train=replace(config.train, lr=1e30, warmup=0, clip=0)), config,
                               replace(winner, point={}), summary, workdir)
    assert (kept.run_id, kept.val_miou) == (winner.run_id, winner.last("val/miou"))
    assert "the loss is" in summary.record().tags["swath.winner.reason"]


def test_an_autoscaled_cluster_has_to_be_told_how_far_to_grow(cluster: None, store_uri: str, tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")  # connected already, so nothing asks whether it answers
    config = tiny(store_uri, "loss.dice=0|1", concurrent=3)
    config = replace(config, cluster=ClusterConfig(device="cuda"))
    with pytest.raises(ConfigError, match=r"has 0 GPUs so far.*--search.concurrent N --cluster.cpus N"):
        study.run(config, tmp_path)
    placed = ray_tune.with_resources(replace(config, cluster=ClusterConfig(device="cuda", cpus=8, workers=2)))
    assert (placed.search.concurrent, placed.cluster.cpus, placed.cluster.device) == (3, 8, "cuda")
    monkeypatch.delenv("RAY_ADDRESS")
    with pytest.raises(ConfigError, match="the Ray cluster has 0 GPUs"):
        ray_tune.with_resources(config)


def test_trials_get_what_the_cluster_has_room_for(cluster: None, store_uri: str) -> None:
    def places(trials: int, **cluster: int) -> tuple[int, int]:
        placed = ray_tune.with_resources(replace(tiny(store_uri, "loss.dice=0|1", trials=trials),
                                         cluster=ClusterConfig(**cluster)))
        return placed.search.concurrent, placed.cluster.cpus

    assert [places(8), places(2), places(8, cpus=2), places(8, workers=2)] == [(3, 1), (2, 1), (1, 2), (1, 1)]
    with pytest.raises(ConfigError, match="no room for a trial of 4 workers with 1 CPU cores each"):
        places(8, workers=4)


@pytest.mark.parametrize(("nodes", "processes", "gpu", "each"), [
    ([(8, 0)], 1, False, 8), ([(8, 0)], 3, False, 2), ([(8, 0), (2, 0)], 2, False, 4), ([(8, 0), (2, 0)], 10, False, 1),
    ([(8, 0), (2, 0)], 11, False, 0), ([(0, 0), (4, 0), (4, 0)], 4, False, 2), ([(16, 2)], 2, True, 8),
    ([(16, 2)], 3, True, 0), ([(2, 0), (8, 1), (8, 1)], 2, True, 8), ([(1, 4), (8, 1)], 2, True, 1), ([], 1, False, 0),
])
def test_cores_of_a_process_are_those_of_one_node(nodes: list[tuple[int, int]], processes: int, gpu: bool, each: int
                                                  ) -> None:
    assert cores(nodes, processes, gpu) == each


def test_the_search_has_a_summary_and_its_runs_are_flat(found: study.Found) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(found.location.uri)
    experiment_id = client.get_run(found.run_id).info.experiment_id
    runs = client.search_runs([experiment_id], f"tags.`swath.search` = '{found.run_id}'")
    roles = sorted(run.data.tags["swath.role"] for run in runs)
    assert roles == ["search", *["trial"] * 4, "winner"]
    assert not any("mlflow.parentRunId" in run.data.tags for run in runs)
    assert not any(run.info.status == "RUNNING" for run in runs)
    winner = next(run for run in runs if run.data.tags["swath.role"] == "winner")
    assert winner.data.params["train.schedule"] == "cosine"
    assert {run.data.params["train.schedule"] for run in runs if run.data.tags["swath.role"] == "trial"} == {"constant"}
    summary = mlflow_store.find(found.location.uri, found.run_id)
    assert summary.status == "FINISHED"
    assert {key: n for key, n in summary.metrics.items() if key.startswith("search/")} == {
        "search/best_val_miou": found.best.val_miou,
        **{f"search/{state.lower()}": n for state, n in trials.states(found.trials).items()}}
    assert {a.path for a in client.list_artifacts(found.run_id)} == {"config.json", "best.json", "trials.csv",
                                                                     "search.png"}


def test_a_lone_run_of_a_trials_settings_has_the_same_losses(found: study.Found, workdir: Path) -> None:
    trial = trials.best(found.trials)
    assert trial is not None
    config = configuration.load(workdir / "artifacts" / trial.run_id / "artifacts" / "config.json")
    alone = experiment.train(config, workdir)
    for metric in ("train/loss", "val/loss", "val_part/miou", "val/miou"):
        as_trial = mlflow_store.metric_history(found.location.uri, trial.run_id, metric)
        assert as_trial == mlflow_store.metric_history(alone.location.uri, alone.run_id, metric)
        assert len(as_trial) == (1 if metric == "val/miou" else 3)


class Killer:
    """Kills the process of a trial as soon as that has a checkpoint."""

    def __init__(self, workdir: Path) -> None:
        self._workdir = workdir
        self.killed: list[int] = []

    def __call__(self, trial: Trial) -> None:
        if not self.killed and trial.history and trial.state == "RUNNING":
            for process in psutil.Process().children(recursive=True):
                if "ImplicitFunc" in " ".join(process.cmdline()):
                    process.send_signal(signal.SIGKILL)
                    self.killed.append(process.pid)


@pytest.mark.slow
def test_a_trial_goes_on_after_its_process_is_killed(cluster: None, store_uri: str, tmp_path: Path) -> None:
    killer = Killer(tmp_path)
    config = tiny(store_uri, "loss.dice=0.5|1", trials=1)
    found = study.run(config, tmp_path, killer)
    assert len(killer.killed) == 1
    assert trials.states(found.trials) == {"FINISHED": 1}
    history = dict(mlflow_store.metric_history(found.location.uri, found.trials[0].run_id, "train/loss"))
    assert len(history) == 3  # by its place: a report that may have been lost with the process is made again
    recorded = record(found, found.trials[0])
    assert recorded.metrics["restarts"] == 1
    assert "died" in recorded.tags["swath.restart"]


@pytest.mark.slow
def test_a_trial_killed_too_often_has_failed(cluster: None, store_uri: str, tmp_path: Path) -> None:
    config = tiny(store_uri, "loss.dice=0.5|1", trials=1)
    config = replace(config, cluster=replace(config.cluster, restarts=0))
    with pytest.raises(TrainingError, match="of 1 trials none finished"):
        study.run(config, tmp_path, Killer(tmp_path))
    from mlflow import MlflowClient

    client = MlflowClient(mlflow_store.prepare(tmp_path).uri)
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert {run.data.tags["swath.role"]: run.info.status for run in runs} == {"search": "FAILED", "trial": "FAILED"}
    assert all("its process was lost more often than cluster.restarts (0)" in run.data.tags["swath.reason"] for run in
               runs)


@pytest.mark.slow
@pytest.mark.long
def test_trials_of_several_workers_go_by_ray_train(cluster: None, store_uri: str, tmp_path: Path) -> None:
    config = tiny(store_uri, "train.lr=1e-3|1e30", trials=2, seed=1)
    config = replace(config, train=replace(config.train, optimiser="sgd", clip=0, warmup=0),
                     cluster=replace(config.cluster, workers=2, cpus=1, restarts=0))
    found = study.run(config, tmp_path)
    assert trials.states(found.trials).keys() == {"FINISHED", "FAILED"}
    failed, = (t for t in found.trials if t.state == "FAILED")
    assert failed.reason.startswith("TrainingError: the loss is")  # a worker's own error, not that one was lost


@pytest.mark.parametrize(("space", "part"), [
    ("model.arch=unet|unett", "model.arch"),
    ("patches.size=64|4", "patches.size=4: patches.size must be from 8"),
    ("data.store=a|b", "data.store cannot be searched"),
])
def test_an_impossible_space_is_refused_before_anything_starts(store_uri: str, tmp_path: Path, space: str, part: str
                                                               ) -> None:
    with pytest.raises(ConfigError, match=part):
        study.run(tiny(store_uri, space), tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_trials_have_in_common_does_not_depend_on_their_end(store_uri: str) -> None:
    config = tiny(store_uri, "loss.dice=0|1")
    config = replace(config, train=replace(config.train, megapixels=4.0, warmup=0.1))
    rates, decays = [], []
    for length in (1.0, 2.0, 0.0, 8.0):  # 0: as the winner's run
        trial = study.for_trials(replace(config, search=replace(config.search, megapixels=length))).train
        assert trial.megapixels == (length or 4.0)
        steps = round(trial.megapixels / 0.01)
        rates.append([learning_rate(trial, step, steps) for step in range(100)])
        decays.append([ema_decay(trial, step, 0.01) for step in range(100)])
    for rate, decay in zip(rates, decays):
        np.testing.assert_allclose(rate, rates[0], rtol=1e-9)
        assert decay == decays[0]
    assert rates[0][39:] == [config.train.lr] * 61  # constant after 0.4 Mpx
    assert rates[0][0] < rates[0][38] < config.train.lr
    with pytest.raises(ConfigError, match=r"search.megapixels must be above the warm-up \(0.4 Mpx"):
        study.for_trials(replace(config, search=replace(config.search, megapixels=0.4)))
