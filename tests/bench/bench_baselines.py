"""What a trained network has to beat: one class everywhere, and a classifier of single pixels by their colour.

    python tests/bench/bench_baselines.py --store runs/dubai.zarr [--recipe dubai_unet] [--run RUN] [--json FILE]

The classifiers are scikit-learn's random forests, trained on a sample of the train cells' labelled pixels: by the bands
alone, and with their mean over the square around the pixel. All are scored as a run is, at full resolution, each
labelled pixel of the split's cells once; scores of one `ground` digest may be compared. With `--run` (an MLflow run id
or a checkpoint folder) split and scoring are that run's, and its own score stands beside. Each classifier's look at a
test split stands in the ledger, as does that of the constant answers, of which there is one for all.

Legend: K classes, B bands, F features, P pixels; h rows of a piece of a region, W its columns.
"""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.ensemble import RandomForestClassifier

from patchstore import Store
from swath.commands import command_line, named_recipes
from swath.config import Config
from swath.errors import ConfigError, DataError
from swath.experiments import evaluation, looks
from swath.experiments.evaluation import EvaluationRequest
from swath.experiments.prepare import open_store
from swath.scoring import counting
from swath.scoring.counting import Predictions, Region
from swath.scoring.result import Score
from swath.splits.division import Split, SplitName, class_pixels, divide

ROWS = 256
"""Rows that are classified at once."""
TREES, LEAF = 20, 20
"""Trees of a forest, and the least pixels of a leaf: no colour is learnt by heart. Gradient boosting of the default
length takes six times as long for a pixel as fifty such trees (25 µs and 4 µs of a core)."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to compare, and on what."""

    store: str = ""
    """The store; by default the run's."""
    recipe: str = "dubai_unet"
    """Whose split and way of scoring hold where there is no run."""
    run: str = ""
    """A trained network to compare with: an MLflow run id or a checkpoint folder."""
    splits: tuple[SplitName, ...] = ("val", "test")
    """The splits to score."""
    pixels: int = 300_000
    """How many pixels a classifier is trained on, about."""
    around: int = 15
    """Side in pixels of the square whose mean the second classifier sees."""
    balanced: bool = False
    """Whether all classes weigh alike in training."""
    seed: int = 0
    """Of the sample and of the classifiers."""
    workdir: Path = Path("runs")
    """Folder of the default tracking store, which has the runs and the ledger."""
    json: Path | None = None
    """File for all scores."""

    def __post_init__(self) -> None:
        if self.around < 3 or self.around % 2 == 0:
            raise ConfigError(f"around must be odd, 3 or more, got {self.around}")
        if self.pixels < 1000:
            raise ConfigError(f"pixels must be 1000 or more, got {self.pixels}")


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Answers that make one entry in the ledger."""

    name: str
    sources: Mapping[str, Predictions]
    """By the name of the answer; the first one's score stands in the ledger."""


def constant(value: int) -> Predictions:
    """One class everywhere."""
    def source(regions: Sequence[Region]) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
        for index, region in enumerate(regions):
            for row, end in pieces(region):
                yield index, row, np.full((end - row, region.shape[1]), value, np.uint8)

    return source


def classified(store: Store, model: RandomForestClassifier, around: int) -> Predictions:
    """What a classifier says of each pixel by itself."""
    def source(regions: Sequence[Region]) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
        for index, region in enumerate(regions):
            for row, end in pieces(region):
                features_PF = features(store, replace(region, rows=(row, end)), around)
                yield index, row, model.predict(features_PF).astype(np.uint8).reshape(end - row, -1)

    return source


def pieces(region: Region) -> Iterator[tuple[int, int]]:
    """First row and the one after the last of each piece of a region."""
    for row in range(*region.rows, ROWS):
        yield row, min(row + ROWS, region.rows[1])


def features(store: Store, region: Region, around: int) -> NDArray[np.float32]:
    """What is known of each pixel of a region, row by row: its bands and, unless `around` is 0, their means over the
    square of so many pixels around it, which a scene's edge reflects: (P, F)."""
    inner, outer = [], []
    for (first, end), length in zip((region.rows, region.cols), store.scenes[region.scene].shape):
        outer.append((max(0, first - around // 2), min(length, end + around // 2)))
        inner.append(slice(first - outer[-1][0], end - outer[-1][0]))
    image_BHW = store.region(region.scene, "image", *outer).astype(np.float32)
    planes = [*image_BHW, *(cv2.blur(band_HW, (around, around)) for band_HW in image_BHW if around)]
    return np.stack([plane_HW[tuple(inner)].ravel() for plane_HW in planes], axis=1)


def sample(store: Store, split: Split, pixels: int, around: int, seed: int
           ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Features (P, F) and classes (P) of about so many labelled pixels of the train cells, each as likely."""
    generator = np.random.default_rng(seed)
    share = pixels / class_pixels(store, split, "train").sum()
    found: list[tuple[NDArray[np.float32], NDArray[np.uint8]]] = []
    for region in counting.whole(store, split, "train"):
        cells = split.cells(region.scene, "train")
        for row, end in pieces(region):
            labels_P = counting.labels_of(store, region.scene, cells, (row, end), region.cols).ravel()
            chosen_P = (labels_P != store.ignore) & (generator.random(labels_P.size) < share)
            if chosen_P.any():
                found.append((features(store, replace(region, rows=(row, end)), around)[chosen_P], labels_P[chosen_P]))
    features_PF, labels_P = (np.concatenate(parts) for parts in zip(*found))
    return features_PF, labels_P


def baselines(store: Store, split: Split, settings: Settings, out: Console) -> Iterator[Baseline]:
    """The constant answers, the train cells' commonest class first, and the classifiers, each trained when it is asked
    for."""
    by_train = np.argsort(-class_pixels(store, split, "train"), kind="stable")
    yield Baseline(name="one class everywhere",
                   sources={f"{store.classes[k].name} everywhere": constant(int(k)) for k in by_train})
    for around in (0, settings.around):
        name = "bands" if not around else f"bands, mean of {around} px"
        began = time.perf_counter()
        features_PF, labels_P = sample(store, split, settings.pixels, around, settings.seed)
        model = RandomForestClassifier(TREES, min_samples_leaf=LEAF, n_jobs=-1, random_state=settings.seed,
                                       class_weight="balanced" if settings.balanced else None)
        model.fit(features_PF, labels_P)
        out.print(f"{name}: {features_PF.shape[1]} features, trained on {len(labels_P):,} pixels in "
                  f"{time.perf_counter() - began:.0f} s", highlight=False)
        yield Baseline(name=name, sources={name: classified(store, model, around)})


def scores(store: Store, split: Split, config: Config, baseline: Baseline, wanted: EvaluationRequest
           ) -> dict[str, Score]:
    """The score of each answer of a baseline on a split; a look at a test split is written down before."""
    said = counting.protocol(store, split, wanted.split, config, "wrong")
    looking = (looks.look(wanted.location(), said, f"baseline: {baseline.name}", store.uri) if wanted.split == "test"
               else nullcontext())
    with looking as entry:
        found = {answer: counting.evaluate(store, split, wanted.split, source, config, uncovered="wrong")
                 for answer, source in baseline.sources.items()}
        if entry:
            entry.log(next(iter(found.values())).numbers(), 0.0)
    return found


def show(found: Mapping[str, Score], shown: Sequence[str], out: Console) -> None:
    """Print the IoU by class of the answers that are to be shown, and the mean IoU of the others."""
    first, *others = found.values()
    said = first.protocol
    if {one.protocol.ground() for one in others} != {said.ground()}:
        raise DataError(f"{said.split}: the scores are not of one ground; they cannot be compared")
    share_K = first.scored.sum(axis=1) / first.pixels
    table = Table(title=f"{said.split}: IoU over {first.pixels:,} pixels, ground {said.ground()}", title_justify="left")
    table.add_column("class")
    for column in ("share", *shown):
        table.add_column(column, justify="right")
    for share, name in zip(share_K, first.classes, strict=True):
        table.add_row(name, f"{share:.1%}", *(_number(found[answer].iou[name]) for answer in shown))
    table.add_section()
    for mean in [mean for mean in first.means if not mean.endswith("everywhere")]:
        table.add_row(mean, "", *(_number(found[answer].means[mean]) for answer in shown))
    table.add_row("pixel accuracy", "", *(_number(found[answer].accuracy) for answer in shown))
    out.print(table)
    rest = ", ".join(f"{answer} {_number(one.miou)}" for answer, one in found.items() if answer not in shown)
    out.print(f"mean IoU of {rest}", highlight=False)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def configuration(settings: Settings) -> Config:
    """The run's configuration, or the recipe's, with the store that is given."""
    config = (evaluation.load_run(settings.run, settings.workdir)[0].config if settings.run
              else named_recipes.recipe(settings.recipe))
    return replace(config, data=replace(config.data, store=settings.store or config.data.store))


def main(argv: Sequence[str]) -> None:
    """Train, score, print, and write the scores down."""
    settings, out = command_line.read(Settings, argv), Console()
    config = configuration(settings)
    store = open_store(config)
    split = divide(store, config.split)
    wanted = {name: EvaluationRequest(split=name, workdir=settings.workdir) for name in settings.splits}
    found: dict[SplitName, dict[str, Score]] = {name: {} for name in wanted}
    shown = []
    for baseline in baselines(store, split, settings, out):
        shown.append(next(iter(baseline.sources)))
        for name, one in wanted.items():
            found[name] |= scores(store, split, config, baseline, one)
    if settings.run:
        shown.append("the run")
        for name, one in wanted.items():
            found[name]["the run"] = evaluation.evaluate(settings.run, one, store_uri=store.uri).score
    for by_answer in found.values():
        show(by_answer, shown, out)
    if settings.json is not None:
        settings.json.write_text(json.dumps({name: {answer: one.to_json() for answer, one in by_answer.items()}
                                             for name, by_answer in found.items()}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
