"""What `jobs/plan.py` prints: a table for each question that a plan answers."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from swath.experiments.forecast import Forecast, Work
from swath.experiments.pace import Pace
from swath.patches.certificate import Certificate, Pair
from swath.patches.overview import Row, Share
from swath.scoring.ceiling import Ceiling


def patches(rows: Sequence[Row], size: int, notes: Sequence[str]) -> RenderableType:
    """Patches by split and scale, and what the plan has to say of them."""
    table = _table(f"patches of {size} px", "split", "scale", "patches", "window", "Mpx/epoch", "bytes/epoch",
                   "labelled", "exact")
    for row in rows:
        table.add_row(row.split, f"{row.scale:g}", f"{row.patches:,}", _window(row), f"{row.megapixels:,.2f}",
                      in_bytes(row.bytes), "–" if row.labelled is None else f"{row.labelled:.1%}", f"{row.exact:.1%}")
    return Group(table, "Bytes: the windows' pixels, decoded, in the level that is read, image and labels.",
                 "Exact: patches whose class counts are: at full resolution, on the 64 px grid. Others' are estimated "
                 "from 64 px cells.",
                 *(f"note: {escape(note)}" for note in notes))


def classes(shares: Sequence[Share], scales: Sequence[float]) -> RenderableType:
    """Class pixels that there are, against those that are drawn."""
    each = [f"at {scale:g}" for scale in scales] if len(scales) > 1 else []
    table = _table("classes of the train split, % of the labelled pixels", "class", "Mpx", "cells", "patches", "drawn",
                   *each)
    for share in shares:
        every = (share.cells, share.patches, share.drawn, *(share.drawn_by_scale if each else ()))
        table.add_row(escape(share.name), f"{share.pixels / 1e6:,.2f}", *(f"{100 * value:.2f}" for value in every))
    return Group(table, "Cells: the split. Patches: the plan's, once each. Drawn: in an epoch, by weight"
                        f"{', in all and at each scale' if each else ''}.")


def certificate(result: Certificate) -> RenderableType:
    """What the splits share, and how far apart they are."""
    table = _table("overlap certificate", "splits", "overlap", "same content", "distance")
    for name, pair in result.pairs.items():
        table.add_row(name, f"{pair.overlap_px:,} px", f"{pair.same_px:,} px", _apart(pair))
    lines = [f"[yellow]warning[/]: {escape(finding)}" for finding in result.findings()]
    if (length := result.autocorrelation) is not None:
        metres = "" if length.m is None else f", {length.m:,.4g} m"
        more = "more than " if length.longer else ""
        lines.insert(0, f"Labels are correlated over {more}{length.px:,.0f} px{metres}: nearer is not independent.")
    return Group(table, *lines)


def ceiling(result: Ceiling) -> RenderableType:
    """The IoU that a predictor could reach whose every patch is right."""
    part = "all" if result.whole else f"an evenly spread {result.megapixels / result.of_megapixels:.0%}"
    table = _table("ceiling of IoU, by the resolution of the labels", "class",
                   *(f"scale {scale:g}" for scale in result.scales))
    every = [result.iou(index) for index in range(len(result.scales))]
    for name, present in zip(result.classes, result.present_K, strict=True):
        lacking = "not in the sample" if present else "no labels"
        table.add_row(escape(name), *(lacking if (value := iou[name]) is None else f"{value:.4f}" for iou in every))
    table.add_section()
    table.add_row("mean", *("–" if (value := result.mean(index)) is None else f"{value:.4f}"
                            for index in range(len(result.scales))))
    return Group(table, f"Over {part} of the val split's labelled blocks ({result.megapixels:,.1f} of "
                        f"{result.of_megapixels:,.1f} Mpx).")


def work(plan: Work) -> Table:
    """What a run does."""
    table = _facts("the run")
    table.add_row("steps", f"{plan.steps:,} of {plan.batch} patches")
    table.add_row("megapixels seen", f"{plan.megapixels:,.2f} ({plan.epochs:,.2f} epochs)")
    table.add_row("reports", f"{plan.reports:,}, each of {sum(plan.sample_windows_S):,} windows for the score and "
                             f"{plan.loss_patches:,} patches for the loss")
    table.add_row("final score", f"{sum(plan.whole_windows_S):,} windows")
    return table


def forecast(result: Forecast) -> RenderableType:
    """The time and the disk that a run takes."""
    trial, table = result.trial, _facts(f"time and disk, on this machine ({escape(result.trial.machine)})")
    busy = f", with {trial.cores:.1f} cores" if trial.cores is not None else ""
    table.add_row("a step", f"{trial.step_s * 1000:,.0f} ms: {_rate(trial.rate)} patches/s a worker{busy}")
    table.add_row("training", duration(result.training_s))
    table.add_row("reports", f"{duration(result.work.reports * result.report_s)}, {duration(result.report_s)} each")
    table.add_row("final score", duration(result.whole_s))
    table.add_row("in all", duration(result.seconds))
    table.add_row("checkpoints", f"{in_bytes(result.disk_bytes)}: {result.checkpoints} of "
                                 f"{in_bytes(trial.checkpoint_bytes)}; one more, and a copy, while one is written")
    workers = "" if result.workers == 1 else f" Each of {result.workers} workers is taken to be as fast as this one."
    return Group(table, f"Measured on random pixels: reading is left out (--bench measures it).{workers}")


def pace(result: Pace) -> RenderableType:
    """How fast patches reach the network."""
    table = _table("the way of a patch, on this machine", "part", "wall ms", "CPU ms", "patches/s a core")
    for name, part in result.parts.items():
        table.add_row(name, f"{part.wall_ms:.3f}", f"{part.cpu_ms:.3f}", f"{part.rate:,.0f}")
    table.add_section()
    table.add_row("all of it", f"{sum(part.wall_ms for part in result.parts.values()):.3f}",
                  f"{1000 / result.core_rate:.3f}", f"{result.core_rate:,.0f}")
    return Group(table, f"The loader with {result.readers} readers gives {_rate(result.loader_rate)} patches/s, the "
                        f"device takes {_rate(result.device_rate)}: {result.limit} limits the run.",
                 f"A device of {_rate(result.device_rate)} patches/s needs {result.cores:,.2g} cores for its data.")


def in_bytes(count: float) -> str:
    """A number of bytes to three digits: 12.3 MB."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count / 1e3:.3g} kB"


def duration(seconds: float) -> str:
    """A time in its largest unit and the next: 1 h 20 min."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.3g}"


def _apart(pair: Pair) -> str:
    """A distance: on the ground where that is known, and in pixels."""
    if pair.distance is None or pair.distance_px is None:
        return "not comparable"
    pixels = f"{pair.distance_px:,.0f} px"
    ground = {"m": " m", "crs": " units of the CRS"}.get(pair.unit)
    return pixels if ground is None else f"{pair.distance:,.4g}{ground}, {pixels}"


def _window(row: Row) -> str:
    """The side of a window, or the least and the greatest."""
    if not row.patches:
        return "–"
    least, most = row.side_px
    text = f"{least} px" if least == most else f"{least} … {most} px"
    if row.side_m is not None:
        near, far = (f"{metres:,.4g}" for metres in row.side_m)
        text += f", {near} m" if near == far else f", {near} … {far} m"
    return text


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(columns):
        table.add_column(escape(name), justify="right" if index else "left")
    return table


def _facts(title: str) -> Table:
    return Table(title=title, title_justify="left", show_header=False)
