"""Score a model, the models of a cross-validation, or a map that was made elsewhere, on whole scenes of a split.

swath evaluate RUN [RUN …] [--data.store URI] --split test [--json]
swath evaluate RUN|RECIPE|--config FILE --map DIR_OR_FILE --data.store URI [--map-classes 1=water 0= …]
swath evaluate --ledger
"""

import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from swath import config as configuration
from swath.commands.command_line import Track, every_field, fields_given, finish, first_pass, option_of, read_over
from swath.commands.named_recipes import INSTALLED, recipe
from swath.commands.paths import absolute_config, absolute_path, absolute_tracking_uri
from swath.config import Config, DeviceName
from swath.errors import ConfigError
from swath.experiments import evaluation, looks
from swath.experiments.evaluation import Evaluation, EvaluationRequest, Folds
from swath.report import score_tables
from swath.scoring.metrics import Uncovered
from swath.splits.division import SplitName

USES = {"data": ("store", "merge"), "split": every_field("split"), "score": ("without", "boundary_px")}
"""Fields of a configuration that scoring a map uses. A run is scored as its own configuration says."""
USAGE = """[RUN …] [--map DIR_OR_FILE RECIPE|RUN|--config FILE [--recipes MODULE]] [any field]

With --map, a recipe, a run or --config FILE comes first; its split and its way of scoring hold, except for the fields
that the command line sets. --recipes names the recipe's module. Without --map, of the fields only --data.store counts:
the store to score on (empty: the one that the model was trained on)."""


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Score a model, the models of a cross-validation, or a map that was made elsewhere, on whole scenes of a split."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[RUN …]")] = ()
    """MLflow run id or checkpoint folder. Several are folds of a cross-validation: each is scored on its own split, and
    their counts are pooled."""
    config: Annotated[Config, tyro.conf.arg(name="")]
    split_name: Annotated[SplitName, tyro.conf.arg(name="split")] = "val"
    """Split to score."""
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
    track: Track = field(default_factory=Track)
    json: bool = False
    """Print one JSON object as the last line: miou, iou, confusion, pixels, ignored, protocol, and all else."""

    def check(self, given: Sequence[str]) -> None:
        """Raise ConfigError for arguments that would have no effect; `given` are options that only a map uses."""
        if self.ledger and (self.runs or self.map is not None):
            raise ConfigError("--ledger lists, and scores nothing: leave out what is to be scored, or --ledger")
        of_maps = {"--map-classes": bool(self.map_classes), "--uncovered": self.uncovered != "wrong"}
        given = [*(name for name, is_given in of_maps.items() if is_given), *given]
        if self.map is None and given:
            raise ConfigError(f"{', '.join(given)}: only for a map that was made elsewhere (--map); a run is scored as "
                              "its own configuration says")
        if self.map is not None and self.runs:
            raise ConfigError(_ONE)


_ONE = "--map is scored by one run or recipe, named before all other arguments, or by --config FILE"


def main(argv: Sequence[str]) -> None:
    """Run the job."""
    base, rest, given = _base(argv)
    arguments = read_over(Arguments, rest, base or Config(), USES, USAGE)
    arguments.check(given)
    config = arguments.config
    wanted = EvaluationRequest(split=arguments.split_name, workdir=absolute_path(arguments.workdir, "workdir"),
                    worst=arguments.worst, uri=absolute_tracking_uri(arguments.track.uri),
                    pictures=arguments.pictures and absolute_path(arguments.pictures, "pictures"))
    store = absolute_path(config.data.store, "data.store")
    out = Console()
    if arguments.ledger:
        finish(arguments.json, _list(wanted, out))
    elif arguments.map is not None:
        found = evaluation.evaluate_map(absolute_path(arguments.map, "map"), absolute_config(config), wanted,
                                        uncovered=arguments.uncovered, table=_table(arguments.map_classes))
        finish(arguments.json, _show(found, out))
    elif not arguments.runs:
        raise ConfigError("name a RUN to score (an MLflow run id or a checkpoint folder), or give --ledger")
    elif len(arguments.runs) == 1:
        found = evaluation.evaluate(arguments.runs[0], wanted, store_uri=store, device=arguments.device)
        finish(arguments.json, _show(found, out))
    else:
        folds = evaluation.cross_validate(arguments.runs, wanted, store_uri=store, device=arguments.device)
        finish(arguments.json, _show_folds(folds, out))


def _base(argv: Sequence[str]) -> tuple[Config | None, list[str], list[str]]:
    """The configuration that a map is scored by (none without --map), the arguments that are left to read, and the
    options among them that only a map uses. It is read first: its fields are the defaults of the others."""
    _, places, rest = first_pass(argv, map="", workdir="runs", **{"track.uri": ""})
    fields = [f"--{option_of(name)}" for name in fields_given(argv) if name != "data.store"]
    if not places.map or {"-h", "--help", "--ledger"} & set(rest):
        sources = [f"--{name}" for name, usual in (("config", None), ("recipes", INSTALLED))
                   if getattr(places, name) != usual]
        return None, [text for text in argv if text not in sources], [*sources, *fields]
    name, chosen, rest = first_pass(argv)
    if bool(name) + (chosen.config is not None) != 1 or (rest[:1] and not rest[0].startswith("-")):
        raise ConfigError(_ONE)
    config = configuration.load(Path(chosen.config)) if chosen.config is not None else _named(name, places)
    return config, rest, []


def _named(name: str, places: Namespace) -> Config:
    """The configuration of a run, a recipe or a checkpoint folder."""
    if "/" not in name and not re.fullmatch("[0-9a-f]{32}", name):
        try:
            return recipe(name, places.recipes)
        except ConfigError:
            if not Path(name).is_dir():
                raise
    workdir = absolute_path(Path(places.workdir), "workdir")
    return evaluation.load_run(name, workdir, absolute_tracking_uri(getattr(places, "track.uri")))[0].config


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
    found = looks.looks(wanted.location().uri)
    out.print(score_tables.looks_table(found))
    return {"looks": [{**vars(one), "when": one.when.isoformat()} for one in found]}
