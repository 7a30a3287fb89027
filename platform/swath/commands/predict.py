"""Apply a model to scenes: a Cloud-Optimised GeoTIFF of classes for each, and a PNG beside it to look at.

swath predict RUN INPUT OUTPUT [--area FILE] [--polygons] [--workers N] [--resume] [--json]
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from swath.commands.command_line import ModelArguments, finish, read
from swath.commands.paths import absolute_path, absolute_tracking_uri
from swath.config import ClusterConfig
from swath.distributed import runners
from swath.maps import apply


@dataclass(frozen=True, kw_only=True)
class Score:
    """How windows are blended; by default as the model's runs are scored."""

    overlap: float | None = None
    """Share of a window's side that it has in common with its neighbour."""
    symmetries: Literal[1, 8] | None = None
    """Symmetries of the square that scores are averaged over: 8 takes eight times as long."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The machines."""

    workers: int = 1
    """Stretches of scenes that are predicted at once; more than one, or with an address, as tasks on Ray."""
    cpus: int = 0
    """CPU cores of a worker; 0: those of the machine or the cluster, divided among the workers."""
    address: str = ""
    """Ray cluster to use; empty: $RAY_ADDRESS, or one of its own on this machine."""


@dataclass(frozen=True, kw_only=True)
class Arguments(ModelArguments):
    """Apply a model to scenes: a Cloud-Optimised GeoTIFF of classes for each, and a PNG beside it to look at."""

    input: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="INPUT")]
    """Raster to predict (it need not be in a store), a folder of some, a glob in quotes, a store, or STORE/SCENE."""
    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUTPUT")]
    """GeoTIFF to write, NAME.tif; or a folder, for several scenes, with a mosaic of them (maps.vrt)."""
    area: Path | None = None
    """File of polygons outside of which nothing is mapped; maps end at its bounding box."""
    confidence: bool = False
    """Also write the largest probability of each pixel: NAME_confidence.tif."""
    probabilities: bool = False
    """Also write the probability of each class: NAME_probabilities.tif."""
    polygons: bool = False
    """Also write polygons of the classes with their areas, as GeoParquet: NAME.parquet."""
    simplify: float = 0.0
    """How far the outline of a polygon may move, in pixels."""
    score: Score = field(default_factory=Score)
    cluster: Cluster = field(default_factory=Cluster)
    resume: bool = False
    """Go on where a job that was ended has left off; maps that are whole are kept."""
    overwrite: bool = False
    """Take the place of maps that exist."""
    json: bool = False
    """Print one JSON object as the last line: maps (name, output, quicklook, shape, classes (pixels of each), nodata,
    further files), mosaic and notes."""


def main(argv: Sequence[str]) -> None:
    """Run the job."""
    arguments = read(Arguments, argv)
    cluster = arguments.cluster
    result = runners.predict(apply.Request(
        run=arguments.run, source=absolute_path(arguments.input, "INPUT"),
        output=absolute_path(arguments.output, "OUTPUT"), workdir=absolute_path(arguments.workdir, "workdir"),
        uri=absolute_tracking_uri(arguments.track.uri), area=arguments.area and absolute_path(arguments.area, "area"),
        overlap=arguments.score.overlap, symmetries=arguments.score.symmetries, confidence=arguments.confidence,
        probabilities=arguments.probabilities, polygons=arguments.polygons, simplify_px=arguments.simplify,
        cluster=ClusterConfig(workers=cluster.workers, cpus=cluster.cpus, address=cluster.address,
                              device=arguments.device),
        resume=arguments.resume, overwrite=arguments.overwrite))
    out = Console(soft_wrap=True)
    for one in result.maps:
        for name, path in {"map": one.output, "picture": one.quicklook, **one.others}.items():
            out.print(f"{name} {path}", markup=False, highlight=False)
    for line in [f"mosaic {result.mosaic}"] * bool(result.mosaic) + [f"note: {note}" for note in result.notes]:
        out.print(line, markup=False, highlight=False)
    finish(arguments.json, {
        "maps": [{"name": one.name, "output": str(one.output), "quicklook": str(one.quicklook), "shape": one.shape,
                  "classes": one.class_pixels, "nodata": one.nodata}
                 | {name: str(path) for name, path in one.others.items()} for one in result.maps],
        "mosaic": result.mosaic and str(result.mosaic), "notes": result.notes})
