"""The one parser of all verbs: a dataclass of arguments, and the fields of a configuration that the verb uses.

    swath VERB RECIPE [--config FILE] [--recipes MODULE] [--SECTION.FIELD VALUE …] [the verb's own options]

A configuration's field that a verb does not use is an error that names it.
"""

import csv
import json
import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, get_type_hints

import tyro

from swath import config as configuration
from swath.commands.named_recipes import INSTALLED, recipe, recipes_of
from swath.config import Config, DeviceName
from swath.errors import ConfigError

B = TypeVar("B")
Uses = Mapping[str, tuple[str, ...]]
"""The fields of each section of a configuration that a verb uses."""
_ENDING = re.compile(r"\.(tiff?|jpe?g|jp2|png|bmp|gif|img|vrt)$", re.IGNORECASE)
"""Endings of rasters, which published lists often give; a name itself may have dots."""


def every_field(section: str, *, without: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The names of a section's fields."""
    return tuple(part.name for part in fields(getattr(Config(), section)) if part.name not in without)


TRAINING: Uses = {"data": ("store", "merge")} | {
    section: every_field(section)
    for section in ("split", "patches", "augment", "model", "loss", "train", "score", "cluster", "track")}
"""What a training uses: everything except how scenes are ingested and how a search goes."""


@dataclass(frozen=True, kw_only=True)
class Track:
    """Where runs are recorded."""

    uri: str = ""
    """MLflow tracking store. Empty: $MLFLOW_TRACKING_URI, or the SQLite file in the working directory."""


@dataclass(frozen=True, kw_only=True)
class ModelArguments:
    """Arguments of the verbs that apply a trained model."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """MLflow run id, or a checkpoint folder."""
    device: DeviceName = "auto"
    """Device. `auto` takes a GPU if there is one."""
    workdir: Path = Path("runs")
    """Folder of the default tracking store, in which RUN is looked up."""
    track: Track = field(default_factory=Track)


def read(arguments: type[B], argv: Sequence[str], usage: str = "", default: B | None = None) -> B:
    """Read a command line into a dataclass; the fields of `default` replace its own defaults.

    Exits with 2 where tyro finds a wrong argument.
    """
    called = Path(sys.argv[0]).name
    verb = sys.argv[1] if called == "swath" and len(sys.argv) > 1 else ""
    program = " ".join(filter(None, [called, verb, usage.partition("\n")[0]]))
    begin = tyro.MISSING_NONPROP if default is None else default
    return tyro.cli(arguments, default=begin, args=list(argv), prog=program, description=usage or None,
                    config=(tyro.conf.FlagCreatePairsOff,))


def read_configured(arguments: type[B], argv: Sequence[str], uses: Uses) -> B:
    """Read the command line of a verb that takes a recipe: `arguments` is a dataclass with a field `config`.

    Names in files (@FILE in the split) are read here, so that a configuration is pure data.
    Raises ConfigError for an unknown recipe, module or file, and for a field that the verb does not use; exits with 2
    where tyro finds a wrong argument.
    """
    name, chosen, rest = first_pass(argv)
    if name and chosen.config:
        raise ConfigError(f"both a recipe ({name}) and --config {chosen.config} are given; give one")
    if chosen.config:
        config = configuration.load(Path(chosen.config))
    elif name:
        config = recipe(name, chosen.recipes)
    elif {"-h", "--help"} & set(rest):
        config = Config()
    else:
        names = ", ".join(recipes_of(chosen.recipes))
        raise ConfigError(f"name a recipe ({names}) or give --config FILE; --help shows every field")
    return read_over(arguments, rest, config, uses, _usage(chosen.recipes))


def first_pass(argv: Sequence[str], **more: str) -> tuple[str, Namespace, list[str]]:
    """The name that a command line begins with (or none), where its configuration comes from, and the rest.

    more: further options that are needed before the parser's defaults are known, with their defaults.
    """
    rest = list(argv)
    name = rest.pop(0) if rest and not rest[0].startswith("-") else ""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    for option, default in ({"config": None, "recipes": INSTALLED} | more).items():
        parser.add_argument(f"--{option}", default=default)
    chosen, left = parser.parse_known_args(rest)
    return name, chosen, left


def read_over(arguments: type[B], argv: Sequence[str], config: Config, uses: Uses, usage: str = "") -> B:
    """Read a command line over a configuration: the verb's own options, and the fields that it uses.

    Raises ConfigError for another field of the configuration, and for what `with_lists` raises.
    """
    unused = [name for name in fields_given(argv) if name.split(".")[1] not in uses.get(name.split(".")[0], ())]
    if unused:
        raise ConfigError(f"--{option_of(unused[0])}: this job does not use {unused[0]}; leave it out"
                          + (f" (as {', '.join(unused[1:])})" if unused[1:] else ""))
    sections = {part.name: _narrowed(type(getattr(config, part.name)), uses.get(part.name, ()))
                for part in fields(Config)}
    narrow = make_dataclass("Config", [
        (name, kind if uses.get(name) else _hidden(kind), field()) for name, kind in sections.items()],
        bases=(Config,), frozen=True, kw_only=True)
    whole = make_dataclass(arguments.__name__, [("config", Annotated[narrow, tyro.conf.arg(name="")], field())],
                           bases=(arguments,), frozen=True, kw_only=True, namespace={"__doc__": arguments.__doc__})
    default = whole(config=narrow(**{name: kind(**vars(getattr(config, name))) for name, kind in sections.items()}))
    found = cast(Any, read(whole, argv, usage, default))
    values = {name: type(getattr(config, name))(**vars(getattr(found.config, name))) for name in sections}
    return cast(B, cast(Any, arguments)(**{**vars(found), "config": with_lists(Config(**values))}))


def fields_given(argv: Sequence[str]) -> list[str]:
    """The fields of a configuration that a command line names, in their order: ["patches.size", …]."""
    known = Config().flat()
    names = [text[2:].partition("=")[0].replace("-", "_") for text in argv if text.startswith("--")]
    names = [name if name in known else name.replace(".no_", ".") for name in names]
    return [name for name in names if name in known]


def option_of(name: str) -> str:
    """A field as the command line writes it."""
    return name.replace("_", "-")


def _narrowed(section: type, used: tuple[str, ...]) -> type:
    """A section of which the command line shows the used fields alone."""
    hints = get_type_hints(section)
    hidden = [(part.name, _hidden(hints[part.name]), field(default=part.default))
              for part in fields(section) if part.name not in used]
    return make_dataclass(section.__name__, hidden, bases=(section,), frozen=True, kw_only=True,
                          namespace={"__doc__": section.__doc__})


def _hidden(kind: Any) -> Any:
    """A type that the command line neither shows nor takes."""
    return Annotated[kind, tyro.conf.Suppress]


def _usage(module: str) -> str:
    about = [f"  {name}: {(make.__doc__ or 'undescribed').strip().splitlines()[0]}"
             for name, make in recipes_of(module).items()]
    return "\n".join(["RECIPE [--config FILE] [--recipes MODULE]", "", "recipes:", *about])


def with_lists(config: Config) -> Config:
    """The configuration with the names that stand in files in place of each @FILE of its split.

    Raises ConfigError, naming file and line, for a file that cannot be read or has no names, and for repeated names.
    """
    train, val, test = (tuple(name for text in getattr(config.split, field) for name in _listed(text, f"split.{field}"))
                        for field in ("train", "val", "test"))
    return replace(config, split=replace(config.split, train=train, val=val, test=test))


def _listed(text: str, field: str) -> list[str]:
    """The given name, or for @FILE the names in the file: one a line, or the first column of a CSV file."""
    if not text.startswith("@"):
        return [text]
    path = Path(text[1:])
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{field}: {path}: not a readable list of names ({error})") from None
    line_of: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        entry = line.partition("#")[0]
        if path.suffix.lower() == ".csv":
            entry = next(csv.reader([entry]), [""])[0]
        if not entry.strip():
            continue
        name = _ENDING.sub("", entry.strip().replace("\\", "/").rsplit("/", 1)[-1])
        if not name:
            raise ConfigError(f"{field}: {path}, line {number}: {entry.strip()!r} names no scene or group")
        if name in line_of:
            raise ConfigError(f"{field}: {path}, line {number}: {name} stands in line {line_of[name]} already")
        line_of[name] = number
    if not line_of:
        raise ConfigError(f"{field}: {path}: has no names in it; write one a line")
    return list(line_of)


def finish(as_json: bool, result: dict[str, Any]) -> None:
    """With --json, print a job's result as one line of JSON, the last line of standard output."""
    if as_json:
        sys.stdout.flush()
        print(json.dumps(result, allow_nan=False), flush=True)
