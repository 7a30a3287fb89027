"""Ingest a folder of images and masks into a store.

swath ingest RECIPE --data.source DIR --data.store URI [--dry-run] [--skip-bad] [--align] [--json]
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Annotated

import tyro
from rich.console import Console

from patchstore import FolderPreview, FolderReport
from swath import say
from swath.commands.command_line import every_field, finish, read_configured
from swath.commands.paths import absolute_path
from swath.config import Config
from swath.distributed import ingest as ray_ingest
from swath.experiments import ingest
from swath.report import tables

USES = {"data": every_field("data", without=("merge",)), "cluster": ("address",)}
"""Fields of a configuration that an ingest uses."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of the job."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    dry_run: bool = False
    """Only say what would be done, how large it would be and how long it would take."""
    skip_bad: bool = False
    """Leave out files that cannot be used, and succeed; they are listed either way."""
    align: bool = False
    """Warp masks and further bands that lie on another grid to their image's; the same as --data.align."""
    json: bool = False
    """Print one JSON object as the last line: scenes, states, pixels, classes (fraction of all pixels), class_km2,
    ignored (pixels), ignored_values (the same by value), notes, rejected (reasons); with --dry-run: states, estimate,
    rejected."""


def main(argv: Sequence[str]) -> None:
    """Run the job."""
    arguments = read_configured(Arguments, argv, USES)
    data = arguments.config.data
    data = replace(data, store=absolute_path(data.store, "data.store"),
                   source=absolute_path(data.source, "data.source"),
                   align=data.align or arguments.align)
    if arguments.dry_run:
        preview = ingest.preview(data)
        Console().print(tables.preview_table(preview))
        finish(arguments.json, asdict(preview))
        _check(preview, arguments.skip_bad)
        return
    spread = partial(ray_ingest.spread, address=arguments.config.cluster.address)
    report = ingest.run(data, spread, skip_bad=arguments.skip_bad)
    Console().print(tables.ingest_table(report))
    finish(arguments.json, {**asdict(report), "classes": report.fractions, "ignored": report.ignored})
    _check(report, arguments.skip_bad)


def _check(result: FolderReport | FolderPreview, skip_bad: bool) -> None:
    """Say what was refused: as an error, or where that is to be skipped, as a remark."""
    if not skip_bad:
        result.check()
    for reason in result.rejected:
        say.print_line(f"left out: {reason}")
