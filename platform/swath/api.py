"""The public Python API: `import swath` gives these functions, in a script and in a notebook.

    swath.ingest("photos/", "runs/mine.zarr", classes={"road": "#5A5A5A", "field": "#C8B46E"})
    config = swath.recipe("synthetic", store="runs/mine.zarr", **{"patches.size": 256})
    print(swath.plan(config))
    run = swath.train(config, workdir="runs")
    model = swath.load(run.checkpoint)
    model.map("scene.tif", "map.tif", polygons=True)
    swath.evaluate(run.id, split="test").show()
    best = swath.search(config, trials=20).best
"""

import io
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

import patchstore
from patchstore import FolderReport
from swath import config as configuration
from swath.commands import named_recipes
from swath.commands.command_line import with_lists
from swath.config import Config, DeviceName
from swath.distributed import runners
from swath.errors import ConfigError
from swath.experiments import evaluation, forecast
from swath.experiments.prepare import prepare_parts, with_absolute_paths
from swath.maps.apply import Map, Request
from swath.models import checkpoint, inference
from swath.models.checkpoint import Checkpoint
from swath.patches import certificate, overview
from swath.patches.certificate import Certificate
from swath.prediction import streaming
from swath.prediction.readers import ArrayReader
from swath.report import plan_tables, score_tables
from swath.runtime import choose_device
from swath.say import Metrics
from swath.scoring.result import Score
from swath.splits.division import SplitName
from swath.tracking import runs
from swath.training.prepared import Prepared

if TYPE_CHECKING:
    from swath.tuning.study import Found

Folder = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The patches that a run would see, and their cost. Printing it gives the tables of `swath plan`."""

    prepared: Prepared
    """Store, split and patch plans of the configuration."""

    @cached_property
    def certificate(self) -> Certificate:
        """The overlap certificate: the pixels of one split that patches of another can see, and their distance."""
        found = self.prepared
        return certificate.certify(found.store, found.split, {"train": found.plan, "val": found.val_plan})

    def __str__(self) -> str:
        found = self.prepared
        plans: dict[SplitName, Any] = {"train": found.plan, "val": found.val_plan}
        rows = [row for name, plan in plans.items() for row in overview.rows(found.store, name, plan)]
        notes = list(dict.fromkeys([*found.split.notes, *found.plan.notes, *found.val_plan.notes]))
        shares = overview.shares(found.store, found.split, found.plan)
        text = io.StringIO()
        console = Console(width=100, file=text, highlight=False)
        for table in (plan_tables.patches(rows, found.config.patches.size, notes),
                      plan_tables.classes(shares, found.config.patches.placement_scales),
                      plan_tables.certificate(self.certificate), plan_tables.work(forecast.work(found))):
            console.print(table)
        return text.getvalue()

    def show(self) -> None:
        """Print the tables to standard output."""
        print(self)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished training."""

    id: str
    """Its MLflow run id."""
    checkpoint: Path
    """Folder of its last checkpoint, which `load` reads."""
    history: tuple[Metrics, ...]
    """The metrics of each report, oldest first."""
    score: Score
    """The score of the whole validation split."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """A trained model, ready to predict."""

    folder: Path
    """Its checkpoint."""
    device: DeviceName
    trained: Checkpoint

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, by index."""
        return self.trained.card.classes

    @cached_property
    def _forward(self) -> inference.Forward:
        return inference.load_for_inference(self.trained, choose_device(self.device))

    def predict(self, image_BHW: NDArray[Any]) -> NDArray[np.uint8]:
        """The class of each pixel of an image in memory: uint8 (H, W), by the blended windows that make a map.

        image_BHW has the bands and the dtype of the training's store; its pixels are taken at scale 1. Raises
        ValueError for another number of bands or another dtype, and for a model that sees metres (`patches.pixel_m`):
        an array has no pixel size, so use `map`.
        """
        card, config = self.trained.card, self.trained.config
        if image_BHW.ndim != 3 or len(image_BHW) != card.bands or str(image_BHW.dtype) != card.dtype:
            raise ValueError(f"the model takes {card.dtype} ({card.bands}, H, W), got {image_BHW.dtype} "
                             f"{image_BHW.shape}")
        if config.patches.pixel_m:
            raise ValueError("the model sees metres (patches.pixel_m) and an array has no pixel size; use model.map")
        height, width = image_BHW.shape[1:]
        part = streaming.part_of_scene(ArrayReader(image_BHW), config.patches, pixel_m2=None, name="the array",
                                       overlap=config.score.overlap, region=((0, height), (0, width)))
        batch = streaming.batch_size(config.patches.size, config.patches.scales_per_sample)
        rows = streaming.blend(part, self._forward, classes=len(card.classes), batch=batch,
                               device=choose_device(self.device))
        return np.concatenate([classes_hW for _, classes_hW in streaming.classes_of(rows)])

    def map(self, source: Folder, output: Folder, **options: Any) -> list[Map]:
        """Map a raster, a folder of rasters, a store or STORE/SCENE, as `swath predict` does; returns the maps.

        options: fields of `swath.maps.apply.Request`: polygons, confidence, probabilities, area, overwrite, …
        Raises what `swath.maps.apply.predict` raises.
        """
        cluster = configuration.ClusterConfig(device=self.device)
        return runners.predict(Request(run=str(self.folder), source=os.path.abspath(source) if "://" not in str(source)
                                       else str(source), output=Path(output).absolute(), workdir=Path(),
                                       **{"cluster": cluster, **options})).maps


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """A score of whole scenes."""

    score: Score
    """Means, and IoU by class."""
    notes: tuple[str, ...]
    picture: Path | None
    """The worst blocks, where a folder for pictures was given."""

    def show(self) -> None:
        """Print the score's table to standard output."""
        console = Console()
        console.print(score_tables.score_table(self.score))
        for note in self.notes:
            console.print(f"note: {note}", markup=False, highlight=False)


def ingest(source: Folder, store: Folder, *, classes: Mapping[str, str] | None = None, **options: Any) -> FolderReport:
    """Write a folder of images and masks into a store.

    classes: colour (#RRGGBB) of each class by name, in the order of the mask's values; options: the further arguments
    of `patchstore.ingest_folder`. Raises what that raises.
    """
    return patchstore.ingest_folder(str(store), str(source), classes=classes or {}, **options)


def recipe(name: str, *, store: Folder = "", module: str = named_recipes.INSTALLED, **fields: Any) -> Config:
    """The configuration of a recipe, with some fields changed: recipe("synthetic", **{"patches.size": 256}).

    Raises ConfigError for an unknown recipe or field, and for a value that a field does not take.
    """
    base = named_recipes.recipe(name, module)
    fields = ({"data.store": str(store)} if str(store) else {}) | fields
    known = base.flat()
    if unknown := [field for field in fields if field not in known]:
        raise ConfigError(f"{unknown[0]}: no field of a configuration; write SECTION.FIELD, for example patches.size")
    values = asdict(base)
    for field, value in fields.items():
        section, _, part = field.partition(".")
        values[section][part] = value
    return with_lists(configuration.from_values(values))


def plan(config: Config) -> Plan:
    """Plan a run: its splits, patches and cost. Reads no pixels. Raises ConfigError, DataError, PatchstoreError."""
    return Plan(prepared=prepare_parts(*with_absolute_paths(config)))


def train(config: Config, workdir: Folder = "runs", *, run_id: str = "") -> Run:
    """Train, score and record one model, as `swath train` does. run_id: a run to resume.

    Raises what `swath.experiments.experiment.train` raises.
    """
    outcome = runners.train(config, Path(workdir).absolute(), run_id=run_id)
    return Run(id=outcome.run_id, checkpoint=cast(Path, outcome.run.checkpoint),
               history=tuple(outcome.run.history), score=outcome.score)


def load(run: Folder, workdir: Folder = "runs", *, device: DeviceName = "auto") -> Model:
    """Load the model of a checkpoint folder, or of an MLflow run id that is looked up in `workdir`'s tracking store.

    Raises ConfigError for an unknown run, and CheckpointError for one without a whole checkpoint.
    """
    folder, _ = runs.locate(str(run), Path(workdir).absolute())
    return Model(folder=folder.absolute(), device=device, trained=checkpoint.load(folder))


def evaluate(run: Folder, workdir: Folder = "runs", *, split: SplitName = "val", store: Folder = "",
             pictures: Folder | None = None, device: DeviceName = "auto") -> Evaluation:
    """Score a run's model on whole scenes of a split, as `swath evaluate` does.

    run: an MLflow run id or a checkpoint folder; store: another store than that of the training; pictures: a folder for
    the worst blocks. Raises what `swath.experiments.evaluation.evaluate` raises.
    """
    wanted = evaluation.EvaluationRequest(split=split, workdir=Path(workdir).absolute(), worst=8 if pictures else 0,
                                          pictures=None if pictures is None else Path(pictures).absolute())
    found = evaluation.evaluate(str(run), wanted, store_uri=str(store), device=device)
    return Evaluation(score=found.score, notes=found.notes, picture=found.picture)


def search(config: Config, workdir: Folder = "runs", *, trials: int | None = None) -> "Found":
    """Search around a configuration, then train the best point again, as `swath search` does; `.best` is the model.

    trials: the number of trials; None: as the configuration says. Raises what `swath.tuning.study.run` raises.
    """
    from swath.tuning import study  # only here: everything else of this module works without Ray

    if trials is not None:
        config = replace(config, search=replace(config.search, trials=trials))
    return study.run(config, Path(workdir).absolute())
