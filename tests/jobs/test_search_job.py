"""The search job as a user runs it, on a Ray cluster of its own, stopped half-way; to its end: test_job_submit."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from conftest import ROOT
from swath.tracking import mlflow_store

pytestmark = pytest.mark.timeout(600)
TINY = ("synthetic", "--patches.size", 64, "--train.epochs", 1.5, "--train.megapixels", 0, "--train.report-every", 0.1,
        "--cluster.device", "cpu", "--search.megapixels", 0.2, "--search.space", "patches.scales=1|1,2",
        "loss.dice=0..1")


def runs(workdir: Path) -> dict[str, list[Run]]:
    """All runs, by their role in the search."""
    client = MlflowClient(mlflow_store.prepare(workdir).uri)
    found: dict[str, list[Run]] = {}
    for run in client.search_runs([e.experiment_id for e in client.search_experiments()]):
        found.setdefault(run.data.tags["swath.role"], []).append(run)
    return found


def statuses(workdir: Path) -> dict[str, list[str]]:
    """Their statuses."""
    return {role: [run.info.status for run in some] for role, some in runs(workdir).items()}


@pytest.mark.slow
def test_a_stopped_search_leaves_no_process_and_no_run_that_claims_to_run(store_uri: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "jobs" / "search.py"), *map(str, TINY), "--data.store", store_uri,
               "--search.megapixels", "50", "--search.trials", "3", "--workdir", str(tmp_path)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 240
        while not list(tmp_path.glob("checkpoints/*/kpx*/manifest.json")):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.2)
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    finally:
        process.kill()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    assert {role: set(some) for role, some in statuses(tmp_path).items()} == {"search": {"KILLED"}, "trial": {"KILLED"}}
    reasons = {role: {run.data.tags["swath.reason"] for run in some} for role, some in runs(tmp_path).items()}
    assert reasons == {"search": {"told to end by a signal"}, "trial": {"its search ended: told to end by a signal"}}
