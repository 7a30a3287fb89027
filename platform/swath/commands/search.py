"""Search for the best configuration around a recipe, and train it.

swath search RECIPE --data.store URI [--search.trials N] [any field] [--workdir DIR] [--json]
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from swath.commands.command_line import TRAINING, every_field, finish, read_configured
from swath.commands.paths import absolute_config, absolute_path
from swath.config import Config
from swath.tracking import mlflow_store
from swath.tuning import study, tables, trials


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of the job."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    workdir: Path = Path("runs")
    """Folder of checkpoints and, where no tracking store is named, of MLflow's."""
    json: bool = False
    """Print one JSON object as the last line: search (the run of its summary), best (run_id, config, val_miou), states
    (trials in each)."""


def main(argv: Sequence[str]) -> None:
    """Run the job."""
    arguments = read_configured(Arguments, argv, {**TRAINING, "search": every_field("search")})
    found = study.run(absolute_config(arguments.config), absolute_path(arguments.workdir, "workdir"))
    out = Console(soft_wrap=True)
    out.print(tables.trials_table(found.trials))
    out.print(f"best     {found.best.run_id} (val/miou {found.best.val_miou:.4f})\nsearch   {found.run_id}\n"
              f"compare  {mlflow_store.ui_command(found.location)}")
    finish(arguments.json, {
        "search": found.run_id, "states": trials.states(found.trials),
        "best": {"run_id": found.best.run_id, "config": asdict(found.best.config), "val_miou": found.best.val_miou}})
