"""Ways run against each other, and the table of what came out, for bench_storage.py."""

import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Work = tuple[float, Callable[[], object]]
"""How much there is to do (patches, MB), and what does it, which is timed."""
Way = Callable[[int], Work]
"""Makes the work of a repetition ready."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: the store against another way, or a number of its own."""

    what: str
    against: str
    wanted: float | None
    """Least ratio; with `at_most` the greatest number. None: for information."""
    at_most: bool = False
    """Whether `ratios` are numbers of their own, of which less is better."""
    ratios: tuple[float, ...]
    """Of each repetition."""
    ours: float | None = None
    """Median rate."""
    theirs: float | None = None
    """Median rate of the other way."""
    unit: str = ""
    """Of both rates."""

    @property
    def ratio(self) -> float:
        """The median."""
        return statistics.median(self.ratios)

    @property
    def met(self) -> bool:
        """Whether it is as wanted."""
        return self.wanted is None or (self.ratio <= self.wanted if self.at_most else self.ratio >= self.wanted)

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {**asdict(self), "ratio": self.ratio, "met": self.met}


def race(ways: Mapping[str, Way], repetitions: int) -> dict[str, list[float]]:
    """Rates by way and repetition: all ways in turn, in another order each time. The first time does not count."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    turn = random.Random(0)
    for repetition in range(-1, repetitions):
        for name in turn.sample(sorted(ways), len(ways)):
            amount, work = ways[name](repetition)
            began = time.perf_counter()
            work()
            seconds = time.perf_counter() - began
            if repetition >= 0:
                rates[name].append(amount / seconds)
    return rates


def versus(what: str, against: str, wanted: float | None, ours: Sequence[float], theirs: Sequence[float],
           unit: str = "patches/s") -> Row:
    """The row of two ways' rates."""
    return Row(what=what, against=against, wanted=wanted, ratios=tuple(a / b for a, b in zip(ours, theirs)),
               ours=statistics.median(ours), theirs=statistics.median(theirs), unit=unit)


def show(title: str, rows: Sequence[Row], notes: Sequence[str]) -> None:
    """Print the table."""
    table = Table(title=title)
    for column in ("what", "against", "wanted", "measured", "least … most", "ours", "theirs", "unit"):
        table.add_column(column, justify="left" if column in ("what", "against", "unit") else "right")
    for row in rows:
        wanted = "" if row.wanted is None else f"{'≤' if row.at_most else '≥'} {row.wanted:g}"
        rates = ("" if rate is None else f"{rate:,.0f}" for rate in (row.ours, row.theirs))
        spread = f"{min(row.ratios):.2f} … {max(row.ratios):.2f}"
        table.add_row(row.what, row.against, wanted, f"{row.ratio:.2f}", spread, *rates, row.unit,
                      style="" if row.met else "bold red")
    console = Console()
    console.print(table)
    for note in notes:
        console.print(note)


def write_figures(path: Path, settings: Mapping[str, Any], rows: Sequence[Row], notes: Sequence[str],
                  libraries: Sequence[str]) -> None:
    """Write a table down as JSON, with its settings, the machine and the libraries' versions."""
    path.write_text(json.dumps({
        "settings": settings, "machine": platform.platform(), "cpus": os.cpu_count(), "notes": notes,
        "versions": {name: version(name) for name in libraries}, "rows": [row.to_json() for row in rows],
    }, indent=1, default=str) + "\n")
