"""Ingest a folder of images and masks into a store.

python jobs/ingest.py RECIPE --data.source DIR --data.store URI [--json]
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Annotated

import tyro
from rich.console import Console

from swath import cli, console, ingest, ray_ingest
from swath.config import Config


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of the job."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    json: bool = False
    """Print one JSON object as the last line: scenes, pixels, classes (fraction of all pixels), ignored (pixels),
    ignored_values (the same by value), rejected (reasons)."""


def main(argv: Sequence[str]) -> None:
    """Run the job."""
    arguments = cli.read_configured(lambda config: Arguments(config=config), argv)
    data = arguments.config.data
    data = replace(data, store=cli.lasting(data.store, "data.store"), source=cli.lasting(data.source, "data.source"))
    report = ingest.run(data, partial(ray_ingest.spread, address=arguments.config.cluster.address))
    Console().print(console.ingest_table(report))
    cli.finish(arguments.json, {**asdict(report), "classes": report.fractions, "ignored": report.ignored})
    report.check()


if __name__ == "__main__":
    cli.run(main)
