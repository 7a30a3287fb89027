"""The search job as a user runs it, on a Ray cluster of its own, stopped half-way; to its end: test_job_submit."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from support.configs import SEARCH_ARGUMENTS
from support.paths import ROOT
from support.tracked import runs, statuses

pytestmark = pytest.mark.timeout(600)


@pytest.mark.slow
def test_a_stopped_search_leaves_no_process_and_no_running_run(store_uri: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "jobs" / "search.py"), *map(str, SEARCH_ARGUMENTS), "--data.store", store_uri,
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
