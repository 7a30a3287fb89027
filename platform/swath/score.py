"""The score: IoU over all labelled pixels of a split's cells, at full resolution, from the blended predictor.

The same for every patch size, stride, scale and model, each pixel counted once. `whole` covers a split; `sample` draws
a fixed, stratified part of it, cheap enough to be scored at every report.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from patchstore import CELL, Store
from swath import metrics, patches, predict
from swath.config import Config
from swath.errors import ConfigError
from swath.predict import Forward, StoreReader
from swath.split import Split, SplitName, class_pixels

BLOCK = 256
"""Side of a block of the sample in pixels: large enough that few of a window's pixels are predicted in vain."""
_COST = 16
"""Network pixels for each scored pixel of a lone block, at the most for sizes up to 512 and an overlap of a half
(counted: 9 at size 256, 16 at 512)."""
_SHARE = 0.1
"""Most that scoring the sample may cost, of the training between two reports."""
_TRAINING = 3
"""Cost of a training step over that of a forward pass: the backward pass is twice as dear."""


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


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What was scored, and how. Scores of different protocols are not comparable."""

    split: SplitName
    cells: str
    """Digest of every scene's cell labels."""
    store: str
    """Fingerprint of the store."""
    classes: tuple[str, ...]
    """The classes that the mean is over: those with labelled pixels in the split."""
    ignored: tuple[int, ...]
    overlap: float
    symmetries: int = 1
    """Symmetries of the square that predictions are averaged over."""

    def digest(self) -> str:
        """Twelve hexadecimal digits that stand for the protocol."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    def to_json(self) -> str:
        """The protocol as JSON, to see what differs between two."""
        return json.dumps(asdict(self), indent=2)


@dataclass(frozen=True, kw_only=True, eq=False)
class Score:
    """The score of a split. K classes."""

    classes: tuple[str, ...]
    counts_KK: NDArray[np.int64]
    """Row: label, column: prediction."""
    present_K: NDArray[np.bool_]
    """Classes with labelled pixels in the whole split."""
    ignored: int
    """Pixels of the split without a label."""
    protocol: Protocol
    without: tuple[str, ...] = ()
    """Classes that a second mean leaves out."""

    @property
    def pixels(self) -> int:
        """Pixels that were scored."""
        return int(self.counts_KK.sum())

    @property
    def miou(self) -> float:
        """Mean IoU over the classes that the split's labels have."""
        return metrics.mean_iou(self.counts_KK, self.present_K)

    @property
    def iou(self) -> dict[str, float | None]:
        """IoU by class; none for a class without labels in the split."""
        values = metrics.iou(self.counts_KK)
        return {name: float(v) if p else None for name, v, p in zip(self.classes, values, self.present_K, strict=True)}

    @property
    def unexpected(self) -> list[str]:
        """Classes that are predicted though the split's labels never have them."""
        predicted_K = self.counts_KK.sum(axis=0) > 0
        return [name for name, p, q in zip(self.classes, predicted_K, self.present_K, strict=True) if p and not q]

    @property
    def means(self) -> dict[str, float]:
        """The mean IoU; the mean without some classes (whose pixels still count in the others' unions); and, to know
        what a score is worth, the mean of a map that has the commonest class everywhere."""
        every = {"mean": self.miou}
        if self.without:
            keep_K = np.array([name not in self.without for name in self.classes])
            every[f"mean without {', '.join(self.without)}"] = metrics.mean_iou(self.counts_KK, self.present_K & keep_K)
        labels_K = self.counts_KK.sum(axis=1)
        commonest = int(labels_K.argmax())
        constant_KK = np.zeros_like(self.counts_KK)
        constant_KK[:, commonest] = labels_K
        every[f"mean of {self.classes[commonest]} everywhere"] = metrics.mean_iou(constant_KK, self.present_K)
        return every


def protocol(store: Store, split: Split, name: SplitName, config: Config) -> Protocol:
    """The protocol under which a configuration's runs are scored."""
    present_K = class_pixels(store, split, name) > 0
    return Protocol(split=name, cells=split.digest(), store=store.fingerprint, ignored=(store.ignore,),
                    classes=tuple(c.name for c, p in zip(store.classes, present_K, strict=True) if p),
                    overlap=config.score.overlap)


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


def sample(store: Store, split: Split, name: SplitName, config: Config) -> Sample:
    """A fixed sample of a split's blocks: the same for every model, patch size and seed.

    Blocks are drawn within strata in proportion to the strata's sizes, one at least from each.
    """
    total_K = class_pixels(store, split, name)
    blocks = [block for scene, cells in split.scenes(name) for block in _blocks(store, scene, cells, total_K)]
    wanted = sample_megapixels(store, split, config) * 1e6 / BLOCK**2
    generator = np.random.default_rng(0)  # not the run's seed: every trial is to see the same part
    by_stratum: dict[int, list[Region]] = {}
    for block in blocks:
        by_stratum.setdefault(block.stratum, []).append(block)
    regions: list[Region] = []
    for _, members in sorted(by_stratum.items()):
        count = min(len(members), max(1, round(wanted * len(members) / len(blocks))))
        regions += [members[i] for i in sorted(generator.choice(len(members), count, replace=False))]
    return Sample(regions=regions, population_h={h: len(members) for h, members in by_stratum.items()})


def report_megapixels(store: Store, split: Split, config: Config) -> float:
    """Megapixels between two reports: as configured, or the labelled pixels of the train split."""
    return config.train.report_every or float(class_pixels(store, split, "train").sum()) / 1e6


def sample_megapixels(store: Store, split: Split, config: Config) -> float:
    """Size of the validation sample: as configured, or so large that it costs a tenth of the training."""
    return config.score.part or _SHARE * _TRAINING / _COST * report_megapixels(store, split, config)


def _blocks(store: Store, scene: str, cells: NDArray[np.bool_], total_K: NDArray[np.int64]) -> Iterator[Region]:
    """The blocks of a scene that have labelled pixels in the given cells."""
    each = BLOCK // CELL
    counts = store.counts(scene) * cells[..., None]
    padding = [(0, -n % each) for n in counts.shape[:2]]
    padded = np.pad(counts, [*padding, (0, 0)])
    block_counts = padded.reshape(padded.shape[0] // each, each, padded.shape[1] // each, each, -1).sum(axis=(1, 3))
    height, width = store.scenes[scene].shape
    for i, j in np.argwhere(block_counts.sum(axis=2) > 0):
        present = np.flatnonzero(block_counts[i, j])
        yield Region(scene=scene, rows=(int(i) * BLOCK, min((int(i) + 1) * BLOCK, height)),
                     cols=(int(j) * BLOCK, min((int(j) + 1) * BLOCK, width)),
                     stratum=int(present[np.argmin(total_K[present])]))


def predict_region(store: Store, region: Region, forward: Forward, config: Config, device: torch.device
                   ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Predicted classes of a region, top to bottom: (row in the scene, uint8 (rows, cols)).

    Raises DataError for a scene in which `patches.pixel_m` has no meaning.
    """
    scales = patches.factors(config.patches, store.scenes[region.scene].pixel_m2,
                             f"{store.uri}: scene {region.scene}")
    part = predict.part(StoreReader(store, region.scene), size=config.patches.size, scales=scales,
                        overlap=config.score.overlap, region=(region.rows, region.cols))
    return predict.classes_of(predict.blend(part, forward, classes=len(store.classes),
                                            batch=predict.batch_size(config.patches.size), device=device))


def count(store: Store, split: Split, name: SplitName, regions: Sequence[Region], forward: Forward, config: Config,
          device: torch.device, *, rank: int = 0, world_size: int = 1) -> NDArray[np.int64]:
    """Confusion counts of this rank's share of the regions: int64 (regions, K, K), zero for the others."""
    counts_RKK = np.zeros((len(regions), len(store.classes), len(store.classes)), np.int64)
    for index in _shares([region.pixels for region in regions], world_size)[rank]:
        region = regions[index]
        cells = split.cells(region.scene, name)
        for row, classes_hW in predict_region(store, region, forward, config, device):
            span = (row, row + len(classes_hW))
            labels = labels_of(store, region.scene, cells, span, region.cols)
            counts_RKK[index] += metrics.confusion(labels, classes_hW, len(store.classes), store.ignore)
    return counts_RKK


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


def evaluate(store: Store, split: Split, name: SplitName, forward: Forward, config: Config, device: torch.device
             ) -> Score:
    """Score a whole split in this process."""
    counts_RKK = count(store, split, name, whole(store, split, name), forward, config, device)
    return score_of(store, split, name, config, counts_RKK.sum(axis=0))


def score_of(store: Store, split: Split, name: SplitName, config: Config, counts_KK: NDArray[np.int64]) -> Score:
    """The score that a whole split's counts amount to."""
    return Score(classes=tuple(c.name for c in store.classes), counts_KK=counts_KK,
                 present_K=class_pixels(store, split, name) > 0, ignored=ignored_pixels(store, split, name),
                 protocol=protocol(store, split, name, config), without=config.score.without)
