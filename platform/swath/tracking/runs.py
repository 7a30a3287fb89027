"""Runs that others name: where their checkpoints lie, and those that go on."""

from dataclasses import replace
from pathlib import Path

from swath.config import Config
from swath.errors import CheckpointError, ConfigError
from swath.models import checkpoint
from swath.names import CODE_TAG
from swath.tracking import mlflow_store, provenance
from swath.tracking.mlflow_store import MlflowTracker
from swath.tracking.records import PARAM_LENGTH, cut


def checkpoints(workdir: Path, run_id: str) -> Path:
    """The folder of a run's checkpoints."""
    return workdir / "checkpoints" / run_id


def locate(run: str, workdir: Path, uri: str = "") -> tuple[Path, str | None]:
    """The folder of a run's checkpoint, and the run's id where it was given by one.

    Raises ConfigError for an id that the tracking store does not have, CheckpointError for a run without a checkpoint.
    """
    if "/" in run or Path(run).is_dir():
        return Path(run), None
    location = mlflow_store.prepare(workdir, uri)
    recorded = mlflow_store.find(location.uri, run)
    if newest := checkpoint.newest(checkpoints(workdir.resolve(), run)):  # the tag of a run that was killed may be old
        return newest, run
    if mlflow_store.CHECKPOINT_TAG in recorded.tags:
        return Path(recorded.tags[mlflow_store.CHECKPOINT_TAG]), run
    raise CheckpointError(f"run {run} ({recorded.status}) has no checkpoint; use a run that has finished")


def with_folders(config: Config, workdir: Path, uri: str) -> Config:
    """The configuration with the checkpoint folders of the runs that it names: to go on from, or for initial weights.

    Raises what `locate` does, and CheckpointError for one to go on from that is not whole or is of another
    configuration.
    """
    if config.model.init_from:
        folder, _ = locate(config.model.init_from, workdir, uri)
        config = replace(config, model=replace(config.model, init_from=str(folder.resolve())))
    if config.train.resume:
        folder = checkpoint_of(config.train.resume, workdir, uri, config)
        config = replace(config, train=replace(config.train, resume=str(folder)))
    return config


def checkpoint_of(run: str, workdir: Path, uri: str, config: Config) -> Path:
    """The folder of the whole checkpoint that `train.resume` names. Raises what `locate` does, and CheckpointError for
    one that is not whole or is of another configuration."""
    folder, _ = locate(run, workdir, uri)
    saved = checkpoint.load(folder).config
    changed = [name for name, value in config.fixed_fields().items() if saved.fixed_fields()[name] != value]
    if changed:
        raise CheckpointError(f"train.resume: {folder} is of another configuration ({', '.join(changed)} differ); take "
                              "its weights alone, or give the same configuration")
    return folder.resolve()


def reopened(run_id: str, config: Config, location: mlflow_store.Location) -> MlflowTracker:
    """The record of a run that is to go on. Raises ConfigError for one that has finished, or is of another
    configuration."""
    recorded = mlflow_store.find(location.uri, run_id)
    if recorded.status == "FINISHED":
        raise ConfigError(f"run {run_id} has finished; start a new one, without --run")
    given = {name: cut(str(value), PARAM_LENGTH) for name, value in config.fixed_fields().items()}
    changed = [f"{name} was {recorded.params.get(name)}" for name, value in given.items()
               if recorded.params.get(name) != value]
    if changed:
        raise ConfigError(f"run {run_id} was begun with another configuration: {', '.join(changed)}; give the same "
                          "again, or start a new run")
    tracker = MlflowTracker.reopen(location.uri, run_id)
    if (code := recorded.tags.get(CODE_TAG)) != provenance.code():
        tracker.note(f"gone on with by other code ({provenance.code()}) than before ({code})")
    return tracker
