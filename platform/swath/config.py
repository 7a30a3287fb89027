"""The configuration of an experiment: frozen dataclasses, validated at construction.

A recipe is a function that returns a `Config`; the command line overrides its fields (`--patches.size 512`); a file
holds one as JSON. A configuration is pure data: the same one gives the same run wherever it is read.
"""

import hashlib
import json
import math
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from swath.errors import ConfigError

Combine = Literal["single", "mixture"]
LossName = Literal["cross_entropy", "focal", "dice", "jaccard"]

_CLASS = re.compile(r"^[\w .+-]+=#[0-9A-Fa-f]{6}$")
_MERGE = re.compile(r"^([^#=]+(#[0-9A-Fa-f]{6})?)?=[^=]+$")
_IGNORED = {"index": (re.compile("-?[0-9]+"), "whole numbers"),
            "colour": (re.compile("#[0-9A-Fa-f]{6}"), "colours #RRGGBB"),
            "polygons": (re.compile("(?s).+"), "texts that are not empty")}
"""How a mask's value is written, by the kind of masks: what an ingest's message says to declare can be declared."""


LAYOUT = ("images", "masks", "stacked", "image_suffix", "mask_suffix", "group", "area")
"""Fields of the data that say how the adapter `folder` finds files; no other adapter takes them."""


def _check(holds: bool, name: str, rule: str, value: object) -> None:
    if not holds:
        raise ConfigError(f"{name} must be {rule}, got {value!r}")


class Section:
    """What all parts have in common: a field that does not exist is an error in JSON too."""

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True)
class DataConfig(Section):
    """Where scenes come from, and where the store lies."""

    store: str = ""
    """The store's folder or URI, for example runs/dubai.zarr."""
    source: str = ""
    """Folder of images and masks, for an ingest."""
    adapter: Literal["folder", "landcover_ai", "deepglobe", "tiles", "icg_drone", "obx"] = "folder"
    """How the source lies on disk (patchstore.adapters says it in full): `folder` is any images and masks, found by the
    patterns below; the others are the sets' own layouts, which need none of them."""
    images: str = "images/*"
    """Pattern of the images below the source, ** for any folders (adapter `folder`, as all down to `area`)."""
    masks: str = "masks/*"
    """Pattern of the masks; a mask has its image's name, but for ending and suffix. Empty: images only. One vector file
    alone labels all scenes."""
    stacked: tuple[str, ...] = ()
    """Patterns of further files of each scene (near infrared, height), whose bands follow its image's."""
    image_suffix: str = ""
    """Regular expression, removed from the end of the names of images and stacked files before they are paired."""
    mask_suffix: str = ""
    """The same for the names of masks and areas, for example _mask."""
    group: str = ""
    """Regular expression whose first group, searched in a scene's name, is its group; empty: each scene is a group of
    its own. Scenes of one group without a CRS and a place in the group (its origin, which adapters of cut tiles give)
    are taken to show the same ground."""
    area: str = ""
    """Pattern of vector files of the area of interest, outside which labels are ignored: one for all scenes, or one for
    each; empty: everywhere."""
    crs: str = ""
    """CRS of images that have a transform but name none (a world file), for example EPSG:32634."""
    align: bool = False
    """Warp masks and stacked files that lie on another grid to their image's, instead of refusing them."""
    classes: tuple[str, ...] = ()
    """The classes in the order of their index, each as name=#RRGGBB; empty: the adapter's own."""
    mask: Literal["index", "colour", "polygons"] = "index"
    """What a mask holds: class indices, the classes' colours (a palette counts by its colours), or polygons."""
    ignored: tuple[str, ...] = ()
    """Mask values that are no class and are known: colours (#RRGGBB), indices, or the polygons' own values, as `mask`
    says. Counted, reported, never scored."""
    stray: Literal["error", "ignore"] = "error"
    """Mask values that are neither a class nor declared: an error, or ignored and counted (lossy masks)."""
    attribute: str = ""
    """Field of the polygons that holds the name or the index of their class (mask `polygons`)."""
    background: str = ""
    """Class of ground that no polygon covers (mask `polygons`); empty: ignored."""
    merge: tuple[str, ...] = ()
    """Classes merged or renamed when the store is read, each as new=old+old or new#RRGGBB=old+old; =old ignores one.
    Those that are not named stay. An ingest does not look at it."""
    chunk: int = 256
    """Side of a chunk, what is compressed at once, in pixels."""
    shard: int = 2048
    """Side of a shard, one file, in pixels; a multiple of the chunk."""
    zstd: int = 1
    """Compression level (1: fastest to read)."""

    def __post_init__(self) -> None:
        for text in self.classes:
            _check(bool(_CLASS.match(text)), "data.classes", "written name=#RRGGBB", text)
        names = [text.split("=")[0] for text in self.classes]
        _check(len(set(names)) == len(names), "data.classes", "of different names", self.classes)
        _check(len(names) <= 255, "data.classes", "at most 255", len(names))
        form, rule = _IGNORED[self.mask]
        for text in self.ignored:
            _check(bool(form.fullmatch(text)), "data.ignored", f"{rule} for data.mask {self.mask}", text)
        for text in self.merge:
            _check(bool(_MERGE.match(text)), "data.merge", "written new=old+old, new#RRGGBB=old+old or =old", text)
        given = [f"data.{name}" for name in LAYOUT if getattr(self, name) != getattr(DataConfig, name)]
        _check(self.adapter == "folder" or not given, "data.adapter", f"folder where {' and '.join(given)} is given",
               self.adapter)
        for name in ("attribute", "background"):
            _check(self.mask == "polygons" or not getattr(self, name), "data.mask",
                   f"polygons where data.{name} is given", self.mask)
        _check(not self.background or not names or self.background in names, "data.background", "one of data.classes",
               self.background)
        _check(self.chunk >= 64 and self.chunk % 64 == 0, "data.chunk", "a multiple of 64", self.chunk)
        _check(self.shard >= self.chunk and self.shard % self.chunk == 0, "data.shard", "a multiple of data.chunk",
               self.shard)
        _check(1 <= self.zstd <= 19, "data.zstd", "from 1 to 19", self.zstd)


@dataclass(frozen=True, kw_only=True)
class SplitConfig(Section):
    """Which ground is for training, validation and test."""

    by: Literal["group", "scene", "block", "tile"] = "group"
    """What is never divided. `group`: scenes that show adjoining or the same ground. `scene`: for published lists that
    divide groups. `block`: squares of ground of `block` pixels, the same for all scenes that show them; with the
    patches' window as block and no margin it is the random draw of patches that is common, and leaks. `tile`: the
    squares SCENE_K of a scene, for published lists of tiles. The overlap certificate says what the splits share."""
    train: tuple[str, ...] = ()
    """Groups (scenes, tiles) for training; what is then named nowhere is in no split. Empty: all that is not for
    validation or test. Here as in val and test, @FILE on a command line stands for the names in a file, one a line."""
    val: tuple[str, ...] = ()
    """Groups (scenes, tiles) for validation; empty: drawn by val_fraction."""
    test: tuple[str, ...] = ()
    """Groups (scenes, tiles) for test; empty: drawn by test_fraction."""
    val_fraction: float = 0.15
    """Share of the labelled pixels for validation, where val is empty and there are no folds."""
    test_fraction: float = 0.15
    """Share of the labelled pixels for test, where test is empty; 0: no test split."""
    balance: bool = True
    """Choose what is drawn so that each split's class fractions come near the whole's; else until its share is
    reached."""
    block: int = 1024
    """Side of a block or tile in pixels (blocks: of the coarsest scene that shows the ground); a multiple of 64."""
    margin: int = 0
    """Ground between blocks of different splits that is in none of them, in pixels."""
    folds: int = 0
    """Grouped cross-validation: what is not for test is cut into so many equal parts, one of them val; 0: none."""
    fold: int = 0
    """Which of the folds is val, from 0."""
    seed: int = 0
    """Seed of the draw."""

    def __post_init__(self) -> None:
        _check(self.seed >= 0, "split.seed", "0 or more", self.seed)
        times = Counter([*self.train, *self.val, *self.test])
        twice = sorted(name for name, count in times.items() if count > 1)
        _check(not twice, "split.train, split.val and split.test", "of names that stand once", twice)
        _check(0 < self.val_fraction < 1, "split.val_fraction", "between 0 and 1", self.val_fraction)
        _check(0 <= self.test_fraction < 1, "split.test_fraction", "from 0 to below 1", self.test_fraction)
        _check(self.val_fraction + self.test_fraction < 1, "split.val_fraction + split.test_fraction", "below 1",
               self.val_fraction + self.test_fraction)
        _check(self.block >= 64 and self.block % 64 == 0, "split.block", "a multiple of 64", self.block)
        _check(self.margin >= 0, "split.margin", "0 or more", self.margin)
        _check(self.margin == 0 or self.by == "block", "split.by", "block where split.margin is given", self.by)
        _check(self.folds == 0 or self.folds >= 2, "split.folds", "0, or 2 or more", self.folds)
        _check(0 <= self.fold < max(1, self.folds), "split.fold", f"from 0 to below split.folds ({self.folds})",
               self.fold)
        self._check_names()

    def _check_names(self) -> None:
        named = [f"split.{name}" for name in ("train", "val", "test") if getattr(self, name)]
        complete = bool(self.val and (self.test or self.test_fraction == 0))
        _check(not self.train or complete, "split.val and split.test", "given where split.train is",
               (self.val, self.test))
        _check(self.by != "tile" or bool(self.train), "split.train", "given where split.by is tile", self.train)
        _check(self.by != "block" or not named, "split.by",
               f"group, scene or tile where {' and '.join(named)} is given", self.by)
        _check(not self.folds or not (self.train or self.val), "split.folds",
               "0 where split.train or split.val is given", self.folds)


@dataclass(frozen=True, kw_only=True)
class PatchesConfig(Section):
    """What the network sees: patches of size x size pixels, each pixel spanning `scale` scene pixels."""

    size: int = 256
    """Side of a patch in patch pixels."""
    scales: tuple[float, ...] = (1.0,)
    """Scene pixels that one patch pixel spans, or with pixel_m so many times its metres; below 1 pixels are enlarged.
    Several with combine `mixture`."""
    combine: Combine = "single"
    """How scales are combined: `single` uses one; `mixture` trains on patches of all, each sample of one scale, and
    predicts at each and averages."""
    pixel_m: float = 0.0
    """Metres that a patch pixel spans at scale 1, whatever a scene's own pixels span; 0: as the scene's own."""
    stride: int | None = None
    """Distance between neighbouring patches in patch pixels; None: as the size. The last ones are flush with the edge
    of the split's ground."""
    foreign: Literal["exclude", "ignore"] = "exclude"
    """Patches whose window reaches over ground of no or another split: left out, or kept with the labels there
    ignored (their pixels are seen all the same: the overlap certificate counts them)."""
    min_foreground: float = 0.0
    """Relevance: least share of a training patch's labelled pixels that is not of a background class; above 0 it needs
    `background`."""
    background: tuple[str, ...] = ()
    """Classes that do not count as foreground for min_foreground."""
    min_not_lowest: float = 0.0
    """Relevance: least share of a training patch's labelled pixels that is not of the lowest class index present in it.
    The tutorials' rule, there 0.05: it drops patches of one class, whatever class that is."""
    max_ignored: float = 1.0
    """Relevance: largest share of a training patch's pixels that carry no label, padding included."""
    balance: str = "none"
    """How often training patches are drawn: `none`, each as often; `class`, a class is drawn (each of those in the
    patches as often), then a patch in proportion to its pixels of it; `sqrt`, the same with classes as often as the
    square root of their pixels; class names joined by +: half of the draws so for these, the rest as `none`."""

    def __post_init__(self) -> None:
        _check(8 <= self.size <= 8192, "patches.size", "from 8 to 8192", self.size)
        _check(len(self.scales) > 0 and all(1 / 8 <= s <= 64 for s in self.scales), "patches.scales",
               "from 1/8 to 64 each", self.scales)
        _check(len(set(self.scales)) == len(self.scales), "patches.scales", "different from each other", self.scales)
        _check(self.combine != "single" or len(self.scales) == 1, "patches.scales", "one for patches.combine single",
               self.scales)
        _check(0 <= self.pixel_m < math.inf, "patches.pixel_m", "0 or more", self.pixel_m)
        _check(self.stride is None or self.stride >= 1, "patches.stride", "1 or more, or None for that of the size",
               self.stride)
        for name in ("min_foreground", "min_not_lowest", "max_ignored"):
            _check(0 <= getattr(self, name) <= 1, f"patches.{name}", "from 0 to 1", getattr(self, name))
        _check(not self.min_foreground or bool(self.background), "patches.background",
               "given where patches.min_foreground is", self.background)
        _check(bool(self.balance), "patches.balance", "none, class, sqrt, or class names joined by +", self.balance)

    @property
    def step(self) -> int:
        """Distance between neighbouring patches in patch pixels."""
        return self.size if self.stride is None else self.stride


@dataclass(frozen=True, kw_only=True)
class AugmentConfig(Section):
    """How training patches are varied."""

    pipeline: Literal["none", "flips", "aerial", "landcover_ai", "drone"] = "aerial"
    """One of the named pipelines (swath.augment says what each does): patches as they are; the eight symmetries of the
    square, for any number and type of bands; a strong default for imagery from above; the one of LandCover.ai's users;
    the longest, for photographs from drones."""
    rgb: tuple[int, int, int] = (1, 2, 3)
    """The bands, counted from 1, that are red, green and blue: colour, blur and noise change these and no others. A
    grey band stands three times (1,1,1); hue and saturation are then left out."""

    def __post_init__(self) -> None:
        _check(min(self.rgb) >= 1 and len(set(self.rgb)) in (1, 3), "augment.rgb",
               "three different bands, counted from 1, or a grey one three times", self.rgb)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Section):
    """The network: an architecture of segmentation-models-pytorch over one of its encoders."""

    arch: str = "unet"
    """Architecture, as segmentation-models-pytorch names it: unet, fpn, deeplabv3plus, segformer, …"""
    encoder: str = "resnet18"
    """Encoder, as segmentation-models-pytorch names it; tu-NAME for one of timm's."""
    weights: str = "none"
    """Encoder weights: `imagenet`, a file (safetensors or a state dict), or `none`."""
    norm: Literal["batch", "group", "none"] = "batch"
    """Normalisation layers: `group` and `none` make the result independent of how a batch is cut."""

    def __post_init__(self) -> None:
        for name in ("arch", "encoder", "weights"):
            _check(bool(getattr(self, name)), f"model.{name}", "given", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class LossConfig(Section):
    """A weighted sum of losses over labelled pixels; a weight of 0 leaves one out."""

    cross_entropy: float = 1.0
    """Weight of the cross-entropy."""
    focal: float = 0.0
    """Weight of the focal loss."""
    dice: float = 0.0
    """Weight of the Dice loss (per sample, over the classes that its labels have)."""
    jaccard: float = 0.0
    """Weight of the Jaccard loss (per sample, over the classes that its labels have)."""
    gamma: float = 2.0
    """Focusing exponent of the focal loss."""
    class_weights: Literal["none", "inverse", "sqrt"] = "none"
    """Weight of a class in cross-entropy and focal, from its share of the train cells' labels: none, 1/share, or
    1/sqrt(share); scaled to a mean of 1 over labelled pixels."""

    def __post_init__(self) -> None:
        weights = self.terms
        _check(all(w >= 0 for w in (self.cross_entropy, self.focal, self.dice, self.jaccard)), "loss weights",
               "0 or more", weights)
        _check(len(weights) > 0, "loss weights", "above 0 for at least one loss", weights)
        _check(self.gamma >= 0, "loss.gamma", "0 or more", self.gamma)

    @property
    def terms(self) -> dict[LossName, float]:
        """The losses in use, with their weights."""
        every: dict[LossName, float] = {"cross_entropy": self.cross_entropy, "focal": self.focal, "dice": self.dice,
                                        "jaccard": self.jaccard}
        return {name: weight for name, weight in every.items() if weight > 0}


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Section):
    """The run's length, its optimiser and what is kept of it. Lengths are counted in megapixels seen."""

    epochs: float = 10.0
    """Length of the run in passes over the plan's patches; used where megapixels is 0."""
    megapixels: float = 0.0
    """Length of the run in megapixels seen; 0: as epochs say."""
    batch: int = 16
    """Patches in one optimiser step, over all workers."""
    micro_batch: int = 16
    """Most patches that one worker puts through the network at once; the rest of its share is accumulated."""
    optimiser: Literal["adamw", "adam", "sgd"] = "adamw"
    """Optimiser (sgd: with a momentum of 0.9)."""
    lr: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 1e-2
    """Weight decay."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Learning rate after the warm-up: constant, or a cosine to 0 at the end."""
    warmup: float = 0.05
    """Share of the run in which the learning rate rises linearly from 0."""
    ema: float = 0.0
    """Half-life, in megapixels seen, of an exponential moving average of the weights, which is then what is scored and
    kept for use; 0: none."""
    clip: float = 1.0
    """Largest norm of the gradient; 0: not clipped."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the network: auto is bf16 on a GPU that has it, else fp32."""
    report_every: float = 0.0
    """Megapixels between two reports (validation, checkpoint); 0: as many as the train split has labelled."""
    keep: int = 1
    """Checkpoints that are kept besides the newest: the best by val_part/miou."""
    seed: int = 0
    """Seed of the weights, the order and the augmentation."""

    def __post_init__(self) -> None:
        _check(0 < self.epochs < math.inf, "train.epochs", "above 0", self.epochs)
        _check(0 <= self.megapixels < math.inf, "train.megapixels", "0 or more", self.megapixels)
        _check(self.seed >= 0, "train.seed", "0 or more", self.seed)
        for name in ("batch", "micro_batch", "keep"):
            _check(getattr(self, name) >= 1, f"train.{name}", "1 or more", getattr(self, name))
        _check(0 < self.lr < math.inf, "train.lr", "above 0", self.lr)
        _check(self.weight_decay >= 0, "train.weight_decay", "0 or more", self.weight_decay)
        _check(0 <= self.warmup < 1, "train.warmup", "from 0 to below 1", self.warmup)
        _check(0 <= self.ema < math.inf, "train.ema", "0 or more", self.ema)
        _check(self.clip >= 0, "train.clip", "0 or more", self.clip)
        _check(self.report_every >= 0, "train.report_every", "0 or more", self.report_every)


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(Section):
    """How whole scenes are scored: the same for every patch size and model."""

    overlap: float = 0.5
    """Share of a window's side that it has in common with its neighbour."""
    part: float = 0.0
    """Megapixels of the validation sample that is scored at every report; 0: so many that, for patches of up to 512
    pixels, it costs about a tenth of the training between two reports, and a block for each class at least."""
    without: tuple[str, ...] = ()
    """Classes left out of a second mean, printed beside the first."""
    boundary_px: int = 3
    """Boundary IoU compares pixels within so many full-resolution pixels of a contour."""
    symmetries: Literal[1, 8] = 1
    """Symmetries of the square that predictions are averaged over: 8 costs eight times as much."""

    def __post_init__(self) -> None:
        _check(0 <= self.overlap < 1, "score.overlap", "from 0 to below 1", self.overlap)
        _check(1 <= self.boundary_px <= 255, "score.boundary_px", "from 1 to 255", self.boundary_px)
        _check(self.part >= 0, "score.part", "0 or more", self.part)


@dataclass(frozen=True, kw_only=True)
class ClusterConfig(Section):
    """The machines: what one run may use."""

    workers: int = 1
    """Processes that train together. By Ray Train, but for a single one without an address: that is this process."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of a worker; auto takes a GPU where there is one."""
    cpus: int = 0
    """CPU cores of a worker; 0: those of the machine or the cluster, divided among all workers that run at once."""
    address: str = ""
    """Ray cluster to use; empty: $RAY_ADDRESS, or a cluster of its own on this machine."""
    restarts: int = 2
    """How often a run goes on from its checkpoint after a worker was lost or failed."""
    readers: int = 2
    """Processes that read and augment patches ahead, for each worker; 0: none, all of it in the worker itself."""
    stuck_s: float = 300.0
    """Seconds without a batch after which a reader is taken to hang, and the run ends with an error (not with readers
    0: there reading has no limit)."""

    def __post_init__(self) -> None:
        _check(self.workers >= 1, "cluster.workers", "1 or more", self.workers)
        for name in ("cpus", "restarts", "readers"):
            _check(getattr(self, name) >= 0, f"cluster.{name}", "0 or more", getattr(self, name))
        _check(0 < self.stuck_s <= 1e6, "cluster.stuck_s", "above 0, to a million", self.stuck_s)


@dataclass(frozen=True, kw_only=True)
class SearchConfig(Section):
    """A search over configurations. Lengths are counted in megapixels seen."""

    trials: int = 20
    """Configurations to try."""
    space: tuple[str, ...] = (
        "model.arch=unet|fpn|deeplabv3plus", "model.encoder=resnet18|resnet50|efficientnet-b0|tu-mobilenetv3_large_100",
        "loss.focal=0..1", "loss.dice=0..1", "loss.jaccard=0..1", "loss.class_weights=none|sqrt",
        "patches.size=128|256|512", "patches.scales=1|2|4|1,2", "train.lr=3e-4..3e-3:log")
    """What varies, each as FIELD=A|B|C, FIELD=LOW..HIGH or FIELD=LOW..HIGH:log; a field of several values has them with
    commas (patches.scales=1|1,2). With another patch size the batch stays constant in pixels."""
    megapixels: float = 0.0
    """Length of a trial that is not stopped; 0: the run's own length."""
    grace: float = 0.0
    """Length that every trial is given before it may be stopped; 0: a ninth of the longest."""
    reduction: float = 3.0
    """At grace, and at every length so many times the last, the best one in so many goes on."""
    concurrent: int = 0
    """Trials at once, at most; 0: as many as there are GPUs for, or without GPUs as many as there are cores for, but
    no more than 4."""
    seed: int = 0
    """Seed of the searcher."""

    def __post_init__(self) -> None:
        _check(self.trials >= 1, "search.trials", "1 or more", self.trials)
        for name in ("megapixels", "grace"):
            _check(0 <= getattr(self, name) < math.inf, f"search.{name}", "0 or more", getattr(self, name))
        _check(1 < self.reduction < math.inf, "search.reduction", "above 1", self.reduction)
        _check(self.concurrent >= 0, "search.concurrent", "0 or more", self.concurrent)
        _check(self.seed >= 0, "search.seed", "0 or more", self.seed)


@dataclass(frozen=True, kw_only=True)
class TrackConfig(Section):
    """Where runs are recorded."""

    experiment: str = "swath"
    """MLflow experiment."""
    name: str = ""
    """Name of the run; empty: from the recipe's architecture, encoder and patches."""
    uri: str = ""
    """MLflow tracking store; empty: $MLFLOW_TRACKING_URI, or an SQLite file in the working directory."""
    samples: str = ""
    """Folder in which each worker writes what it was trained on: a line of JSON a step, with its patches' numbers in
    the plan and its share of the loss; empty: not written."""


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """A complete experiment."""

    data: DataConfig = field(default_factory=DataConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    patches: PatchesConfig = field(default_factory=PatchesConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    track: TrackConfig = field(default_factory=TrackConfig)

    def __post_init__(self) -> None:
        share, rest = divmod(self.train.batch, self.cluster.workers)
        _check(rest == 0 and share > 0, "train.batch", f"a multiple of cluster.workers ({self.cluster.workers})",
               self.train.batch)

    def flat(self) -> dict[str, Any]:
        """Every field under its dotted name, as the command line has it: {"patches.size": 256, …}."""
        return {f"{part}.{name}": value for part, fields in asdict(self).items() for name, value in fields.items()}

    def to_json(self) -> str:
        """The configuration as JSON, which `from_json` reads back."""
        return json.dumps(asdict(self), indent=2)

    def digest(self) -> str:
        """Twelve hexadecimal digits of the configuration's content."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


def from_json(text: str, origin: str = "configuration") -> Config:
    """Read a configuration back from JSON.

    Raises ConfigError, naming `origin` and each wrong field, when a field is unknown or its value is not allowed.
    """
    try:
        return TypeAdapter(Config).validate_json(text)
    except ValidationError as error:
        lines = [f"{'.'.join(str(p) for p in e['loc'])}: {e['msg']}".lstrip(": ") for e in error.errors()]
        raise ConfigError(f"{origin}: {'; '.join(lines)}") from None


def load(path: Path) -> Config:
    """Read a configuration file. Raises ConfigError when it is missing or wrong."""
    try:
        return from_json(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a readable configuration file ({error})") from None
