"""From nothing to the best of a few models, its score and a map, in minutes on two cores.

swath quickstart [--data DIR] [--workdir DIR]

Without --data it generates orthophotos (recipe `synthetic`); with it, it reads images and masks from DIR by a recipe's
description of them (`dubai_unet` unless --recipe says otherwise).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

import patchstore
from patchstore.testing import make_dataset
from swath.commands.command_line import read
from swath.commands.named_recipes import recipe
from swath.commands.paths import absolute_path
from swath.config import Config
from swath.distributed import ingest as ray_ingest
from swath.distributed.connection import connected
from swath.experiments import evaluation, ingest
from swath.maps import apply
from swath.recipes import synthetic
from swath.report import tables
from swath.splits import division
from swath.tracking import mlflow_store
from swath.tuning import study
from swath.tuning import tables as trial_tables

TRIALS = 4
"""Of the search, whatever the recipe says."""
SCENES, GROUPS, SIDE = 12, 6, 768
"""Generated scenes: enough for each split to have some of its own, small enough for two cores."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """From nothing to the best of a few models, its score and a map, in minutes on two cores."""

    data: Path | None = None
    """Folder of images and masks; none: scenes are generated."""
    recipe: str = "dubai_unet"
    """Recipe that describes the folder."""
    workdir: Path = Path("runs")
    """Folder of everything that comes out."""


def main(argv: Sequence[str]) -> None:
    """Run the job."""
    arguments = read(Arguments, argv)
    out, clock = Console(soft_wrap=True), Clock()
    workdir = absolute_path(arguments.workdir, "workdir")
    config = _configure(arguments, workdir)
    clock.lap("scenes")

    with connected():  # once, for both
        report = ingest.run(config.data, ray_ingest.spread)
        out.print(tables.ingest_table(report))
        report.check()
        clock.lap("ingest")

        found = study.run(config, workdir)
        out.print(trial_tables.trials_table(found.trials))
        clock.lap("search")

    score = evaluation.evaluate(found.best.run_id, evaluation.EvaluationRequest(split="test", workdir=workdir)).score
    out.print(tables.iou_table("test", score.iou, score.means))
    clock.lap("score")

    store = patchstore.open(config.data.store, merge=config.data.merge)
    in_test = dict(division.divide(store, config.split).scenes("test"))
    source = next(s for s in ingest.sources(config.data).scenes if s.name in in_test)
    written = apply.predict(apply.Request(
        run=found.best.run_id, source=str(source.image), output=workdir / "maps" / f"{source.name}.tif",
        workdir=workdir, overwrite=True)).maps[0]
    clock.lap("map")

    out.print(f"map      {written.output}\npicture  {written.quicklook}")
    out.print(f"best     {found.best.run_id} (val/miou {found.best.val_miou:.4f})\nsearch   {found.run_id}")
    out.print(f"compare  {mlflow_store.ui_command(found.location)}")
    out.print(f"seconds  {clock}")


def _configure(arguments: Arguments, workdir: Path) -> Config:
    """The recipe, with its source and its store; the source is generated where none is given."""
    if arguments.data is None:
        config, source = synthetic(), workdir / "scenes"
        make_dataset(source, scenes=SCENES, groups=GROUPS, size=SIDE)
    else:
        config, source = recipe(arguments.recipe), absolute_path(arguments.data, "data")
    store = str(workdir / f"{config.track.experiment}.zarr")
    return replace(config, data=replace(config.data, source=str(source), store=store),
                   search=replace(config.search, trials=TRIALS))


class Clock:
    """Says how the time splits."""

    def __init__(self) -> None:
        self._last, self._laps = time.perf_counter(), dict[str, float]()

    def lap(self, name: str) -> None:
        """End a part."""
        now = time.perf_counter()
        self._laps[name], self._last = now - self._last, now

    def __str__(self) -> str:
        parts = "  ".join(f"{name} {seconds:.0f}" for name, seconds in self._laps.items())
        return f"{sum(self._laps.values()):.0f} ({parts})"
