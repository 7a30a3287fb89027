"""The trackers keep one contract; the default store survives processes that make it at once, and kills."""

import logging
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient

from swath.errors import ConfigError, TrainingError
from swath.tracking import mlflow_store
from swath.tracking.mlflow_store import Location, MemoryTracker, MlflowTracker, RunRecord, Tracker


@dataclass
class Case:
    """A tracker, and how what it recorded is read back."""

    tracker: Tracker
    record: Callable[[], RunRecord]
    history: Callable[[str], list[tuple[int, float]]]
    file: Callable[[str], bytes]


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory) -> Location:
    return mlflow_store.prepare(tmp_path_factory.mktemp("work dir 100%"))


@pytest.fixture(params=["memory", "mlflow"])
def case(request: pytest.FixtureRequest, location: Location) -> Case:
    if request.param == "memory":
        memory = MemoryTracker()
        return Case(memory, memory.record, memory.history, lambda name: memory.files[name])
    run = start(location)

    def file(name: str) -> bytes:
        return Path(MlflowClient(location.uri).download_artifacts(run.run_id, name)).read_bytes()

    return Case(run, lambda: mlflow_store.find(location.uri, run.run_id),
                lambda key: mlflow_store.metric_history(location.uri, run.run_id, key), file)


@pytest.fixture(autouse=True)
def _no_tracking_uri(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def start(location: Location, experiment: str = "tests", **settings: object) -> MlflowTracker:
    return MlflowTracker.start(location.uri, experiment=experiment, name="a run",
                               artifact_location=location.artifact_location, params=settings, tags={})


def test_metrics_are_recorded_by_kilopixels_without_gaps(case: Case) -> None:
    case.tracker.log({"val/miou": 0.5, "val/iou/lake": None, "val/iou/road": float("nan"), "loss": float("inf")}, 2.5)
    case.tracker.log({"val/miou": 0.25, "val/iou/a+b": 1}, 3.0004)
    mlflow_store.reporter(case.tracker)({"megapixels": 1.0, "val/miou": 0.125})
    assert case.record().metrics == {"val/miou": 0.25, "val/iou/a_b": 1.0, "megapixels": 3.0004}
    assert case.history("val/miou") == [(1000, 0.125), (2500, 0.5), (3000, 0.25)]
    assert case.history("megapixels") == [(1000, 1.0), (2500, 2.5), (3000, 3.0004)]
    assert case.history("val/iou/lake") == []


def test_names_that_would_become_one_are_refused(case: Case) -> None:
    with pytest.raises(ConfigError, match=r"val/iou/a\+b: the same name as another"):
        case.tracker.log({"val/iou/a+b": 1.0, "val/iou/a_b": 0.0}, 1.0)


def test_any_number_of_params_and_tags_is_recorded_as_text(case: Case) -> None:
    case.tracker.params({"patches.scales": (1.0, 2.0), "track.name": "", "cut": "x" * 6001, "whole": "y" * 6000}
                        | {f"p{i}": i for i in range(250)})
    case.tracker.tags({"swath.note": "z" * 9000, "again": "old"} | {f"t{i}": "" for i in range(120)})
    case.tracker.tags({"again": "new"})
    record = case.record()
    assert len(record.params) == 254
    assert (record.params["patches.scales"], record.params["track.name"]) == ("(1.0, 2.0)", "")
    assert record.params["cut"] == "x" * 5999 + "…"
    assert record.params["whole"] == "y" * 6000
    assert record.tags["swath.note"] == "z" * 7999 + "…"
    assert record.tags["again"] == "new"


def test_a_param_may_be_recorded_again_but_not_change(case: Case) -> None:
    case.tracker.params({"train.lr": 0.001})
    case.tracker.params({"train.lr": 0.001})
    with pytest.raises(TrainingError, match=r"train\.lr"):
        case.tracker.params({"train.lr": 0.002})


def test_files_folders_and_texts_are_kept(case: Case, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.bin").write_bytes(b"\x00\xff")
    case.tracker.artifact(folder)
    case.tracker.artifact(folder / "deep" / "a.bin", "some/where")
    case.tracker.text("Größe", "notes/config.json")
    assert case.file("pictures/deep/a.bin") == case.file("some/where/a.bin") == b"\x00\xff"
    assert case.file("notes/config.json").decode() == "Größe"
    with pytest.raises(FileNotFoundError):
        case.tracker.artifact(tmp_path / "absent")


def test_a_run_keeps_its_first_end(case: Case) -> None:
    assert case.record().status == "RUNNING"
    case.tracker.end("FAILED", "the loss is nan")
    case.tracker.end("FINISHED")
    case.tracker.end("KILLED", "too late")
    assert case.record().status == "FAILED"
    assert case.record().tags["swath.reason"] == "the loss is nan"


def test_a_worker_logs_into_the_run_of_the_driver(location: Location) -> None:
    driver = start(location, a=1)
    worker = MlflowTracker.attach(location.uri, driver.run_id)
    worker.log({"train/loss": 1.0}, 1.0)
    driver.end("KILLED", "stopped")
    worker.end("FINISHED")
    record = mlflow_store.find(location.uri, driver.run_id)
    assert (record.status, record.params, record.metrics["train/loss"]) == ("KILLED", {"a": "1"}, 1.0)
    ended = MlflowClient(location.uri).get_run(driver.run_id).info
    assert ended.run_name == "a run"
    assert ended.end_time is not None


def test_a_run_that_cannot_be_started_does_not_stay_running(location: Location) -> None:
    with pytest.raises(ConfigError, match="the same name"):
        start(location, "broken", **{"a+": 1, "a_": 2})
    client = MlflowClient(location.uri)
    experiment = client.get_experiment_by_name("broken")
    assert experiment is not None
    assert [run.info.status for run in client.search_runs([experiment.experiment_id])] == ["FAILED"]


def test_a_deleted_experiment_is_named(location: Location) -> None:
    client = MlflowClient(location.uri)
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(ConfigError, match="the experiment gone is deleted; restore it"):
        start(location, "gone")


@pytest.mark.parametrize("run_id", ["0123456789abcdef", "no/such run", ""])
def test_an_unknown_run_is_named_with_its_store(location: Location, run_id: str) -> None:
    for look in (mlflow_store.find, MlflowTracker.attach, lambda u, r: mlflow_store.metric_history(u, r, "loss")):
        with pytest.raises(ConfigError) as error:
            look(location.uri, run_id)
        assert f"there is no run {run_id} in this tracking store" in str(error.value)
        assert location.uri in str(error.value)
        assert "\n" not in str(error.value)


def test_looking_for_a_run_makes_no_store(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no tracking store"):
        mlflow_store.find(f"sqlite:///{tmp_path}/absent.db", "abc")
    assert list(tmp_path.iterdir()) == []


def test_the_store_is_the_argument_environment_or_workdir(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    default = mlflow_store.prepare(Path("relative"))
    assert default == Location(uri=f"sqlite:///{tmp_path}/relative/mlflow.db",
                               artifact_location=f"file://{tmp_path}/relative/artifacts")
    assert mlflow_store.ui_command(default) == (
        f"mlflow ui --backend-store-uri sqlite:///{tmp_path}/relative/mlflow.db --host 127.0.0.1 --port 5000")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///elsewhere.db")
    assert mlflow_store.prepare(tmp_path / "w").uri == f"sqlite:///{tmp_path}/elsewhere.db"
    assert mlflow_store.prepare(tmp_path / "w", default.uri) == default
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("uri", [
    "http://person:secret@127.0.0.1:1", "https://no-such-host.invalid/mlflow", "sqlite://", "sqlite:///:memory:",
    "sqlite:////proc/absent/mlflow.db", f"sqlite:///{__file__}", "sqlite:///x.db?mode=ro", "runs", "file:///tmp/runs",
    "ftp://example.invalid", "postgresql+nodriver://person:secret@127.0.0.1:1/db"])
def test_a_store_that_cannot_serve_is_told_in_one_line_and_soon(uri: str, tmp_path: Path) -> None:
    environment, began = dict(os.environ), time.monotonic()
    with pytest.raises(ConfigError) as error:
        mlflow_store.prepare(tmp_path, uri)
    assert time.monotonic() - began < 15
    assert uri.split(":")[0] in str(error.value)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)
    assert dict(os.environ) == environment


def test_a_server_keeps_artifacts_and_passwords_are_not_printed() -> None:
    server = Location(uri="https://person:secret@host/mlflow", artifact_location=None)
    assert mlflow_store.ui_command(server) == "python -m webbrowser 'https://person:***@host/mlflow'"
    database = Location(uri="postgresql://person:secret@host/db", artifact_location="file:///artifacts")
    assert '--backend-store-uri "$MLFLOW_TRACKING_URI"' in mlflow_store.ui_command(database)


PROCESS = """
import sys
from pathlib import Path
from swath.tracking import mlflow_store
print("ready", flush=True)
sys.stdin.readline()
location = mlflow_store.prepare(Path(sys.argv[1]))
run = mlflow_store.MlflowTracker.start(location.uri, experiment="new", name="run", params={"a": 1}, tags={},
                                   artifact_location=location.artifact_location)
run.log({"loss": 1.0}, 1.0)
run.end("FINISHED")
"""


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts a process that prepares a store in `tmp_path` and records a run there, once it is sent a line."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    started: list[subprocess.Popen[str]] = []

    def begin() -> subprocess.Popen[str]:
        started.append(subprocess.Popen([sys.executable, "-c", PROCESS, str(tmp_path)], env=environment, text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return started[-1]

    yield begin
    for one in started:
        one.kill()
        one.communicate()


def send_off(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_three_processes_at_once_make_one_store_silently(
        process: Callable[[], subprocess.Popen[str]], tmp_path: Path) -> None:
    three = [process() for _ in range(3)]
    for one in three:
        send_off(one)
    for one in three:
        assert one.communicate(timeout=120) == ("", "")
        assert one.returncode == 0
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    client = MlflowClient(mlflow_store.prepare(tmp_path).uri)
    experiments = {e.name: e.experiment_id for e in client.search_experiments()}
    assert set(experiments) == {"Default", "new"}
    runs = client.search_runs([experiments["new"]])
    assert [(run.info.status, run.data.metrics["loss"]) for run in runs] == [("FINISHED", 1.0)] * 3


@pytest.mark.parametrize("seconds", [0.5, pytest.param(0.9, marks=pytest.mark.slow)])
def test_a_store_whose_maker_was_killed_is_made_by_the_next(
        process: Callable[[], subprocess.Popen[str]], tmp_path: Path, seconds: float) -> None:
    first = process()
    send_off(first)
    time.sleep(seconds)
    first.kill()
    run = start(mlflow_store.prepare(tmp_path))
    run.end("FINISHED")
    assert mlflow_store.find(mlflow_store.prepare(tmp_path).uri, run.run_id).status == "FINISHED"


def test_logging_is_as_before_afterwards(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names = (None, "mlflow", "alembic")
    before = [(logging.getLogger(name).level, list(logging.getLogger(name).handlers)) for name in names]
    mlflow_store.prepare(tmp_path)
    assert [(logging.getLogger(name).level, list(logging.getLogger(name).handlers)) for name in names] == before
    assert capfd.readouterr() == ("", "")
