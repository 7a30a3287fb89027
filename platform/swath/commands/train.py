"""Train one model, score it on the validation split, and record it in MLflow.

swath train RECIPE --data.store URI [any field] [--workdir DIR] [--run RUN] [--json]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from swath.commands.command_line import TRAINING, finish, read_configured
from swath.commands.paths import absolute_config, absolute_path
from swath.config import Config
from swath.distributed import runners
from swath.report import tables


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of the job."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    workdir: Path = Path("runs")
    """Folder of checkpoints and, where no tracking store is named, of MLflow's."""
    run: str = ""
    """MLflow id of a run to go on with, of the same configuration: one that was killed, or failed; see first that no
    process is at it any more. Empty: a new run."""
    json: bool = False
    """Print one JSON object as the last line: run_id, checkpoint, val_miou, val_iou, megapixels, seconds."""


def main(argv: Sequence[str]) -> None:
    """Run the job."""
    arguments = read_configured(Arguments, argv, TRAINING)
    outcome = runners.train(absolute_config(arguments.config), absolute_path(arguments.workdir, "workdir"),
                            run_id=arguments.run)
    run = outcome.run
    out = Console()
    out.print(tables.iou_table("validation", outcome.score.iou, outcome.score.means))
    out.print(f"run {outcome.run_id}\ncheckpoint {run.checkpoint}", soft_wrap=True)
    finish(arguments.json, {
        "run_id": outcome.run_id, "checkpoint": str(run.checkpoint), "val_miou": outcome.score.miou,
        "val_iou": outcome.score.iou, "megapixels": run.megapixels, "seconds": outcome.seconds})
