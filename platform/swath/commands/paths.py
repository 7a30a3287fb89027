"""Paths of a command line, made absolute: a job and its results must not depend on the current directory."""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from swath.config import Config
from swath.errors import ConfigError

P = TypeVar("P", str, Path)


def absolute_path(place: P, field: str) -> P:
    """An absolute path; a URI and an empty text stay as they are.

    Raises ConfigError, naming the field, for an address where a path is needed, and for a relative path in a job of
    `ray job submit`: the current directory of such a job is a temporary copy, so results in it would be lost.
    """
    if isinstance(place, Path) and re.match(r"\w+:/", str(place)):  # a Path drops one slash of an address
        raise ConfigError(f"{field}: {place} is an address; give a file or folder of this machine")
    if not str(place) or "://" in str(place):
        return place
    # Ray's job supervisor sets this variable for the command that it runs. Nothing else does, not even its workers.
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and not os.path.isabs(place):
        raise ConfigError(f"{field}: {place} is relative, and the current directory of a Ray job is a copy that is "
                          "deleted with it; give an absolute path, on storage that every node sees")
    return place.absolute() if isinstance(place, Path) else os.path.abspath(place)


def absolute_tracking_uri(uri: str) -> str:
    """The value of --track.uri, unchanged. Raises ConfigError, as `absolute_path` does, where it (or
    $MLFLOW_TRACKING_URI in its absence) names an SQLite file by a relative path."""
    named, field = (uri, "track.uri") if uri else (os.environ.get("MLFLOW_TRACKING_URI", ""), "MLFLOW_TRACKING_URI")
    if named.startswith("sqlite"):
        absolute_path(Path(named.partition(":///")[2]), field)
    return uri


def absolute_config(config: Config) -> Config:
    """The configuration with absolute paths: store, tracking store, weights file, checkpoint folders."""
    model, train = config.model, config.train  # without a slash they are names of weights and ids of runs
    config = replace(config, train=replace(train, resume=_absolute_file(train.resume, "train.resume")),
                     model=replace(model, weights=_absolute_file(model.weights, "model.weights"),
                                   init_from=_absolute_file(model.init_from, "model.init_from")))
    return replace(config, data=replace(config.data, store=absolute_path(config.data.store, "data.store")),
                   track=replace(config.track, uri=absolute_tracking_uri(config.track.uri),
                                 samples=absolute_path(config.track.samples, "track.samples")))


def _absolute_file(name: str, field: str) -> str:
    return absolute_path(name, field) if "/" in name or Path(name).is_file() else name
