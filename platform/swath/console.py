"""What a person sees: one line a report while a run goes on, on standard error, and tables of results."""

import sys
from collections.abc import Sequence

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from swath import trials
from swath.context import Metrics
from swath.ingest import Report
from swath.trials import Trial


class ReportLine:
    """Prints one line for each report of a run."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stderr, highlight=False, soft_wrap=True)

    def __call__(self, metrics: Metrics) -> None:
        """Print one report."""
        whole = f"  val/miou {metrics['val/miou']:.3f}" if "val/miou" in metrics else ""
        self._console.print(
            f"{metrics['megapixels']:.2f} Mpx  train/loss {metrics['train/loss']:.4f}  "
            f"val/loss {metrics['val/loss']:.4f}  "
            f"val_part/miou {metrics['val_part/miou']:.3f} ± {metrics['val_part/miou_se']:.3f}{whole}  "
            f"{metrics['speed/patches_per_s']:.1f} patches/s")


def iou_table(title: str, iou: dict[str, float | None], rows: dict[str, float]) -> Table:
    """A table of IoU by class, with further rows (means) below a rule."""
    table = Table(title=title, title_justify="left")
    table.add_column("class")
    table.add_column("IoU", justify="right")
    for name, value in iou.items():
        table.add_row(name, "no labels" if value is None else f"{value:.4f}")
    table.add_section()
    for name, value in rows.items():
        table.add_row(name, f"{value:.4f}")
    return table


def trial_line(trial: Trial) -> None:
    """Print one line for a report, or for the end, of a search's trial."""
    values = "  ".join(f"{name} {value:.3f}" for name in ("megapixels", "val_part/miou", "val/miou")
                       if (value := trial.last(name)) is not None)
    end = "" if trial.state == "RUNNING" else f"  {trial.state} {trial.reason}".rstrip()
    say(f"{trial.run_id[:8]} {trial.name}  {values}{end}")


def trials_table(tried: Sequence[Trial]) -> Group:
    """A table of a search's trials in the order of merit, and below it why some did not finish."""
    count = ", ".join(f"{number} {state}" for state, number in trials.states(tried).items())
    table = Table(title=f"{len(tried)} trials: {count}", title_justify="left")
    for name in ("run", "state", *trials.COLUMNS.values()):
        table.add_column(name.replace("/", "/\n"), justify="right" if name in trials.COLUMNS.values() else "left")
    table.add_column("what differs", overflow="fold")
    differing = trials.differing(tried)
    for row in trials.rows(tried):
        point = ", ".join(f"{name.split('.')[1]} {row[name]}" for name in differing)
        table.add_row(row["run"][:8], row["state"], *(row[name] for name in trials.COLUMNS.values()), escape(point))
    return Group(table, *(escape(f"{t.run_id[:8]} {t.state}: {t.reason}") for t in trials.ranked(tried) if t.reason))


def say(text: str) -> None:
    """Print a line of what goes on."""
    Console(file=sys.stderr, highlight=False, soft_wrap=True).print(text, markup=False)


def ingest_table(report: Report) -> Table:
    """A table of what was ingested: pixels by class, and what is ignored."""
    again = f", {report.skipped} of them unchanged" if report.skipped else ""
    table = Table(title=f"{report.store}: {report.scenes} scenes{again}", title_justify="left")
    table.add_column("class")
    table.add_column("pixels", justify="right")
    table.add_column("share", justify="right")
    for name, pixels in report.class_pixels.items():
        table.add_row(name, f"{pixels:,}", f"{report.fractions[name]:.5f}")
    for value, pixels in report.ignored_values.items():
        table.add_row(f"ignored {value}", f"{pixels:,}", f"{pixels / max(1, report.pixels):.5f}")
    return table
