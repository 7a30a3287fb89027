"""What a person sees: one line a report while a run goes on, on standard error, and tables of results."""

import sys
from collections.abc import Mapping, Sequence

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from patchstore.audit import ClassTotal, SceneAudit
from patchstore.upkeep import Entry
from swath import trials
from swath.context import Metrics
from swath.ingest import Preview, Report
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
            f"{metrics['speed/patches_per_s']:.1f} patches/s  waiting {metrics['speed/waiting_share']:.0%}")


def tell(remarks: Sequence[str]) -> None:
    """Print what a person should know of a run before it begins, a line each."""
    console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
    for remark in remarks:
        console.print(f"note: {remark}", markup=False)


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


def ingest_table(report: Report) -> Group:
    """A table of what was ingested, pixels by class and what is ignored; below it what was done to files."""
    title = f"{escape(report.store)}: {report.scenes} scenes ({_states(report.states)})"
    table = Table(title=title, title_justify="left")
    table.add_column("class")
    for name in ("pixels", "share", "km2"):
        table.add_column(name, justify="right")
    for name, pixels in report.class_pixels.items():
        area = "–" if report.class_km2 is None else f"{report.class_km2[name]:.4f}"
        table.add_row(escape(name), f"{pixels:,}", f"{report.fractions[name]:.5f}", area)
    for value, pixels in report.ignored_values.items():
        table.add_row(escape(f"ignored {value}"), f"{pixels:,}", f"{pixels / max(1, report.pixels):.5f}", "")
    return Group(table, *map(escape, report.notes))


def preview_table(preview: Preview) -> Table:
    """What an ingest would do."""
    estimate = preview.estimate
    table = Table(title=f"{escape(preview.store)}: what an ingest would do", title_justify="left", show_header=False)
    table.add_row("scenes", _states(preview.states))
    table.add_row("pixels to write", f"{estimate.pixels:,}")
    table.add_row("files of pixels", f"{estimate.shards:,}")
    table.add_row("size", f"about {estimate.size / 1e6:,.1f} MB")
    here = max(1, round(estimate.seconds / preview.cores))
    table.add_row("time", f"about {estimate.seconds:,.0f} s of one core; {here} s on the {preview.cores} cores here")
    return table


def inventory_table(entries: Sequence[Entry]) -> Table:
    """A table of a store's scenes and their versions."""
    table = Table(title=f"{sum(entry.scene is not None for entry in entries)} scenes", title_justify="left")
    for name in ("scene", "rows x cols", "group", "version", "state"):
        table.add_column(name)
    for name in ("files", "MB"):
        table.add_column(name, justify="right")
    for entry in entries:
        shape = "" if entry.scene is None else f"{entry.scene.shape[0]} x {entry.scene.shape[1]}"
        group = "" if entry.scene is None else entry.scene.group
        for version in entry.versions:
            size = "–" if version.size is None else f"{version.size / 1e6:,.1f}"
            table.add_row(escape(entry.name), shape, escape(group), version.name, version.state, f"{version.files:,}",
                          size)
    return table


def _states(states: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {state}" for state, number in states.items()) or "none"


def audit_table(store: str, audits: Sequence[SceneAudit], classes: Mapping[str, ClassTotal]) -> Table:
    """A table of a store's classes, and above it how much was audited."""
    problems = sum(len(scene.problems) for scene in audits)
    damaged = sum(bool(scene.problems) for scene in audits)
    table = Table(title_justify="left", title=escape(
        f"{store}: {len(audits)} scenes, {sum(scene.files for scene in audits):,} files, "
        f"{sum(scene.size for scene in audits):,} bytes; "
        + (f"{problems} problems in {damaged} scenes" if problems else "no problem")))
    table.add_column("class")
    for name in ("pixels", "share", "km2"):
        table.add_column(name, justify="right")
    for name, total in classes.items():
        area = "–" if total.km2 is None else f"{total.km2:.4f}"
        table.add_row(escape(name), f"{total.pixels:,}", f"{total.share:.5f}", area)
    return table
