"""What the sections of a configuration have in common."""

from pydantic import ConfigDict

from swath.errors import ConfigError

MAY_CHANGE = {"may_change": True}
"""Metadata of a field that may change when a run goes on."""


class Section:
    """A part of a configuration: a field that does not exist is an error in JSON too."""

    __pydantic_config__ = ConfigDict(extra="forbid")


def check(holds: bool, name: str, rule: str, value: object) -> None:
    """Raise ConfigError, naming field, rule and value, where a rule does not hold."""
    if not holds:
        raise ConfigError(f"{name} must be {rule}, got {value!r}")
