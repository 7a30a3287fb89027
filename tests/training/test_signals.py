"""A run that is told to end, killed, and finds its newest checkpoint cut in half, in real processes: the same run."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from support.configs import calm
from support.curves import CURVES, assert_alike, curves
from support.paths import ROOT
from swath.config import ClusterConfig, Config
from swath.errors import CheckpointError, ConfigError
from swath.experiments import experiment
from swath.models import checkpoint, checkpoint_files
from swath.tracking import mlflow_store
from swath.training import signals


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """What reaches the handlers that a process has had before."""
    heard: list[int] = []
    before = {number: signal.signal(number, lambda number, frame: heard.append(number))
              for number in (signal.SIGTERM, signal.SIGINT)}
    yield heard
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "end"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_the_first_signal_is_noted_and_the_second_acts(heard: list[int], number: int,
                                                       end: type[BaseException]) -> None:
    with signals.catch_stop_signals() as told:
        told.reraise()  # nothing yet
        os.kill(os.getpid(), number)
        assert (bool(told), told.number, heard) == (True, number, [])
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    with pytest.raises(end) as left:
        told.reraise()
    assert getattr(left.value, "code", None) == (143 if number == signal.SIGTERM else None)


def test_after_the_block_signals_do_what_they_did(heard: list[int]) -> None:
    with signals.catch_stop_signals() as told:
        pass
    os.kill(os.getpid(), signal.SIGINT)
    assert (bool(told), heard) == (False, [signal.SIGINT])


def test_a_thread_heeds_no_signals() -> None:
    def look() -> None:
        before = signal.getsignal(signal.SIGTERM)
        with signals.catch_stop_signals() as told:
            seen.append((bool(told), signal.getsignal(signal.SIGTERM) == before))

    seen: list[tuple[bool, bool]] = []
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [(False, True)]


class Job:
    """Processes of jobs/train.py that train one run, and what they leave."""

    def __init__(self, config: Config, workdir: Path) -> None:
        self.workdir, self.samples = workdir, workdir / "samples"
        workdir.mkdir(exist_ok=True)
        file = workdir / "config.json"
        file.write_text(replace(config, track=replace(config.track, samples=str(self.samples))).to_json())
        self._command = [sys.executable, str(ROOT / "jobs" / "train.py"), "--config", str(file), "--workdir",
                         str(workdir), "--json"]

    def start(self, *more: str) -> "subprocess.Popen[str]":
        return subprocess.Popen([*self._command, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                cwd=ROOT)

    def until(self, process: "subprocess.Popen[str]", step: int) -> None:
        """Wait until so many steps are done."""
        while self.steps()[-1:] < [step]:
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)

    def steps(self) -> list[int]:
        """The steps that rank 0 has noted, as they came."""
        file = self.samples / "rank-0.jsonl"
        lines = file.read_text().split("\n")[:-1] if file.exists() else []
        return [json.loads(line)["step"] for line in lines]

    @property
    def folder(self) -> Path:
        """Of the checkpoints."""
        return next((self.workdir / "checkpoints").iterdir())

    @property
    def run_id(self) -> str:
        return self.folder.name

    @property
    def record(self) -> mlflow_store.RunRecord:
        return mlflow_store.find(mlflow_store.prepare(self.workdir).uri, self.run_id)

    def curves(self) -> list[list[float]]:
        """The recorded curves: the last value at each place."""
        uri = mlflow_store.prepare(self.workdir).uri
        return [list(dict(mlflow_store.metric_history(uri, self.run_id, name)).values()) for name in CURVES]


def end_by_turns(job: Job, number: int) -> None:
    """Tell a run to end, go on with it, kill it, cut its newest checkpoint in half, and go on to its end."""
    process = job.start()
    job.until(process, 6)
    process.send_signal(number)
    assert process.wait(120) == 128 + number, process.communicate()
    assert job.record.status == "KILLED"
    assert job.record.tags["swath.reason"] == ("told to end by a signal" if number == signal.SIGTERM else "interrupted")
    newest = checkpoint_files.newest(job.folder)
    assert newest is not None
    assert checkpoint.load(newest).state.step == job.steps()[-1] + 1  # the step was finished, and saved
    assert job.record.tags["swath.checkpoint"] == str(newest)

    process = job.start("--run", job.run_id)
    job.until(process, 24)
    family = [child for child in psutil.Process(process.pid).children(recursive=True)
              if "Agent" not in child.name()]  # Ray's own look after their raylet only now and then
    process.kill()
    process.wait()
    assert not psutil.wait_procs(family, timeout=30)[1]
    assert job.record.status == "RUNNING"
    assert "swath.reason" not in job.record.tags
    newest = checkpoint_files.newest(job.folder)
    assert newest is not None
    state = newest / "state.pt"
    state.write_bytes(state.read_bytes()[: state.stat().st_size // 2])
    process = job.start("--run", job.run_id)
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert json.loads(output.splitlines()[-1])["run_id"] == job.run_id
    assert f"checkpoint {newest} is not whole" in errors
    assert "goes on from its own checkpoint" in errors
    assert job.record.status == "FINISHED"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("number", "workers"), [
    (signal.SIGINT, 1), pytest.param(signal.SIGTERM, 2, marks=pytest.mark.long)])
def test_a_run_that_is_told_to_end_and_killed_is_the_same_run(alone: experiment.Outcome, store_uri: str, tmp_path: Path,
                                                              number: int, workers: int) -> None:
    job = Job(calm(store_uri, workers=workers), tmp_path / "run")
    end_by_turns(job, number)
    assert set(job.steps()) == set(range(int(alone.run.metrics["step"])))
    assert_alike(job.curves(), curves(alone))
    if workers == 1:
        np.testing.assert_allclose(job.curves(), curves(alone), rtol=1e-5)
        assert job.record.metrics["val/miou"] == alone.score.miou


def test_a_run_that_has_finished_or_differs_is_not_gone_on_with(store_uri: str, tmp_path: Path) -> None:
    config = calm(store_uri)
    config = replace(config, train=replace(config.train, megapixels=0.03), cluster=ClusterConfig(readers=0))
    outcome = experiment.train(config, tmp_path)
    with pytest.raises(ConfigError, match="has finished"):
        experiment.train(config, tmp_path, run_id=outcome.run_id)
    mlflow_store.MlflowTracker.reopen(outcome.location.uri, outcome.run_id)
    other = replace(config, train=replace(config.train, lr=0.5))
    with pytest.raises(ConfigError, match=r"train\.lr was 0\.001"):
        experiment.train(other, tmp_path, run_id=outcome.run_id)

    with pytest.raises(CheckpointError, match=r"train\.resume: .* another configuration \(train\.lr"):
        experiment.train(replace(other, train=replace(other.train, resume=outcome.run_id)), tmp_path)
    with pytest.raises(ConfigError, match="no run"):
        experiment.train(replace(config, train=replace(config.train, resume="nothing")), tmp_path)
    again = experiment.train(replace(config, train=replace(config.train, resume=outcome.run_id)), tmp_path)
    assert again.run_id != outcome.run_id
    assert again.run.history == outcome.run.history  # its last report; nothing was left to do
