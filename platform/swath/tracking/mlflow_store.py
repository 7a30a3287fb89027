"""Where runs are recorded: an MLflow tracking store, or memory. The only module that knows MLflow.

    location = prepare(workdir)                     once, in the process that a person started
    tracker = MlflowTracker.start(location.uri, …)  the driver creates the run, and ends it
    tracker = MlflowTracker.attach(uri, run_id)     a worker logs into it

Metrics are counted in megapixels seen. MLflow's step is a whole number, so it is kilopixels seen.
"""

import fcntl
import logging
import os
import re
import shlex
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self, final

import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from swath.errors import ConfigError, SwathError, TrainingError
from swath.names import CHECKPOINT_TAG, NOTES_TAG, REASON_TAG
from swath.tracking.records import (
    PARAM_LENGTH,
    TAG_LENGTH,
    MemoryTracker,
    RunRecord,
    Status,
    Tracker,
    V,
    cut,
    kilopixels,
    named,
    numbers,
    reporter,
    with_note,
)

__all__ = ["CHECKPOINT_TAG", "Location", "MemoryTracker", "MlflowTracker", "RunRecord", "Status", "Tracker", "find",
           "metric_history", "prepare", "reporter", "tagged", "ui_command"]

_BATCH = 100  # params or tags that MLflow takes in one call
# With its own settings MLflow asks a server that does not answer for minutes.
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_SURROUNDINGS = threading.RLock()


@dataclass(frozen=True, kw_only=True)
class Location:
    """A tracking store that answers."""

    uri: str
    """Its absolute URI, good in any process and working directory."""
    artifact_location: str | None
    """URI of the folder for the artifacts of new experiments; None: a server's own affair."""


def prepare(workdir: Path, uri: str = "") -> Location:
    """The tracking store of `uri`, else of $MLFLOW_TRACKING_URI, else WORKDIR/mlflow.db; an SQLite file is made.

    Artifacts lie beside an SQLite file, below the working directory for another database. Several processes may call
    it at once. Raises ConfigError, within seconds, when the store cannot be reached.
    """
    workdir = workdir.resolve()
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI", "") or _sqlite_uri(workdir / "mlflow.db")
    file = _sqlite_file(uri)
    artifacts: str | None = None
    if file:
        uri, artifacts = _sqlite_uri(file), (file.parent / "artifacts").as_uri()
        _initialise(file, uri)
    elif _is_database(uri):
        artifacts = (workdir / "artifacts").as_uri()
    _connect(uri)
    return Location(uri=uri, artifact_location=artifacts)


def find(uri: str, run_id: str) -> RunRecord:
    """What is recorded of a run. Raises ConfigError when the store has no such run, or cannot be reached."""
    return _record(_get_run(_connect(uri), uri, run_id))


def _record(run: Run) -> RunRecord:
    return RunRecord(run_id=run.info.run_id, status=run.info.status, params=dict(run.data.params),
                     tags=dict(run.data.tags), metrics=dict(run.data.metrics))


def tagged(uri: str, experiment: str, tags: Mapping[str, str]) -> list[tuple[datetime, RunRecord]]:
    """The runs of an experiment that have these tags, with the time at which each began (UTC), oldest first; none where
    there is no such experiment. Raises ConfigError as `find` does."""
    client = _connect(uri)
    wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    runs: list[Run] = []
    with _told(uri, ConfigError):
        found = client.get_experiment_by_name(experiment)
        token: str | None = "" if found else None
        while found and token is not None:
            page = client.search_runs([found.experiment_id], wanted, order_by=["attributes.start_time"],
                                      page_token=token or None)
            runs += page
            token = page.token or None
    return [(datetime.fromtimestamp(run.info.start_time / 1000, UTC), _record(run)) for run in runs]


def metric_history(uri: str, run_id: str, key: str) -> list[tuple[int, float]]:
    """All values of a metric as (kilopixels seen, value), oldest first. Raises ConfigError as `find` does."""
    client = _connect(uri)
    _get_run(client, uri, run_id)
    with _told(uri, ConfigError):
        history = client.get_metric_history(run_id, key)
    return [(m.step, m.value) for m in sorted(history, key=lambda m: (m.step, m.timestamp))]


def ui_command(location: Location) -> str:
    """The command that shows the runs in a browser."""
    if location.uri.startswith(("http://", "https://")):
        return f"python -m webbrowser {shlex.quote(_masked(location.uri))}"
    store = shlex.quote(location.uri) if _masked(location.uri) == location.uri else '"$MLFLOW_TRACKING_URI"'
    return f"mlflow ui --backend-store-uri {store} --host 127.0.0.1 --port 5000"


@final
class MlflowTracker:
    """A run in an MLflow tracking store. Made by `start` or `attach`."""

    def __init__(self, client: MlflowClient, uri: str, run_id: str) -> None:
        self.run_id = run_id
        self._uri = uri
        self._client = client

    @classmethod
    def start(cls, uri: str, *, experiment: str, name: str, artifact_location: str | None,
              params: Mapping[str, object], tags: Mapping[str, str]) -> Self:
        """Create a run, and its experiment where that does not exist.

        Raises ConfigError when the store cannot be reached, or the experiment is a deleted one.
        """
        client = _connect(uri)
        with _told(uri, ConfigError):
            run = client.create_run(_experiment_id(client, uri, experiment, artifact_location), run_name=name)
        tracker = cls(client, uri, run.info.run_id)
        try:
            tracker.tags(tags)
            tracker.params(params)
        except BaseException as error:  # a run that nobody knows of would stay RUNNING for ever
            tracker.end("FAILED", f"{type(error).__name__}: {error}")
            raise
        return tracker

    @classmethod
    def attach(cls, uri: str, run_id: str) -> Self:
        """Log into a run that another process has created, and ends. Raises ConfigError as `find` does."""
        client = _connect(uri)
        _get_run(client, uri, run_id)
        return cls(client, uri, run_id)

    @classmethod
    def reopen(cls, uri: str, run_id: str) -> Self:
        """Go on with a run that has ended, or whose process has. Raises ConfigError as `find` does."""
        tracker = cls.attach(uri, run_id)
        with _told(uri, ConfigError):
            if REASON_TAG in _get_run(tracker._client, uri, run_id).data.tags:
                tracker._client.delete_tag(run_id, REASON_TAG)
            tracker._client.update_run(run_id, status="RUNNING")
        return tracker

    def params(self, params: Mapping[str, object]) -> None:
        entries = [Param(key, cut(str(value), PARAM_LENGTH)) for key, value in named(params).items()]
        for some in _batches(entries):
            self._batch(params=some)

    def tags(self, tags: Mapping[str, str]) -> None:
        for some in _batches([RunTag(key, cut(value, TAG_LENGTH)) for key, value in named(tags).items()]):
            self._batch(tags=some)

    def log(self, metrics: Mapping[str, float | None], megapixels: float) -> None:
        now_ms, step = time.time_ns() // 1_000_000, kilopixels(megapixels)
        for some in _batches([Metric(*item, now_ms, step) for item in numbers(metrics, megapixels).items()]):
            self._batch(metrics=some)

    def note(self, text: str) -> None:
        with _told(self._uri, TrainingError):
            before = self._client.get_run(self.run_id).data.tags.get(NOTES_TAG, "")
        self.tags({NOTES_TAG: with_note(before, text)})

    def artifact(self, path: Path, folder: str = "") -> None:
        if not path.exists():
            raise FileNotFoundError(path)
        with _told(self._uri, TrainingError):
            self._client.log_artifact(self.run_id, str(path), folder or None)

    def text(self, text: str, name: str) -> None:
        with _told(self._uri, TrainingError):
            self._client.log_text(self.run_id, text, name)

    def end(self, status: Status, reason: str = "") -> None:
        with _told(self._uri, TrainingError):
            ended = self._client.get_run(self.run_id).info.status in ("FINISHED", "FAILED", "KILLED")
        if ended:
            return
        if reason:
            self.tags({REASON_TAG: reason})
        # Else MLflow prints the run's address, with a server, into output that a program may read.
        with _told(self._uri, TrainingError), _surroundings({"MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true"}):
            self._client.set_terminated(self.run_id, status)

    def _batch(self, *, metrics: Sequence[Metric] = (), params: Sequence[Param] = (),
               tags: Sequence[RunTag] = ()) -> None:
        with _told(self._uri, TrainingError):
            self._client.log_batch(self.run_id, metrics, params, tags, synchronous=True)


def _connect(uri: str) -> MlflowClient:
    """A client of a store that is there and answers. Raises ConfigError, within seconds, when it does not."""
    file = _sqlite_file(uri)
    if file and not file.exists():
        raise ConfigError(f"{_masked(uri)}: there is no tracking store; mend --track.uri or $MLFLOW_TRACKING_URI")
    with _told(uri, ConfigError), _surroundings(_IMPATIENT):
        if _is_database(uri):
            _tables(uri)
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    return client


def _initialise(file: Path, uri: str) -> None:
    """Make the tables of an SQLite store, once.

    MLflow does so in hundreds of steps: a second process that starts them, or a kill half-way, spoils the file for
    good. So they are made elsewhere, and come here in one transaction, under a lock.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = file.with_name(f"{file.name}.lock").open("a")
    except OSError as error:
        raise ConfigError(f"{uri}: a tracking store cannot be made there ({error})") from None
    with lock, _told(uri, ConfigError):
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go when the file is closed, or the process ends
        if _tables(uri):
            return
        with tempfile.TemporaryDirectory() as folder, _surroundings({}):
            fresh = Path(folder) / "mlflow.db"
            MlflowClient(tracking_uri=_sqlite_uri(fresh))
            with closing(sqlite3.connect(fresh)) as source, closing(sqlite3.connect(file)) as target:
                source.backup(target)


def _tables(uri: str) -> list[str]:
    """The tables of a database. Asked before MLflow is, which tries for over a minute to connect."""
    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool)
    return sqlalchemy.inspect(engine).get_table_names()


def _is_database(uri: str) -> bool:
    return uri.split("://")[0].split("+")[0] in ("sqlite", "postgresql", "mysql", "mssql")


def _sqlite_file(uri: str) -> Path | None:
    """The absolute path of an SQLite store; None for another store. Raises ConfigError for one that is no file."""
    if not uri.startswith("sqlite"):
        return None
    with _told(uri, ConfigError):
        url = sqlalchemy.make_url(uri)
    if not url.database or url.database == ":memory:" or url.query:
        raise ConfigError(f"{uri}: an SQLite tracking store is written sqlite:////absolute/path, and no more")
    return Path(url.database).resolve()


def _sqlite_uri(file: Path) -> str:
    # SQLAlchemy takes these for an escape and for the beginning of options; all else it takes as it is.
    return "sqlite:///" + str(file).replace("%", "%25").replace("?", "%3F")


def _get_run(client: MlflowClient, uri: str, run_id: str) -> Run:
    try:
        with _told(uri, ConfigError):
            return client.get_run(run_id)
    except ConfigError as error:
        cause = error.__cause__
        if isinstance(cause, MlflowException) and cause.error_code in ("RESOURCE_DOES_NOT_EXIST",
                                                                       "INVALID_PARAMETER_VALUE"):
            raise ConfigError(f"{_masked(uri)}: there is no run {run_id} in this tracking store; its UI lists those "
                              "that there are") from None
        raise


def _experiment_id(client: MlflowClient, uri: str, name: str, artifact_location: str | None) -> str:
    """The id of an experiment, which is created where it does not exist."""
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return client.create_experiment(name, artifact_location)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        experiment = client.get_experiment_by_name(name)  # another process was first
        assert experiment is not None
    if experiment.lifecycle_stage != "active":
        raise ConfigError(f"{_masked(uri)}: the experiment {name} is deleted; restore it (mlflow experiments restore "
                          f"--experiment-id {experiment.experiment_id}) or choose another --track.experiment")
    return experiment.experiment_id


def _batches(entries: Sequence[V]) -> Iterator[Sequence[V]]:
    return (entries[i : i + _BATCH] for i in range(0, len(entries), _BATCH))


@contextmanager
def _told(uri: str, kind: type[SwathError]) -> Iterator[None]:
    """What MLflow or its database says went wrong, as one line that names the store."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, ImportError) as error:
        said = _masked(" ".join(str(error).split())).split("(Caused by ")[-1]  # the end of a failed request's long tale
        advice = "; start it, or mend --track.uri or $MLFLOW_TRACKING_URI" if kind is ConfigError else ""
        raise kind(f"tracking store {_masked(uri)} cannot serve{advice}: {cut(said, 400)}") from error


@contextmanager
def _surroundings(settings: Mapping[str, str]) -> Iterator[None]:
    """Environment variables that MLflow reads at each call, and its loggers quiet below a warning, for a while."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    with _SURROUNDINGS:  # so that of two threads none puts back what the other has set
        before, levels = {name: os.environ.get(name) for name in settings}, [logger.level for logger in loggers]
        os.environ.update(settings)
        for logger in loggers:
            logger.setLevel(max(logger.level, logging.WARNING))
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value


def _masked(uri: str) -> str:
    """The URI without its password."""
    return re.sub(r"(?<=://)([^/@:]*):[^/@]*@", r"\1:***@", uri)
