"""What a person sees: one line a report while a run goes on, on standard error, and tables of results."""

import sys

from rich.console import Console
from rich.table import Table

from swath.context import Metrics
from swath.ingest import Report


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
