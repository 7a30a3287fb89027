"""What a run's record is: the tracker that takes it, the rules for names and values, and one kept in memory.

Metrics are counted in megapixels seen. A step is a whole number in MLflow, so it is kilopixels seen.
"""

import math
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar, final

from swath.errors import ConfigError, TrainingError
from swath.names import MEGAPIXELS, NOTES_TAG, REASON_TAG

Status = Literal["FINISHED", "FAILED", "KILLED"]

# MLflow's limits (mlflow/utils/validation.py), which every tracker keeps: characters of a value, characters of a name.
PARAM_LENGTH = 6000
TAG_LENGTH = 8000
_NOT_IN_NAMES = re.compile(r"[^/\w.\- :]")

V = TypeVar("V")


class Tracker(Protocol):
    """The record of one run. Every method may be called at any time, by several processes."""

    run_id: str

    def params(self, params: Mapping[str, object]) -> None:
        """Record settings, as text of at most 6,000 characters. Raises TrainingError for one that changes."""

    def tags(self, tags: Mapping[str, str]) -> None:
        """Record what is known of the run, as text of at most 8,000 characters; a later value replaces an earlier."""

    def log(self, metrics: Mapping[str, float | None], megapixels: float) -> None:
        """Record metrics, and `megapixels` itself, at so many megapixels seen.

        What is None or not finite (a class without labels) is left out. A character that MLflow has not in names
        becomes an underscore; raises ConfigError where two names become one by that.
        """

    def note(self, text: str) -> None:
        """Add a remark to those that the record has, as the tag swath.notes, a line each."""

    def artifact(self, path: Path, folder: str = "") -> None:
        """Keep a file or a folder. Raises FileNotFoundError when it is not there."""

    def text(self, text: str, name: str) -> None:
        """Keep a text as a file of that name."""

    def end(self, status: Status, reason: str = "") -> None:
        """End the run, with a reason as the tag swath.reason. A run that has ended keeps its status and its reason."""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What is recorded of a run; of each metric the value at the largest step."""

    run_id: str
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]


def reporter(tracker: Tracker) -> Callable[[Mapping[str, float]], None]:
    """A listener that logs a run's reports, each at its own `megapixels`."""
    return lambda metrics: tracker.log(metrics, metrics[MEGAPIXELS])


@final
class MemoryTracker:
    """A run that is recorded in this process alone: for a notebook, or where no record is wanted."""

    def __init__(self) -> None:
        self.run_id = uuid.uuid4().hex
        self.files: dict[str, bytes] = {}
        """Artifacts by their path, texts among them."""
        self._status = "RUNNING"
        self._params: dict[str, str] = {}
        self._tags: dict[str, str] = {}
        self._metrics: dict[str, list[tuple[int, float]]] = {}

    def params(self, params: Mapping[str, object]) -> None:
        for key, value in named(params).items():
            text = cut(str(value), PARAM_LENGTH)
            if self._params.setdefault(key, text) != text:
                raise TrainingError(f"run {self.run_id}: parameter {key} is {self._params[key]!r} and cannot "
                                    f"become {text!r}; start another run")

    def tags(self, tags: Mapping[str, str]) -> None:
        self._tags |= {key: cut(value, TAG_LENGTH) for key, value in named(tags).items()}

    def log(self, metrics: Mapping[str, float | None], megapixels: float) -> None:
        for key, value in numbers(metrics, megapixels).items():
            self._metrics.setdefault(key, []).append((kilopixels(megapixels), value))

    def note(self, text: str) -> None:
        self.tags({NOTES_TAG: with_note(self._tags.get(NOTES_TAG, ""), text)})

    def artifact(self, path: Path, folder: str = "") -> None:
        if not path.exists():
            raise FileNotFoundError(path)
        files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
        for file in files:
            self.files[(Path(folder) / file.relative_to(path.parent)).as_posix()] = file.read_bytes()

    def text(self, text: str, name: str) -> None:
        self.files[name] = text.encode()

    def end(self, status: Status, reason: str = "") -> None:
        if self._status == "RUNNING":
            self._status = status
            self._tags |= {REASON_TAG: cut(reason, TAG_LENGTH)} if reason else {}

    def record(self) -> RunRecord:
        """What is recorded, as `find` gives it."""
        metrics = {key: self.history(key)[-1][1] for key in self._metrics}
        return RunRecord(run_id=self.run_id, status=self._status, params=dict(self._params), tags=dict(self._tags),
                         metrics=metrics)

    def history(self, key: str) -> list[tuple[int, float]]:
        """All values of a metric, as `metric_history` gives them."""
        return sorted(self._metrics.get(key, []), key=lambda entry: entry[0])


def with_note(before: str, text: str) -> str:
    """The remarks with one more; one that is there already is not said twice."""
    lines = before.splitlines()
    return "\n".join([*lines, *(line for line in text.splitlines() if line not in lines)])


def kilopixels(megapixels: float) -> int:
    """The step that stands for so many megapixels seen."""
    return round(megapixels * 1000)


def numbers(metrics: Mapping[str, float | None], megapixels: float) -> dict[str, float]:
    """The metrics that are numbers, and the megapixels, under names that MLflow has."""
    finite = {key: float(value) for key, value in metrics.items() if value is not None and math.isfinite(value)}
    return named(finite | {MEGAPIXELS: float(megapixels)})


def named(values: Mapping[str, V]) -> dict[str, V]:
    """The values under names that MLflow has. Raises ConfigError where two names become one."""
    renamed = {_NOT_IN_NAMES.sub("_", key): value for key, value in values.items()}
    if len(renamed) < len(values):
        changed = sorted(key for key in values if _NOT_IN_NAMES.search(key))
        raise ConfigError(f"{', '.join(changed)}: the same name as another once characters that MLflow does not have "
                          "become underscores; rename one (often a class)")
    return renamed


def cut(text: str, length: int) -> str:
    """A text of at most so many characters; an ellipsis stands for what is missing."""
    return text if len(text) <= length else text[: length - 1] + "…"
