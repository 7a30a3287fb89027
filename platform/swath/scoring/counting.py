"""The score: IoU over all labelled pixels of a split's cells, at full resolution, from the blended predictor.

The same for every patch size, stride, scale and model, each pixel counted once. `whole` covers a split; `sample` draws
a fixed, stratified part of it, cheap enough to be scored at every report.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from operator import itemgetter

import numpy as np
import torch
from numpy.typing import NDArray

from patchstore import CELL, Store
from swath.config import Config
from swath.errors import ConfigError
from swath.models.inference import Forward
from swath.prediction import streaming
from swath.prediction.readers import StoreReader
from swath.scoring import metrics
from swath.scoring.boundary import BoundaryCounts
from swath.scoring.metrics import Counts, Uncovered
from swath.scoring.protocol import Protocol
from swath.scoring.result import Score
from swath.splits.division import Split, SplitName, class_pixels

SAMPLE_BLOCK_PX = 256
"""Side of a block of the sample in pixels: large enough that few of a window's pixels are predicted in vain."""
_COST = 16
"""Network pixels for each scored pixel of a lone block, at the most for sizes up to 512 and an overlap of a half
(counted: 9 at size 256, 16 at 512). Concentric patches have as many at each scale; the sample is the same for all."""
_SHARE = 0.1
"""Most that scoring the sample may cost, of the training between two reports."""
_TRAINING = 3
"""Cost of a training step over that of a forward pass: the backward pass is twice as dear."""
NO_PREDICTION = metrics.NO_PREDICTION
"""What a source gives where it predicts nothing."""


@dataclass(frozen=True, kw_only=True)
class Region:
    """A rectangle of a scene to be scored, in full-resolution pixels."""

    scene: str
    rows: tuple[int, int]
    cols: tuple[int, int]
    stratum: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.rows[1] - self.rows[0], self.cols[1] - self.cols[0]

    @property
    def pixels(self) -> int:
        """Area."""
        return self.shape[0] * self.shape[1]


Predictions = Callable[[Sequence[Region]], Iterator[tuple[int, int, NDArray[np.uint8]]]]
"""Who predicts. Given regions it yields (index of the region in the sequence, first row in the scene, classes_hW over
the region's columns): regions in order, each from top to bottom without gaps, each finished before the next."""
OnCounted = Callable[[Region, int, NDArray[np.uint8], NDArray[np.uint8]], None]
"""Whoever wants to see what is counted: a region, the first row in the scene, labels_hW and predictions_hW."""


def protocol(store: Store, split: Split, name: SplitName, config: Config, uncovered: Uncovered | None = None
             ) -> Protocol:
    """The protocol under which a configuration's runs are scored; with `uncovered`, maps that were made elsewhere."""
    present_K = class_pixels(store, split, name) > 0
    foreign = uncovered is not None
    cells = sha256(b"".join(f"{scene} {cells.shape}".encode() + cells.tobytes()
                            for scene, cells in split.scenes(name))).hexdigest()[:12]
    return Protocol(split=name, cells=cells, store=store.fingerprint, ignored=(store.ignore,),
                    classes=tuple(c.name for c, p in zip(store.classes, present_K, strict=True) if p),
                    boundary_px=config.score.boundary_px, overlap=None if foreign else config.score.overlap,
                    symmetries=None if foreign else config.score.symmetries, uncovered=uncovered)


def check_without(store: Store, config: Config) -> None:
    """Raise ConfigError when `score.without` names a class that does not exist, or leaves none."""
    names = [info.name for info in store.classes]
    unknown = [name for name in config.score.without if name not in names]
    if unknown or set(names) <= set(config.score.without):
        raise ConfigError(f"score.without must be some of the classes {', '.join(names)}, got "
                          f"{', '.join(config.score.without)}")


def whole(store: Store, split: Split, name: SplitName) -> list[Region]:
    """Regions that cover a split: around the cells of each of its scenes."""
    regions = []
    for scene, cells in split.scenes(name):
        rows, cols = np.flatnonzero(cells.any(axis=1)), np.flatnonzero(cells.any(axis=0))
        height, width = store.scenes[scene].shape
        regions.append(Region(scene=scene, rows=(int(rows[0]) * CELL, min((int(rows[-1]) + 1) * CELL, height)),
                              cols=(int(cols[0]) * CELL, min((int(cols[-1]) + 1) * CELL, width))))
    return regions


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A stratified sample of blocks of a split."""

    regions: list[Region]
    population_h: dict[int, int]
    """Blocks of each stratum in the whole split. The stratum of a block is the rarest class that it has."""


def sample(store: Store, split: Split, name: SplitName, config: Config, *, seed: int = 0) -> Sample:
    """A fixed sample of a split's blocks: the same for every model and patch size.

    Blocks are drawn within strata in proportion to the strata's sizes, one at least from each. `seed` is not the run's:
    every trial is to see the same part.
    """
    total_K = class_pixels(store, split, name)
    blocks = [block for scene, cells in split.scenes(name) for block in _blocks(store, scene, cells, total_K)]
    wanted = sample_megapixels(store, split, config) * 1e6 / SAMPLE_BLOCK_PX**2
    generator = np.random.default_rng(seed)
    by_stratum: dict[int, list[Region]] = {}
    for block in blocks:
        by_stratum.setdefault(block.stratum, []).append(block)
    regions: list[Region] = []
    for _, members in sorted(by_stratum.items()):
        count = min(len(members), max(1, round(wanted * len(members) / len(blocks))))
        regions += [members[i] for i in sorted(generator.choice(len(members), count, replace=False))]
    regions.sort(key=lambda region: (region.scene, region.rows, region.cols))  # a scene's are predicted together
    return Sample(regions=regions, population_h={h: len(members) for h, members in by_stratum.items()})


def report_megapixels(store: Store, split: Split, config: Config) -> float:
    """Megapixels between two reports: as configured, or the labelled pixels of the train split."""
    return config.train.report_every or float(class_pixels(store, split, "train").sum()) / 1e6


def sample_megapixels(store: Store, split: Split, config: Config) -> float:
    """Size of the validation sample: as configured, or so large that it costs a tenth of the training."""
    return config.score.part or _SHARE * _TRAINING / _COST * report_megapixels(store, split, config)


def _blocks(store: Store, scene: str, cells: NDArray[np.bool_], total_K: NDArray[np.int64]) -> Iterator[Region]:
    """The blocks of a scene that have labelled pixels in the given cells."""
    each = SAMPLE_BLOCK_PX // CELL
    counts = store.counts(scene) * cells[..., None]
    padding = [(0, -n % each) for n in counts.shape[:2]]
    padded = np.pad(counts, [*padding, (0, 0)])
    block_counts = padded.reshape(padded.shape[0] // each, each, padded.shape[1] // each, each, -1).sum(axis=(1, 3))
    height, width = store.scenes[scene].shape
    for i, j in np.argwhere(block_counts.sum(axis=2) > 0):
        present = np.flatnonzero(block_counts[i, j])
        yield Region(scene=scene, rows=(int(i) * SAMPLE_BLOCK_PX, min((int(i) + 1) * SAMPLE_BLOCK_PX, height)),
                     cols=(int(j) * SAMPLE_BLOCK_PX, min((int(j) + 1) * SAMPLE_BLOCK_PX, width)),
                     stratum=int(present[np.argmin(total_K[present])]))


def network_source(store: Store, forward: Forward, config: Config, device: torch.device) -> Predictions:
    """What a network predicts. Batches go on from one region to the next of the same scene, not into another scene.

    Its iterator raises DataError for a scene in which `patches.pixel_m` has no meaning, and what reading raises.
    """
    def source(regions: Sequence[Region]) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
        lots = ([streaming.part_of_scene(
                    StoreReader(store, scene), config.patches, pixel_m2=store.scenes[scene].pixel_m2,
                    name=f"{store.uri}: scene {scene}", overlap=config.score.overlap,
                    region=(region.rows, region.cols), tag=index) for index, region in group]
                for scene, group in groupby(enumerate(regions), key=lambda pair: pair[1].scene))
        batch = streaming.batch_size(config.patches.size, config.patches.scales_per_sample)
        with closing(streaming.stream(lots, forward, classes=len(store.classes), device=device, batch=batch)) as rows:
            for part, row, scores_KhW in rows:
                yield part.tag, row, streaming.classes_of_scores(row, scores_KhW)

    return source


def count(store: Store, split: Split, name: SplitName, regions: Sequence[Region], source: Predictions, *,
          boundary_px: int = 0, uncovered: Uncovered = "wrong", rank: int = 0, world_size: int = 1,
          watch: OnCounted | None = None) -> NDArray[np.int64]:
    """Counts of this rank's share of the regions, as `metrics.Counts` has them: int64 (regions, K, K + 4), zero for the
    others' regions.

    Boundary pixels are counted within `boundary_px` of a contour; 0: not at all. `uncovered` matters for these alone:
    left out, pixels that the source does not cover make no contour of the labels. Raises ValueError for a source that
    does not keep to its word.
    """
    counts_RKQ = np.zeros((len(regions), len(store.classes), len(store.classes) + metrics.EXTRA), np.int64)
    mine = _shares([region.pixels for region in regions], world_size)[rank]
    counted = []
    for index, pieces in groupby(source([regions[i] for i in mine]), key=itemgetter(0)):
        region = regions[mine[index]]
        labelled = _labelled(store, region, split.cells(region.scene, name), ((row, found) for _, row, found in pieces))
        counts_RKQ[mine[index]] = _count_region(store, region, labelled, boundary_px, uncovered, watch)
        counted.append(index)
    if counted != list(range(len(mine))):
        raise ValueError(f"a source gave the regions {counted} of {len(mine)}: each has to come once, in order")
    return counts_RKQ


def _labelled(store: Store, region: Region, cells: NDArray[np.bool_], pieces: Iterable[tuple[int, NDArray[np.uint8]]]
              ) -> Iterator[tuple[int, NDArray[np.uint8], NDArray[np.uint8]]]:
    """Pieces of a region with their labels: first row in the scene, labels_hW, predictions_hW. Raises ValueError where
    they do not follow each other from the region's first row to its last."""
    expected = region.rows[0]
    for row, predictions_hW in pieces:
        if row != expected or predictions_hW.shape[1] != region.shape[1]:
            raise ValueError(f"{region}: a source gave {predictions_hW.shape[1]} columns from row {row} on, row "
                             f"{expected} was to come")
        expected += len(predictions_hW)
        yield row, labels_of(store, region.scene, cells, (row, expected), region.cols), predictions_hW
    if expected != region.rows[1]:
        raise ValueError(f"{region}: a source ended at row {expected}")


def _count_region(store: Store, region: Region,
                  labelled: Iterable[tuple[int, NDArray[np.uint8], NDArray[np.uint8]]], boundary_px: int,
                  uncovered: Uncovered, watch: OnCounted | None) -> NDArray[np.int64]:
    """The counts of a region: int64 (K, K + 4)."""
    classes = len(store.classes)
    counts_KQ = np.zeros((classes, classes + metrics.EXTRA), np.int64)
    contours = BoundaryCounts(classes=classes, ignore=store.ignore, distance=boundary_px, width=region.shape[1])
    for row, labels_hW, predictions_hW in labelled:
        counts_KQ[:, :classes + 1] += metrics.tally(labels_hW, predictions_hW, classes, store.ignore)
        if uncovered == "out":
            labels_hW = np.where(predictions_hW == NO_PREDICTION, np.uint8(store.ignore), labels_hW)
        if boundary_px:
            contours.add(labels_hW, predictions_hW, last=row + len(labels_hW) == region.rows[1])
        if watch:
            watch(region, row, labels_hW, predictions_hW)
    counts_KQ[:, classes + 1:] = contours.counts_K3
    return counts_KQ


def labels_of(store: Store, scene: str, cells: NDArray[np.bool_], rows: tuple[int, int], cols: tuple[int, int]
              ) -> NDArray[np.uint8]:
    """Labels of a piece of a scene, those outside the given cells ignored: uint8 (rows, cols)."""
    labels = store.region(scene, "mask", rows, cols)
    inside = cells[np.ix_(np.arange(*rows) // CELL, np.arange(*cols) // CELL)]
    return np.where(inside, labels, np.uint8(store.ignore))


def ignored_pixels(store: Store, split: Split, name: SplitName) -> int:
    """Pixels of a split's cells that carry no label."""
    total = 0
    for scene, cells in split.scenes(name):
        height, width = (np.diff(np.minimum(np.arange(n + 1) * CELL, length))
                         for n, length in zip(cells.shape, store.scenes[scene].shape, strict=True))
        total += int(np.outer(height, width)[cells].sum()) - int(store.counts(scene)[cells].sum())
    return total


def _shares(sizes: Sequence[int], world_size: int) -> list[list[int]]:
    """Indices for each rank: the largest first, each to the rank that has least so far."""
    shares: list[list[int]] = [[] for _ in range(world_size)]
    load = [0] * world_size
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        rank = load.index(min(load))
        shares[rank].append(index)
        load[rank] += sizes[index]
    return shares


def evaluate(store: Store, split: Split, name: SplitName, source: Predictions, config: Config, *,
             uncovered: Uncovered | None = None, watch: OnCounted | None = None) -> Score:
    """Score a whole split in this process. `uncovered` is given for maps that were made elsewhere."""
    counts_RKQ = count(store, split, name, whole(store, split, name), source, boundary_px=config.score.boundary_px,
                       uncovered=uncovered or "wrong", watch=watch)
    return score_of(store, split, name, config, counts_RKQ, uncovered=uncovered)


def score_of(store: Store, split: Split, name: SplitName, config: Config, counts_RKQ: NDArray[np.int64], *,
             uncovered: Uncovered | None = None) -> Score:
    """The score that the counts of a whole split's regions amount to."""
    scenes = [store.scenes[scene] for scene, _ in split.scenes(name)]
    return Score(classes=tuple(c.name for c in store.classes), scenes=tuple(scene.name for scene in scenes),
                 groups=tuple(scene.group for scene in scenes), pixel_m2=tuple(scene.pixel_m2 for scene in scenes),
                 counts=Counts(counts_RKQ), present_K=class_pixels(store, split, name) > 0,
                 ignored=ignored_pixels(store, split, name),
                 protocol=protocol(store, split, name, config, uncovered), without=config.score.without)
