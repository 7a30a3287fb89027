"""Messages for the user on standard error, and the metrics that a run reports."""

import sys
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console

Metrics = Mapping[str, float]
"""Values of one report, by metric name."""
Listener = Callable[[Metrics], None]
"""A function that is called with each report of a run."""


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


def print_notes(remarks: Sequence[str]) -> None:
    """Print notes about a run before it starts, one line each."""
    console = Console(file=sys.stderr, highlight=False, soft_wrap=True)
    for remark in remarks:
        console.print(f"note: {remark}", markup=False)


def print_line(text: str) -> None:
    """Print one line of progress."""
    Console(file=sys.stderr, highlight=False, soft_wrap=True).print(text, markup=False)
