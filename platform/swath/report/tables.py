"""What a person sees: one line a report while a run goes on, on standard error, and tables of results."""

from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from patchstore import FolderPreview, FolderReport
from patchstore.upkeep import ClassTotal, Entry, SceneAudit


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


def ingest_table(report: FolderReport) -> Group:
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


def preview_table(preview: FolderPreview) -> Table:
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
