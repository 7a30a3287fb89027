"""Base class and check of the sections of a configuration."""

from pydantic import ConfigDict

from swath.errors import ConfigError

MAY_CHANGE = {"may_change": True}
"""Metadata of a field that may change when a run is resumed."""


class Section:
    """Base of the sections of a configuration. An unknown field in its JSON is an error."""

    __pydantic_config__ = ConfigDict(extra="forbid")


def check(holds: bool, name: str, rule: str, value: object) -> None:
    """Raise ConfigError with the text "name must be rule, got value" if a rule does not hold."""
    if not holds:
        raise ConfigError(f"{name} must be {rule}, got {value!r}")
