"""Command lines of the jobs: RECIPE [--config FILE] [--recipes MODULE] [any field], read by tyro."""

import csv
import json
import os
import re
import signal
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import Field, dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from types import FrameType, ModuleType
from typing import Annotated, Any, ClassVar, Protocol, TypeVar, get_type_hints

import tyro

from patchstore import PatchstoreError
from swath import config as configuration
from swath import extensions
from swath.config import Config, DeviceName
from swath.errors import ConfigError, SwathError

_ENDING = re.compile(r"\.(tiff?|jpe?g|jp2|png|bmp|gif|img|vrt)$", re.IGNORECASE)
"""Endings of rasters, which published lists often give; a name itself may have dots."""


@dataclass(frozen=True, kw_only=True)
class Track:
    """Where runs are recorded."""

    uri: str = ""
    """MLflow tracking store; empty: $MLFLOW_TRACKING_URI, or the SQLite file in the working directory."""


@dataclass(frozen=True, kw_only=True)
class ModelArguments:
    """What jobs that apply a trained model have in common."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """MLflow run id, or a checkpoint folder."""
    device: DeviceName = "auto"
    """Device; auto takes a GPU where there is one."""
    workdir: Path = Path("runs")
    """Folder of the default tracking store, in which RUN is looked up."""
    track: Track = field(default_factory=Track)


class _Configured(Protocol):
    """The arguments of a job that takes a configuration: a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def config(self) -> Config: ...


A = TypeVar("A", bound=_Configured)
B = TypeVar("B")
P = TypeVar("P", str, Path)


def read_configured(arguments: Callable[[Config], A], argv: Sequence[str]) -> A:
    """Read the command line of a job that takes a recipe; `arguments(config)` gives the job's defaults.

    Published lists (@FILE in the split) are read here, so that a configuration is pure data.
    Raises ConfigError for an unknown recipe, module or file, and exits with 2 where tyro finds a wrong field.
    """
    rest = list(argv)
    name = rest.pop(0) if rest and not rest[0].startswith("-") else ""
    first = ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    first.add_argument("--recipes", default="recipes")
    chosen, rest = first.parse_known_args(rest)
    recipes = _recipes(extensions.import_module(chosen.recipes, "--recipes"))
    if name and chosen.config:
        raise ConfigError(f"both a recipe ({name}) and --config {chosen.config} are given; give one")
    if chosen.config:
        config = configuration.load(chosen.config)
    elif name:
        config = recipe(name, chosen.recipes)
    elif {"-h", "--help"} & set(rest):
        config = Config()
    else:
        raise ConfigError(f"name a recipe ({', '.join(recipes)}) or give --config FILE; --help shows every field")
    about = [f"  {name}: {(make.__doc__ or 'undescribed').strip().splitlines()[0]}" for name, make in recipes.items()]
    usage = "\n".join(["RECIPE [--config FILE] [--recipes MODULE]", "", "recipes:", *about])
    default = arguments(config)
    chosen_arguments = read(type(default), rest, usage, default)
    return replace(chosen_arguments, config=with_lists(chosen_arguments.config))


def with_lists(config: Config) -> Config:
    """The configuration with the names that stand in files in place of each @FILE of its split.

    Raises ConfigError, naming file and line, for a file that cannot be read or has no names, and for names that stand
    twice.
    """
    train, val, test = (tuple(name for text in getattr(config.split, field) for name in _listed(text, f"split.{field}"))
                        for field in ("train", "val", "test"))
    return replace(config, split=replace(config.split, train=train, val=val, test=test))


def _listed(text: str, field: str) -> list[str]:
    """The name that is given, or for @FILE those in the file: one a line, or the first column of a CSV file."""
    if not text.startswith("@"):
        return [text]
    path = Path(text[1:])
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{field}: {path}: not a readable list of names ({error})") from None
    line_of: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        said = line.partition("#")[0]
        if path.suffix.lower() == ".csv":
            said = next(csv.reader([said]), [""])[0]
        if not said.strip():
            continue
        name = _ENDING.sub("", said.strip().replace("\\", "/").rsplit("/", 1)[-1])
        if not name:
            raise ConfigError(f"{field}: {path}, line {number}: {said.strip()!r} names no scene or group")
        if name in line_of:
            raise ConfigError(f"{field}: {path}, line {number}: {name} stands in line {line_of[name]} already")
        line_of[name] = number
    if not line_of:
        raise ConfigError(f"{field}: {path}: has no names in it; write one a line")
    return list(line_of)


def recipe(name: str, module: str = "recipes") -> Config:
    """What a recipe of a module returns. Raises ConfigError, naming the nearest, for an unknown one."""
    recipes = _recipes(extensions.import_module(module, "--recipes"))
    if name not in recipes:
        near = get_close_matches(name, recipes, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(recipes)}"
        raise ConfigError(f"no recipe {name!r} in {module}; {hint}")
    return recipes[name]()


def read(arguments: type[B], argv: Sequence[str], usage: str = "", default: B | None = None) -> B:
    """Read a command line into a dataclass, whose own defaults an instance may replace."""
    program = f"{Path(sys.argv[0]).name} {usage.splitlines()[0] if usage else ''}".strip()
    begin = tyro.MISSING_NONPROP if default is None else default
    return tyro.cli(arguments, default=begin, args=list(argv), prog=program, description=usage or None,
                    config=(tyro.conf.FlagCreatePairsOff,))


def lasting(place: P, field: str) -> P:
    """A path that has to outlast the job, made absolute; a URI, or nothing, as it is.

    Raises ConfigError, naming the field, for a relative path in a job of `ray job submit`: its current directory is a
    copy of the submitted one, in which results would be lost in silence and data are not found.
    """
    if isinstance(place, Path) and re.match(r"\w+:/", str(place)):  # a Path takes one slash of an address away
        raise ConfigError(f"{field}: {place} is an address, but it has to be a file or folder of this machine")
    if not str(place) or "://" in str(place):
        return place
    # Ray's job supervisor sets it for the command that it runs, and nothing else does: not in workers, not locally.
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and not os.path.isabs(place):
        raise ConfigError(f"{field}: {place} is relative, and the current directory of a Ray job is a copy that is "
                          "lost with it; give an absolute path, on storage that every node sees")
    return place.absolute() if isinstance(place, Path) else os.path.abspath(place)


def lasting_uri(uri: str) -> str:
    """--track.uri, when it, or $MLFLOW_TRACKING_URI in its absence, is no SQLite file of which `lasting` complains."""
    named, field = (uri, "track.uri") if uri else (os.environ.get("MLFLOW_TRACKING_URI", ""), "MLFLOW_TRACKING_URI")
    if named.startswith("sqlite"):
        lasting(Path(named.partition(":///")[2]), field)
    return uri


def lasting_config(config: Config) -> Config:
    """A configuration with lasting places: its store, its tracking store, a file of weights, a checkpoint folder."""
    model, train = config.model, config.train  # without a slash: weights of a name, and runs by their ids
    config = replace(config, train=replace(train, resume=_lasting_path(train.resume, "train.resume")),
                     model=replace(model, weights=_lasting_path(model.weights, "model.weights"),
                                   init_from=_lasting_path(model.init_from, "model.init_from")))
    return replace(config, data=replace(config.data, store=lasting(config.data.store, "data.store")),
                   track=replace(config.track, uri=lasting_uri(config.track.uri),
                                 samples=lasting(config.track.samples, "track.samples")))


def _lasting_path(name: str, field: str) -> str:
    return lasting(name, field) if "/" in name or Path(name).is_file() else name


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Run a job: what a user can mend becomes one line on standard error and exit code 2; SIGTERM
    and Ctrl-C end it without a traceback."""
    received: list[int] = []

    def leave(number: int, frame: FrameType | None) -> None:
        received.append(number)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        main(sys.argv[1:])
    except SystemExit:
        if received:  # while Ray waits, it makes an exit with 1 of a signal's
            sys.exit(128 + received[0])
        raise
    except (SwathError, PatchstoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def finish(as_json: bool, result: dict[str, Any]) -> None:
    """With --json, print a job's result as one line of JSON, the last of standard output."""
    if as_json:
        sys.stdout.flush()
        print(json.dumps(result, allow_nan=False), flush=True)


def _recipes(module: ModuleType) -> dict[str, Callable[[], Config]]:
    """The recipes of a module: its public functions that return a Config."""
    return {name: value for name, value in vars(module).items()
            if callable(value) and not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
            and get_type_hints(value).get("return") is Config}
