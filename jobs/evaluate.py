"""Score a model, the models of a cross-validation, or a map that was made elsewhere, on whole scenes of a split.

python jobs/evaluate.py RUN [RUN …] [--data.store URI] --split test [--json]
python jobs/evaluate.py RUN|RECIPE|--config FILE --map DIR_OR_FILE --data.store URI [--map-classes 1=water 0= …]
python jobs/evaluate.py --ledger
"""

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from swath import cli
from swath import config as configuration
from swath.config import Config, DeviceName, ScoreConfig, SplitConfig
from swath.errors import ConfigError
from swath.experiments import evaluation
from swath.experiments import looks as ledger
from swath.experiments.evaluation import Evaluation, EvaluationRequest, Folds
from swath.report import score_tables
from swath.scoring.metrics import Uncovered
from swath.splits.division import SplitName


@dataclass(frozen=True, kw_only=True)
class Data:
    """The data to score on."""

    store: str = ""
    """Store; empty: the one that the model was trained on."""
    merge: tuple[str, ...] = ()
    """With --map: classes merged or renamed when the store is read, as in a recipe."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """With --map: how it is scored; by default as the run or recipe says."""

    without: tuple[str, ...] = ScoreConfig.without
    """Classes left out of a second mean, printed beside the first."""
    boundary_px: int = ScoreConfig.boundary_px
    """Boundary IoU compares pixels within so many full-resolution pixels of a contour."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Score a model, the models of a cross-validation, or a map that was made elsewhere, on whole scenes of a split."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[RUN …]")] = ()
    """MLflow run id or checkpoint folder; several are folds, each scored on its own split and pooled. With --map one,
    or a recipe, before all else: its split and its way of scoring hold, but for the fields that are given here."""
    config: Path | None = None
    """With --map, in place of a recipe: file with a configuration."""
    recipes: str = "recipes"
    """With --map: module that has the recipe."""
    data: Data = field(default_factory=Data)
    split_name: Annotated[SplitName, tyro.conf.arg(name="split")] = "val"
    """Split to score."""
    split: SplitConfig = field(default_factory=SplitConfig)
    score: Score = field(default_factory=Score)
    map: Path | None = None
    """Georeferenced class raster, or a folder of such, that any tool made: scored in place of a model's prediction."""
    map_classes: tuple[str, ...] = ()
    """What the map's values mean, each as VALUE=CLASS, or VALUE= for none; empty: what its files say, or the store's
    indices."""
    uncovered: Uncovered = "wrong"
    """Labelled pixels that the map leaves out count as wrong, or are left out."""
    worst: int = 8
    """Blocks of 256 px with most wrong pixels to draw, at most 64, into --pictures and with the run in MLflow."""
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

    def check(self) -> None:
        """Raise ConfigError for arguments that would have no effect."""
        if self.ledger and (self.runs or self.map is not None):
            raise ConfigError("--ledger lists, and scores nothing: leave out what is to be scored, or --ledger")
        usual = Arguments()
        of_maps = {"--map-classes": self.map_classes, "--uncovered": (self.uncovered,) * (self.uncovered != "wrong"),
                   "--config": self.config, "--recipes": self.recipes != usual.recipes, "--data.merge": self.data.merge,
                   "--split.*": self.split != usual.split, "--score.*": self.score != usual.score}
        given = [name for name, value in of_maps.items() if value]
        if self.map is None and given:
            raise ConfigError(f"{', '.join(given)}: only for a map that was made elsewhere (--map); a run is scored as "
                              "its own configuration says")


def main(argv: Sequence[str]) -> None:
    """Run the job."""
    config = _configuration(argv)
    arguments = cli.read(Arguments, argv, default=_arguments(config) if config else None)
    arguments.check()
    wanted = EvaluationRequest(split=arguments.split_name, workdir=cli.lasting(arguments.workdir, "workdir"),
                    worst=arguments.worst, uri=cli.lasting_uri(arguments.track.uri),
                    pictures=arguments.pictures and cli.lasting(arguments.pictures, "pictures"))
    store = cli.lasting(arguments.data.store, "data.store")
    out = Console()
    if arguments.ledger:
        cli.finish(arguments.json, _list(wanted, out))
    elif config is not None:
        cli.finish(arguments.json, _show(_score_map(arguments, wanted, config), out))
    elif not arguments.runs:
        raise ConfigError("name a RUN to score (an MLflow run id or a checkpoint folder), or give --ledger")
    elif len(arguments.runs) == 1:
        found = evaluation.evaluate(arguments.runs[0], wanted, store_uri=store, device=arguments.device)
        cli.finish(arguments.json, _show(found, out))
    else:
        folds = evaluation.cross_validate(arguments.runs, wanted, store_uri=store, device=arguments.device)
        cli.finish(arguments.json, _show_folds(folds, out))


def _configuration(argv: Sequence[str]) -> Config | None:
    """The configuration that a map is scored by: of a file, or of the run, checkpoint folder or recipe that the command
    line begins with; none without --map. It is read first, as its fields are the other arguments' defaults."""
    first = ArgumentParser(add_help=False, allow_abbrev=False)
    for name, usual in (("map", None), ("config", None), ("recipes", "recipes"), ("workdir", "runs"),
                        ("track.uri", "")):
        first.add_argument(f"--{name}", default=usual)
    chosen, rest = first.parse_known_args(argv)
    if chosen.map is None or {"-h", "--help", "--ledger"} & set(rest):
        return None
    names = [text for text in rest[:2] if not text.startswith("-")] if rest and not rest[0].startswith("-") else []
    if len(names) + (chosen.config is not None) != 1:
        raise ConfigError("--map is scored by one run or recipe, named before all other arguments, or by --config FILE")
    return configuration.load(Path(chosen.config)) if chosen.config is not None else _named(names[0], chosen)


def _named(name: str, chosen: Namespace) -> Config:
    """The configuration of a run, a recipe or a checkpoint folder."""
    if "/" not in name and not re.fullmatch("[0-9a-f]{32}", name):
        try:
            return cli.recipe(name, chosen.recipes)
        except ConfigError:
            if not Path(name).is_dir():
                raise
    workdir = cli.lasting(Path(chosen.workdir), "workdir")
    return evaluation.load_run(name, workdir, cli.lasting_uri(getattr(chosen, "track.uri")))[0].config


def _arguments(config: Config) -> Arguments:
    """The defaults of a map's arguments."""
    return Arguments(data=Data(store=config.data.store, merge=config.data.merge), split=config.split,
                     score=Score(without=config.score.without, boundary_px=config.score.boundary_px))


def _score_map(arguments: Arguments, wanted: EvaluationRequest, config: Config) -> Evaluation:
    assert arguments.map is not None
    data, way = arguments.data, arguments.score
    config = cli.lasting_config(cli.with_lists(replace(
        config, data=replace(config.data, store=data.store, merge=data.merge), split=arguments.split,
        score=replace(config.score, without=way.without, boundary_px=way.boundary_px))))
    return evaluation.evaluate_map(cli.lasting(arguments.map, "map"), config, wanted, uncovered=arguments.uncovered,
                                 table=_table(arguments.map_classes))


def _table(texts: Sequence[str]) -> Mapping[str, str]:
    """What the map's values mean. Raises ConfigError for a text that is not VALUE=CLASS or VALUE=, and a value given
    twice."""
    table: dict[str, str] = {}
    for text in texts:
        value, equals, name = text.partition("=")
        if not (value and equals) or value in table:
            raise ConfigError("map-classes must be of different values, each written VALUE=CLASS, or VALUE= for none, "
                              f"got {text!r}")
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
    return _plain(found)


def _show_folds(found: Folds, out: Console) -> dict[str, Any]:
    out.print(score_tables.folds_table({run: one.score for run, one in found.each.items()}, found.pooled.score))
    for one in found.each.values():
        if one.picture is not None:
            out.print(f"picture {one.picture}", highlight=False, soft_wrap=True)
    return {**_show(found.pooled, out), "folds": {run: _plain(one) for run, one in found.each.items()}}


def _plain(found: Evaluation) -> dict[str, Any]:
    return {**found.score.to_json(), "notes": list(found.notes), "looks": found.looks, "run_id": found.run_id,
            "picture": str(found.picture) if found.picture else None}


def _list(wanted: EvaluationRequest, out: Console) -> dict[str, Any]:
    looks = ledger.looks(wanted.location().uri)
    out.print(score_tables.looks_table(looks))
    return {"looks": [{**vars(one), "when": one.when.isoformat()} for one in looks]}


if __name__ == "__main__":
    cli.run(main)
