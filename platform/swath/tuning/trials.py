"""What a search knows of its trials: their states, which is the best, and a table of them."""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from swath.names import DEVICE_SECONDS, MEGAPIXELS, SAMPLE_MIOU, VAL_MIOU
from swath.say import Metrics
from swath.tracking.records import Status, cut
from swath.tuning.space import Point

State = Literal["RUNNING", "FINISHED", "STOPPED", "FAILED", "KILLED"]
"""FINISHED has its final score; STOPPED was ended by the search, for others were better; FAILED ended by itself; KILLED
was ended with its search."""

STATUS: dict[State, Status] = {"FINISHED": "FINISHED", "STOPPED": "KILLED", "FAILED": "FAILED", "KILLED": "KILLED"}
"""What MLflow, which knows no stopped runs, calls them."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A run of a search."""

    run_id: str
    name: str
    point: Point
    """The values that were proposed for it."""
    state: State = "RUNNING"
    reason: str = ""
    """Why it ended as it did, where it did not finish."""
    history: tuple[Metrics, ...] = ()
    """What it has reported, oldest first."""

    def last(self, name: str) -> float | None:
        """The value of a metric in the last report; none where that has none."""
        return self.history[-1].get(name) if self.history else None


def best(trials: Sequence[Trial]) -> Trial | None:
    """The finished trial with the highest validation score; none where none has finished."""
    finished = [trial for trial in trials if trial.state == "FINISHED"]
    return max(finished, key=lambda trial: trial.last(VAL_MIOU) or 0.0, default=None)


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Trials in the order of merit: finished ones by their score, then the others by how far they came."""
    def merit(trial: Trial) -> tuple[float, float, float]:
        return trial.last(VAL_MIOU) or 0.0, trial.last(MEGAPIXELS) or 0.0, trial.last(SAMPLE_MIOU) or 0.0

    return sorted(trials, key=merit, reverse=True)


def states(trials: Sequence[Trial]) -> dict[str, int]:
    """How many trials ended in each state."""
    return dict(sorted(Counter(trial.state for trial in trials).items()))


COLUMNS = {VAL_MIOU: VAL_MIOU, SAMPLE_MIOU: SAMPLE_MIOU, MEGAPIXELS: "Mpx", DEVICE_SECONDS: "device s"}
"""Metrics of the table, with what stands over them."""


def differing(trials: Sequence[Trial]) -> list[str]:
    """The searched fields in which trials differ."""
    searched = dict.fromkeys(name for trial in trials for name in trial.point)
    return [name for name in searched if len({str(trial.point.get(name)) for trial in trials}) > 1]


def rows(trials: Sequence[Trial]) -> list[dict[str, str]]:
    """A table of trials in the order of merit: name, state, metrics, the fields that differ, reason, run."""
    fields = differing(trials)
    return [{"trial": trial.name, "state": trial.state,
             **{title: _number(trial.last(metric)) for metric, title in COLUMNS.items()},
             **{name: _number(trial.point.get(name)) for name in fields},
             "reason": trial.reason, "run": trial.run_id} for trial in ranked(trials)]


def to_csv(table: Sequence[dict[str, str]]) -> str:
    """A table as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]) if table else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def to_markdown(table: Sequence[dict[str, str]]) -> str:
    """A table as Markdown, which MLflow shows on a run's page."""
    if not table:
        return ""
    cells = [[cut(" ".join(cell.split()), 120).replace("|", "\\|") for cell in row.values()] for row in table]
    lines = [list(table[0]), ["---"] * len(table[0]), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: str | float | None) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
