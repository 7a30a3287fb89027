"""Jobs as `ray job submit` runs them: on a cluster of their own, from a copy of this tree that does not last."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from ray.job_submission import JobDetails, JobSubmissionClient

from patchstore import Store
from support.configs import SEARCH_ARGUMENTS, TRAIN_ARGUMENTS
from support.paths import ROOT
from support.tracked import runs, statuses
from swath import config as configuration
from swath import recipes
from swath.commands import paths
from swath.errors import ConfigError
from swath.patches import planning
from swath.splits import division
from swath.tracking import mlflow_store

pytestmark = pytest.mark.timeout(600)
Done = subprocess.CompletedProcess[str]
BIN = Path(sys.executable).parent
PORTS = ("port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port")


class Head:
    """A Ray head, as a command line and its client see it."""

    def __init__(self, folder: str) -> None:
        servers = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
        self.ports = {name: server.getsockname()[1] for name, server in zip(PORTS, servers)}
        for server in servers:
            server.close()
        self.url = f"http://127.0.0.1:{self.ports['dashboard-port']}"
        # The `python` of a job is the head's. What Ray takes for its mode depends on what ran on this machine before.
        own = {"PATH": f"{BIN}:{os.environ['PATH']}", "RAY_AUTH_MODE": "disabled", "SWATH_TEST_HEAD": folder}
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_TRACKING"))} | own

    def ray(self, *arguments: object) -> Done:
        return subprocess.run([str(BIN / "ray"), *map(str, arguments)], cwd=ROOT, env=self.env, capture_output=True,
                              text=True, timeout=280)

    def submit(self, name: str, *command: object, options: tuple[str, ...] = ()) -> Done:
        return self.ray("job", "submit", "--address", self.url, "--submission-id", name, *options,
                        "--runtime-env", "jobs/runtime_env.yaml", "--", "python", *command)

    def details(self, name: str) -> JobDetails:
        return JobSubmissionClient(self.url).get_job_info(name)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # short: the path of a socket has at most 107 characters
    head = Head(folder)
    try:
        started = head.ray("start", "--head", "--temp-dir", folder, "--dashboard-host=127.0.0.1", "--num-cpus=2",
                           "--object-store-memory=100000000", *(f"--{k}={port}" for k, port in head.ports.items()))
        assert started.returncode == 0, started.stderr
        yield head
    finally:
        _end_all(folder)
        shutil.rmtree(folder, ignore_errors=True)


def _end_all(folder: str) -> None:
    """End what the head began and nothing else (`ray stop` would end every Ray of the machine). Ray's agents and
    workers write a title over their environment, but are children of a process that still has it."""
    family: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # one that ended just now, or is not ours to look at
            if process.environ().get("SWATH_TEST_HEAD") == folder:
                family |= {p.pid: p for p in (process, *process.children(recursive=True))}
    for process in family.values():
        with suppress(psutil.NoSuchProcess):
            process.kill()
    assert not psutil.wait_procs(family.values(), timeout=30)[1]


@pytest.mark.slow
def test_a_job_and_its_workers_run_what_was_submitted(head: Head) -> None:
    code = ("import ray, swath, patchstore; where = lambda: (swath.__file__, patchstore.__file__); "
            "print('at', *where(), *ray.get(ray.remote(where).remote()))")
    result = head.submit("packages", "-c", code)
    places = next(line for line in result.stdout.splitlines() if line.startswith("at ")).split()[1:]
    assert len(places) == 4
    assert all("/py_modules_files/" in place for place in places)


def epoch_megapixels(store: Store) -> float:
    """An epoch of the searched recipe at its patch size."""
    config = recipes.synthetic()
    config = replace(config, patches=replace(config.patches, size=64))
    return planning.plan(store, config, "train", labels=division.divide(store, config.split)).megapixels


@pytest.mark.slow
def test_a_submitted_search_is_found_from_elsewhere(head: Head, store: Store, store_uri: str, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    result = head.submit("searches", "jobs/search.py", *SEARCH_ARGUMENTS, "--data.store", store_uri,
                         "--search.trials", 2, "--workdir", tmp_path, "--json")
    assert result.returncode == 0, result.stdout + result.stderr
    assert head.details("searches").status == "SUCCEEDED"
    assert "mlflow ui --backend-store-uri" in result.stdout
    told = json.loads(next(line for line in result.stdout.splitlines() if line.startswith("{")))
    assert told["states"] == {"FINISHED": 2}
    assert told["best"].keys() == {"run_id", "config", "val_miou"}
    config = configuration.from_json(json.dumps(told["best"]["config"]))
    assert (config.data.store, config.cluster.address) == (store_uri, "")  # good for another cluster too

    monkeypatch.chdir("/")
    uri = mlflow_store.prepare(tmp_path).uri
    assert mlflow_store.find(uri, told["search"]).tags["swath.best"] == told["best"]["run_id"]
    best = mlflow_store.find(uri, told["best"]["run_id"])
    assert best.metrics["val/miou"] == pytest.approx(told["best"]["val_miou"])
    assert Path(best.tags["swath.checkpoint"]).is_dir()
    found = runs(tmp_path)
    assert {run.data.params["train.megapixels"] for run in found["trial"]} == {"0.2"}
    assert float(found["winner"][0].data.params["train.megapixels"]) == 1.5 * epoch_megapixels(store)
    assert statuses(tmp_path) == {"search": ["FINISHED"], "trial": ["FINISHED"] * 2, "winner": ["FINISHED"]}


@pytest.mark.slow
def test_what_a_user_can_mend_fails_the_job(head: Head) -> None:
    result = head.submit("relative", "jobs/train.py", "synthetic", "--data.store", "/s.zarr", "--workdir", "runs/a")
    assert result.returncode != 0
    assert "workdir: runs/a is relative" in result.stdout
    assert "Traceback" not in result.stdout
    details = head.details("relative")
    assert (details.status, details.driver_exit_code) == ("FAILED", 2)


@pytest.mark.slow
def test_a_stopped_job_leaves_no_process_and_a_killed_run(head: Head, store_uri: str, tmp_path: Path) -> None:
    def processes() -> list[int]:
        return [p.pid for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])]

    head.submit("stopped", "jobs/train.py", "synthetic", "--data.store", store_uri, *TRAIN_ARGUMENTS,
                "--train.megapixels", 1000, "--workdir", tmp_path, options=("--no-wait",))
    while not (saved := list(tmp_path.glob("checkpoints/*/kpx*"))):
        assert head.details("stopped").status in ("PENDING", "RUNNING")
        time.sleep(0.2)
    assert processes()
    assert head.ray("job", "stop", "--address", head.url, "stopped").returncode == 0
    assert head.details("stopped").status == "STOPPED"
    assert not processes()
    assert mlflow_store.find(mlflow_store.prepare(tmp_path).uri, saved[0].parent.name).status == "KILLED"


@pytest.mark.parametrize(("command", "field"), [
    ("train synthetic --data.store /s.zarr", "workdir"),
    ("train synthetic --data.store s.zarr --workdir /dev/null/w", "data.store"),
    ("train synthetic --data.store /s.zarr --workdir /dev/null/w --track.uri sqlite:///m.db", "track.uri"),
    ("ingest synthetic --data.store s.zarr --data.source /images", "data.store"),
    ("ingest synthetic --data.store s3://bucket/s.zarr --data.source images", "data.source"),
    ("evaluate RUN", "workdir"),
    ("evaluate RUN --workdir /dev/null/w --data.store s.zarr", "data.store"),
    ("predict RUN a.tif /map.tif --workdir /dev/null/w", "INPUT"),
    ("predict RUN /a.tif map.tif --workdir /dev/null/w", "OUTPUT"),
])
def test_in_a_job_every_place_has_to_last(job_here: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, command: str,
                                          field: str) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    result = job_here(*command.split())
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {field}: ")
    assert "give an absolute path" in result.stderr


def test_places_that_last(monkeypatch: pytest.MonkeyPatch) -> None:
    assert paths.absolute_path(Path("runs"), "workdir") == Path.cwd() / "runs"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    for place in ("", "/s.zarr", "s3://bucket/s.zarr", "file:///s.zarr"):
        assert paths.absolute_path(place, "data.store") == place
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///m.db")
    for uri in ("http://127.0.0.1:5000", "sqlite:////m.db", "postgresql://user@host/runs"):
        assert paths.absolute_tracking_uri(uri) == uri
    with pytest.raises(ConfigError, match=r"MLFLOW_TRACKING_URI: m\.db is relative"):
        paths.absolute_tracking_uri("")
