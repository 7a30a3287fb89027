"""Score a model, the models of a cross-validation, or a map that was made elsewhere, on whole scenes of a split.

python jobs/evaluate.py RUN [RUN …] [--data.store URI] --split test [--json]
python jobs/evaluate.py RUN|RECIPE --map DIR_OR_FILE --data.store URI [--map-classes 1=water …]
python jobs/evaluate.py --ledger
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from swath import cli, evaluate, ledger, score_tables
from swath.config import Config
from swath.context import DeviceName
from swath.errors import ConfigError
from swath.evaluate import Evaluation, Wanted
from swath.metrics import Uncovered
from swath.split import SplitName


@dataclass(frozen=True, kw_only=True)
class Data:
    """The data to score on."""

    store: str = ""
    """Store; empty: the one that the model was trained on."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Score a model, the models of a cross-validation, or a map that was made elsewhere, on whole scenes of a split."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[RUN …]")] = ()
    """MLflow run id or checkpoint folder; several are folds, each scored on its own split and pooled. With --map also a
    recipe: its split and its way of scoring hold."""
    data: Data = field(default_factory=Data)
    split: SplitName = "val"
    """Split to score."""
    map: Path | None = None
    """Georeferenced class raster, or a folder of such, that any tool made: scored in place of a model's prediction."""
    map_classes: tuple[str, ...] = ()
    """What the map's values mean, each as VALUE=CLASS; empty: what its files say, or the store's indices."""
    uncovered: Uncovered = "wrong"
    """Labelled pixels that the map leaves out count as wrong, or are left out."""
    worst: int = 8
    """Blocks of 256 px with most wrong pixels to draw, into --pictures and with the run in MLflow."""
    pictures: Path | None = None
    """Folder for the picture of the worst blocks."""
    ledger: bool = False
    """List who looked at a test split, and when, and score nothing."""
    device: DeviceName = "auto"
    """Device; auto takes a GPU where there is one."""
    workdir: Path = Path("runs")
    """Folder of the default tracking store."""
    track: cli.Track = field(default_factory=cli.Track)
    json: bool = False
    """Print one JSON object as the last line: miou, iou, confusion, pixels, ignored, protocol, and all else."""


def main(argv: Sequence[str]) -> None:
    """Run the job."""
    arguments = cli.read(Arguments, argv)
    wanted = Wanted(split=arguments.split, workdir=cli.lasting(arguments.workdir, "workdir"), worst=arguments.worst,
                    uri=cli.lasting_uri(arguments.track.uri),
                    pictures=arguments.pictures and cli.lasting(arguments.pictures, "pictures"))
    store = cli.lasting(arguments.data.store, "data.store")
    out = Console()
    if arguments.ledger:
        cli.finish(arguments.json, _list(wanted, out))
    elif not arguments.runs:
        raise ConfigError("name a RUN to score (an MLflow run id or a checkpoint folder), or give --ledger")
    elif arguments.map is not None:
        cli.finish(arguments.json, _show(_score_map(arguments, wanted, store), out))
    elif len(arguments.runs) == 1:
        found = evaluate.evaluate(arguments.runs[0], wanted, store_uri=store, device=arguments.device)
        cli.finish(arguments.json, _show(found, out))
    else:
        cli.finish(arguments.json, _cross_validate(arguments, wanted, store, out))


def _score_map(arguments: Arguments, wanted: Wanted, store: str) -> Evaluation:
    assert arguments.map is not None
    if len(arguments.runs) > 1:
        raise ConfigError(f"--map is scored by one run or recipe, got {len(arguments.runs)}")
    config = _configuration(arguments.runs[0], wanted)
    config = replace(config, data=replace(config.data, store=store or config.data.store))
    return evaluate.evaluate_map(cli.lasting(arguments.map, "map"), config, wanted, uncovered=arguments.uncovered,
                                 table=_table(arguments.map_classes))


def _configuration(name: str, wanted: Wanted) -> Config:
    """The configuration of a run, a checkpoint folder or a recipe."""
    if "/" in name or Path(name).is_dir() or re.fullmatch("[0-9a-f]{32}", name):
        return evaluate.find(name, wanted.workdir, wanted.uri)[0].config
    return cli.recipe(name)


def _table(texts: Sequence[str]) -> Mapping[str, str]:
    """What the map's values mean. Raises ConfigError for a text that is not VALUE=CLASS, and a value given twice."""
    table: dict[str, str] = {}
    for text in texts:
        value, equals, name = text.partition("=")
        if not (value and equals and name) or value in table:
            raise ConfigError(f"map-classes must be of different values, each written VALUE=CLASS, got {text!r}")
        table[value] = name
    return table


def _show(found: Evaluation, out: Console) -> dict[str, Any]:
    """Print a score, and give it as plain values."""
    out.print(score_tables.score_table(found.score))
    if len(found.score.by_group) > 1:
        out.print(score_tables.groups_table(found.score))
    for note in found.notes:
        out.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
    if found.looks is not None:
        out.print(f"looks at this test split before: {found.looks} (--ledger lists them)", highlight=False)
    if found.picture is not None:
        out.print(f"picture {found.picture}", highlight=False, soft_wrap=True)
    if found.run_id is not None:
        out.print(f"run {found.run_id}", highlight=False)
    said = found.score.protocol
    out.print(f"protocol {said.digest()}, ground {said.ground()}", highlight=False)
    return {**found.score.to_json(), "notes": list(found.notes), "looks": found.looks, "run_id": found.run_id,
            "picture": str(found.picture) if found.picture else None}


def _cross_validate(arguments: Arguments, wanted: Wanted, store: str, out: Console) -> dict[str, Any]:
    found = evaluate.cross_validate(arguments.runs, wanted, store_uri=store, device=arguments.device)
    out.print(score_tables.folds_table({run: one.score for run, one in found.each.items()}, found.pooled))
    pooled = _show(Evaluation(score=found.pooled, notes=found.pooled.notes), out)
    return {**pooled, "folds": {run: one.score.to_json() for run, one in found.each.items()}}


def _list(wanted: Wanted, out: Console) -> dict[str, Any]:
    looks = ledger.looks(wanted.location().uri)
    out.print(score_tables.looks_table(looks))
    return {"looks": [{**vars(one), "when": one.when.isoformat()} for one in looks]}


if __name__ == "__main__":
    cli.run(main)
