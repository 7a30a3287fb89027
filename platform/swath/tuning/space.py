"""The search space: the fields of a configuration that vary, and their values.

A dimension is written FIELD=A|B|C for a choice, FIELD=LOW..HIGH for an interval, and FIELD=LOW..HIGH:log for an
interval on a logarithmic scale. A field with several values takes them separated by commas:

    model.arch=unet|fpn    patches.scales=1|2|1,2    loss.dice=0..1    train.lr=1e-4..1e-2:log

A point of the space gives a value to each field. Settings that depend on a searched field follow it: see `place`.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Protocol, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError

from swath.config import Config
from swath.errors import ConfigError

Point = Mapping[str, str | int | float]
"""A value for each field of a space: the text of a choice, or a number in an interval."""

_SEARCHED = ("patches", "augment", "model", "loss", "train")
"""Sections that may vary. The other sections define what is scored and where; scores of different settings would not be
comparable."""
_FIXED = ("train.epochs", "train.megapixels", "train.report_every", "train.schedule", "train.keep")
"""Fields of these sections that the search sets itself: the length of a trial, and when it is judged."""


class Proposer(Protocol):
    """Interface of a source of values. An Optuna trial is one."""

    def suggest_categorical(self, name: str, choices: Sequence[str], /) -> Any:
        """One of the choices."""

    def suggest_float(self, name: str, low: float, high: float, /, *, log: bool = False) -> float:
        """A number in an interval, including its ends."""

    def suggest_int(self, name: str, low: int, high: int, /, *, log: bool = False) -> int:
        """A whole number in an interval, including its ends."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A field that takes one of several values."""

    field: str
    values: tuple[str, ...]

    def propose(self, proposer: Proposer) -> str:
        """A proposed value."""
        return str(proposer.suggest_categorical(self.field, self.values))

    def ends(self) -> tuple[str, ...]:
        """Values with which to test whether the dimension is possible."""
        return self.values

    def holding(self, value: Any) -> str | None:
        """The choice that equals this value; None if there is none."""
        return next((text for text in self.values if _value(self.field, text) == value), None)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A field that takes any number between two limits, including the limits."""

    field: str
    low: float
    high: float
    log: bool
    whole: bool

    def propose(self, proposer: Proposer) -> float:
        """A proposed value."""
        if self.whole:
            return proposer.suggest_int(self.field, int(self.low), int(self.high), log=self.log)
        return proposer.suggest_float(self.field, self.low, self.high, log=self.log)

    def ends(self) -> tuple[float, ...]:
        """Values with which to test whether the dimension is possible."""
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)

    def holding(self, value: Any) -> float | None:
        """The value if it lies in the interval, else None."""
        return value if self.low <= value <= self.high else None


@dataclass(frozen=True, kw_only=True)
class Space:
    """The dimensions of a search."""

    dimensions: tuple[Choice | Interval, ...]

    def propose(self, proposer: Proposer) -> dict[str, Any]:
        """A proposed point of the space."""
        return {dimension.field: dimension.propose(proposer) for dimension in self.dimensions}

    def origin(self, base: Config) -> dict[str, Any]:
        """The point of the base configuration, for the dimensions that contain its value."""
        values = base.flat()
        held = {dimension.field: dimension.holding(values[dimension.field]) for dimension in self.dimensions}
        return {field: value for field, value in held.items() if value is not None}

    def configurations(self, base: Config) -> list[Config]:
        """Configurations with which to test the space: the base with each end or choice of each dimension, one at a
        time. If such a value is impossible alone, it is combined with the last value of every other dimension.

        Raises ConfigError, with the name of the dimension, if a value is impossible in both ways.
        """
        every = []
        others = {dimension.field: dimension.ends()[-1] for dimension in self.dimensions}
        for dimension in self.dimensions:
            for value in dimension.ends():
                try:
                    every.append(place(base, {dimension.field: value}))
                except ConfigError as error:
                    with suppress(ConfigError):  # a loss of weight 0, say, where another has one
                        every.append(place(base, others | {dimension.field: value}))
                        continue
                    raise ConfigError(f"search.space: {dimension.field}={value}: {error}") from None
        return every


def read(texts: Sequence[str]) -> Space:
    """Read a space from the texts of its dimensions. Raises ConfigError, with the name of the dimension, if a text is
    wrong."""
    dimensions = [_dimension(text) for text in texts]
    if not dimensions:
        raise ConfigError("search.space: nothing is searched; give at least one FIELD=A|B or FIELD=LOW..HIGH")
    names = [dimension.field for dimension in dimensions]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"search.space: {', '.join(twice)} given twice; give each field once")
    return Space(dimensions=tuple(dimensions))


def place(base: Config, point: Point) -> Config:
    """The configuration of a point: the base with the point's values, and the settings that depend on them.

    - Several scales are combined as in the base, or as a mixture if the base has a single scale. One scale is `single`.
    - If the patch size or the number of scales in a sample changes, the batch keeps its number of pixels, rounded to
      whole patches for each worker. The micro-batch changes in the same way. The stride keeps its ratio to the size.
    - Fields that the point itself sets are not adjusted.

    Raises ConfigError if a field does not accept its value.
    """
    values: dict[str, Any] = {name: _value(name, value) for name, value in point.items()}
    if scales := values.get("patches.scales"):
        several = base.patches.combine if base.patches.combine != "single" else "mixture"
        values = {"patches.combine": several if len(scales) > 1 else "single"} | values
    size, micro_batch = values.get("patches.size", base.patches.size), base.train.micro_batch
    is_concentric = values.get("patches.combine", base.patches.combine) == "concentric"
    scales_per_sample = len(scales or base.patches.scales) if is_concentric else 1
    if (size, scales_per_sample) != (base.patches.size, base.patches.scales_per_sample) and size > 0:
        ratio, stride, workers = size / base.patches.size, base.patches.stride, base.cluster.workers
        pixels = ratio**2 * scales_per_sample / base.patches.scales_per_sample
        values = {"train.batch": workers * max(1, round(base.train.batch / pixels / workers)),
                  "train.micro_batch": (micro_batch if micro_batch == "auto" else
                                        max(1, round(micro_batch / pixels))),
                  "patches.stride": stride and max(1, round(stride * ratio))} | values
    sections: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        section, field = name.split(".")
        sections.setdefault(section, {})[field] = value
    return replace(base, **{name: replace(getattr(base, name), **some) for name, some in sections.items()})


def _dimension(text: str) -> Choice | Interval:
    name, equals, values = text.partition("=")
    if not equals or not values:
        raise ConfigError(f"search.space: {text!r} is not written FIELD=A|B|C or FIELD=LOW..HIGH")
    kind = _type(name)
    if ".." not in values or kind not in (int, float):
        choices = tuple(values.split("|"))
        for choice in choices:
            _value(name, choice)
            if name == "model.weights" and choice not in ("none", "imagenet") and not Path(choice).is_absolute():
                raise ConfigError(f"search.space: {name}={choice}: give an absolute path; trials run elsewhere")
        if len(set(choices)) < len(choices):
            raise ConfigError(f"search.space: {text!r} names a choice twice")
        return Choice(field=name, values=choices)
    interval, _, scale = values.partition(":")
    if scale not in ("", "log"):
        raise ConfigError(f"search.space: {text!r}: an interval is LOW..HIGH or LOW..HIGH:log")
    low, high = (_value(name, end) for end in interval.split("..", 1))
    if not low < high or (scale and low <= 0):
        raise ConfigError(f"search.space: {text!r}: LOW must be below HIGH, and above 0 on a logarithmic scale")
    return Interval(field=name, low=low, high=high, log=bool(scale), whole=kind is int)


def _type(name: str) -> Any:
    """The type of a field that may be searched, without None if it is optional. Raises ConfigError for other fields."""
    section, _, field = name.partition(".")
    kinds = get_type_hints(type(getattr(Config(), section))) if section in _SEARCHED else {}
    if field not in kinds or name in _FIXED:
        known = [f"{part}.{f.name}" for part in _SEARCHED for f in fields(getattr(Config(), part))]
        raise ConfigError(f"search.space: {name} cannot be searched; these fields can: "
                          f"{', '.join(field for field in known if field not in _FIXED)}")
    kind = kinds[field]
    return next(part for part in get_args(kind) if part is not NoneType) if isinstance(kind, UnionType) else kind


def _value(name: str, value: str | int | float) -> Any:
    """A value in the type of its field. Raises ConfigError if the field does not accept it."""
    kind = _type(name)
    several = getattr(kind, "__origin__", None) is tuple
    try:
        return TypeAdapter(kind).validate_python(tuple(filter(None, str(value).split(","))) if several else value)
    except ValidationError as error:
        raise ConfigError(f"search.space: {name} does not take {value!r}: {error.errors()[0]['msg']}") from None
