"""Training by Ray Train on several workers: it goes on after one is killed, and is the same run."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest

import patchstore
from support.configs import calm, two_workers
from support.curves import assert_alike, curves
from swath.config import Config, DataConfig
from swath.distributed import runners
from swath.distributed.connection import connected
from swath.errors import TrainingError
from swath.experiments import evaluation, experiment
from swath.tracking import mlflow_store
from swath.training.prepared import Prepared

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
    with connected(cpus=4):  # whatever the machine has
        yield


@pytest.fixture(scope="module")
def undisturbed(cluster: None, store_uri: str, tmp_path_factory: pytest.TempPathFactory) -> experiment.Outcome:
    return runners.train(two_workers(store_uri), tmp_path_factory.mktemp("undisturbed"))


def workers() -> list[psutil.Process]:
    """The training processes of this test's cluster."""
    return [p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in _title(p)]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


class Killer(threading.Thread):
    """Kills a worker (signal 9) as soon as so many checkpoints exist."""

    def __init__(self, workdir: Path, after: int) -> None:
        super().__init__(daemon=True)
        self._workdir, self._after = workdir, after
        self.killed: int | None = None

    def run(self) -> None:
        while len(list(self._workdir.glob("checkpoints/*/kpx*/manifest.json"))) < self._after:
            time.sleep(0.05)
        time.sleep(0.3)
        victim = workers()[-1]
        victim.send_signal(signal.SIGKILL)
        self.killed = victim.pid


def losses(outcome: experiment.Outcome) -> list[float]:
    return [m["train/loss"] for m in outcome.run.history]


def test_two_workers_train_and_are_recorded(undisturbed: experiment.Outcome) -> None:
    record = mlflow_store.find(undisturbed.location.uri, undisturbed.run_id)
    assert record.status == "FINISHED"
    assert record.metrics["val/miou"] == undisturbed.score.miou
    assert len(undisturbed.run.history) == 7
    assert undisturbed.run.checkpoint is not None
    assert undisturbed.run.checkpoint.is_dir()


@pytest.mark.slow
def test_ranks_score_the_network_that_is_saved(cluster: None, store_uri: str, tmp_path: Path) -> None:
    config = two_workers(store_uri)
    config = replace(config, model=replace(config.model, norm="batch"), train=replace(config.train, megapixels=0.2),
                     data=DataConfig(store=os.path.relpath(store_uri)))  # workers have another working directory
    outcome = runners.train(config, tmp_path)
    request = evaluation.EvaluationRequest(workdir=tmp_path)
    score = evaluation.evaluate(str(outcome.run.checkpoint), request, device="cpu").score
    np.testing.assert_array_equal(score.counts.array, outcome.run.counts_RKQ)


@pytest.mark.slow
def test_a_killed_workers_run_goes_on_and_has_the_same_losses(undisturbed: experiment.Outcome, store_uri: str,
                                                              tmp_path: Path) -> None:
    killer = Killer(tmp_path, after=2)
    killer.start()
    outcome = runners.train(two_workers(store_uri), tmp_path)
    assert killer.killed is not None
    np.testing.assert_allclose(losses(outcome), losses(undisturbed), rtol=1e-5)
    np.testing.assert_array_equal(outcome.run.counts_RKQ, undisturbed.run.counts_RKQ)
    record = mlflow_store.find(outcome.location.uri, outcome.run_id)
    assert record.status == "FINISHED"
    assert record.metrics["restarts"] == 1
    step = 8 * 64**2 / 1e6  # it saves every 0.1 megapixels, to the step
    assert 0 <= record.metrics["repeated_megapixels"] <= 0.1 + 2 * step


@pytest.mark.slow
@pytest.mark.long
def test_four_workers_have_the_curves_of_one(cluster: None, alone: experiment.Outcome, store_uri: str, tmp_path: Path
                                             ) -> None:
    """Two have them even when the run is told to end and killed: test_signals."""
    config = calm(store_uri, workers=4)
    assert_alike(curves(runners.train(config, tmp_path)), curves(alone))


@pytest.mark.slow
def test_a_run_killed_with_two_workers_goes_on_with_one(cluster: None, store_uri: str, tmp_path: Path
                                                        ) -> None:
    config = two_workers(store_uri)
    # Small steps: training multiplies what rounding differs by, and Adam makes whole steps of it
    config = replace(config, train=replace(config.train, optimiser="sgd", lr=1e-3, megapixels=0.7),
                     cluster=replace(config.cluster, restarts=0))

    def noting(name: str) -> Config:
        return replace(config, track=replace(config.track, samples=str(tmp_path / name)))

    runners.train(noting("undisturbed"), tmp_path / "one")
    Killer(tmp_path / "two", after=2).start()
    with pytest.raises(TrainingError, match="a worker failed too often"):
        runners.train(noting("killed"), tmp_path / "two")
    folder = next((tmp_path / "two" / "checkpoints").iterdir())
    record = mlflow_store.find(mlflow_store.prepare(tmp_path / "two").uri, folder.name)
    assert record.status == "FAILED"
    assert "worker failed" in record.tags["swath.reason"]
    alone = replace(noting("resumed"), cluster=replace(config.cluster, workers=1))
    run = experiment.fit_here(Prepared.of(alone, patchstore.open(store_uri)), folder, mlflow_store.MemoryTracker(),
                              lambda _: None)

    undisturbed, killed, resumed = (_noted(tmp_path / name) for name in ("undisturbed", "killed", "resumed"))
    first = min(resumed)
    patches = len(set().union(*(step.ids for step in undisturbed.values())))
    assert first * config.train.batch % patches  # mid-epoch
    assert 0 < first <= max(killed) + 1  # it may have saved and not yet made a step more
    assert max(resumed) == max(undisturbed)
    assert max(undisturbed) * config.train.batch >= 2 * patches
    steps = {step: (resumed if step >= first else killed)[step] for step in range(max(undisturbed) + 1)}
    assert [step.ids for step in steps.values()] == [undisturbed[index].ids for index in steps]
    np.testing.assert_allclose([step.loss for step in steps.values()], [undisturbed[index].loss for index in steps],
                               rtol=1e-4)
    assert run.megapixels == pytest.approx(0.7, abs=0.05)


class _Step(NamedTuple):
    """What all ranks noted of a step."""

    ids: list[int]
    loss: float


def _noted(folder: Path) -> dict[int, _Step]:
    """The steps that every rank has completed, ranks in their order."""
    ranks = [{line["step"]: line for line in map(json.loads, path.read_text().splitlines())}
             for path in sorted(folder.glob("rank-*.jsonl"))]
    return {step: _Step([i for rank in ranks for i in rank[step]["ids"]], sum(rank[step]["loss"] for rank in ranks))
            for step in sorted(set.intersection(*map(set, ranks)))}
