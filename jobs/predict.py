"""Apply a model to a scene file: a Cloud-Optimised GeoTIFF of classes, and a PNG beside it to look at.

python jobs/predict.py RUN INPUT OUTPUT.tif [--json]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from swath import apply, cli


@dataclass(frozen=True, kw_only=True)
class Arguments(cli.ModelArguments):
    """Apply a model to a scene file: a Cloud-Optimised GeoTIFF, and a PNG beside it to look at."""

    input: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="INPUT")]
    """Raster to predict; it need not be in a store."""
    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUTPUT")]
    """GeoTIFF to write."""
    json: bool = False
    """Print one JSON object as the last line: output, quicklook, shape, classes (pixels of each), nodata."""


def main(argv: Sequence[str]) -> None:
    """Run the job."""
    arguments = cli.read(Arguments, argv)
    result = apply.predict_file(
        arguments.run, cli.lasting(arguments.input, "INPUT"), cli.lasting(arguments.output, "OUTPUT"),
        workdir=cli.lasting(arguments.workdir, "workdir"), uri=cli.lasting_uri(arguments.track.uri),
        device=arguments.device)
    out = Console()
    out.print(f"map {result.output}\npicture {result.quicklook}", soft_wrap=True)
    cli.finish(arguments.json, {"output": str(result.output), "quicklook": str(result.quicklook),
                                "shape": result.shape, "classes": result.class_pixels, "nodata": result.nodata})


if __name__ == "__main__":
    cli.run(main)
