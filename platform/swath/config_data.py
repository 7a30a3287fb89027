"""Sections of a configuration that say what there is to learn from: scenes, splits, patches and how they are varied."""

import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from swath.section import Section, check

Combine = Literal["single", "mixture", "concentric"]

_CLASS = re.compile(r"^[\w .+-]+=#[0-9A-Fa-f]{6}$")
_MERGE = re.compile(r"^([^#=]+(#[0-9A-Fa-f]{6})?)?=[^=]+$")
_IGNORED = {"index": (re.compile("-?[0-9]+"), "whole numbers"),
            "colour": (re.compile("#[0-9A-Fa-f]{6}"), "colours #RRGGBB"),
            "polygons": (re.compile("(?s).+"), "texts that are not empty")}
"""How a mask's value is written, by the kind of masks: what an ingest's message says to declare can be declared."""
LAYOUT = ("images", "masks", "stacked", "image_suffix", "mask_suffix", "group", "area")
"""Fields of the data that say how the adapter `folder` finds files; no other adapter takes them."""


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
            check(bool(_CLASS.match(text)), "data.classes", "written name=#RRGGBB", text)
        names = [text.split("=")[0] for text in self.classes]
        check(len(set(names)) == len(names), "data.classes", "of different names", self.classes)
        check(len(names) <= 255, "data.classes", "at most 255", len(names))
        form, rule = _IGNORED[self.mask]
        for text in self.ignored:
            check(bool(form.fullmatch(text)), "data.ignored", f"{rule} for data.mask {self.mask}", text)
        for text in self.merge:
            check(bool(_MERGE.match(text)), "data.merge", "written new=old+old, new#RRGGBB=old+old or =old", text)
        given = [f"data.{name}" for name in LAYOUT if getattr(self, name) != getattr(DataConfig, name)]
        check(self.adapter == "folder" or not given, "data.adapter", f"folder where {' and '.join(given)} is given",
              self.adapter)
        for name in ("attribute", "background"):
            check(self.mask == "polygons" or not getattr(self, name), "data.mask",
                   f"polygons where data.{name} is given", self.mask)
        check(not self.background or not names or self.background in names, "data.background", "one of data.classes",
              self.background)
        check(self.chunk >= 64 and self.chunk % 64 == 0, "data.chunk", "a multiple of 64", self.chunk)
        check(self.shard >= self.chunk and self.shard % self.chunk == 0, "data.shard", "a multiple of data.chunk",
              self.shard)
        check(1 <= self.zstd <= 19, "data.zstd", "from 1 to 19", self.zstd)


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
        check(self.seed >= 0, "split.seed", "0 or more", self.seed)
        times = Counter([*self.train, *self.val, *self.test])
        twice = sorted(name for name, count in times.items() if count > 1)
        check(not twice, "split.train, split.val and split.test", "of names that stand once", twice)
        check(0 < self.val_fraction < 1, "split.val_fraction", "between 0 and 1", self.val_fraction)
        check(0 <= self.test_fraction < 1, "split.test_fraction", "from 0 to below 1", self.test_fraction)
        check(self.val_fraction + self.test_fraction < 1, "split.val_fraction + split.test_fraction", "below 1",
              self.val_fraction + self.test_fraction)
        check(self.block >= 64 and self.block % 64 == 0, "split.block", "a multiple of 64", self.block)
        check(self.margin >= 0, "split.margin", "0 or more", self.margin)
        check(self.margin == 0 or self.by == "block", "split.by", "block where split.margin is given", self.by)
        check(self.folds == 0 or self.folds >= 2, "split.folds", "0, or 2 or more", self.folds)
        check(0 <= self.fold < max(1, self.folds), "split.fold", f"from 0 to below split.folds ({self.folds})",
              self.fold)
        self._check_names()

    def _check_names(self) -> None:
        named = [f"split.{name}" for name in ("train", "val", "test") if getattr(self, name)]
        complete = bool(self.val and (self.test or self.test_fraction == 0))
        check(not self.train or complete, "split.val and split.test", "given where split.train is",
              (self.val, self.test))
        check(self.by != "tile" or bool(self.train), "split.train", "given where split.by is tile", self.train)
        check(self.by != "block" or not named, "split.by",
              f"group, scene or tile where {' and '.join(named)} is given", self.by)
        check(not self.folds or not (self.train or self.val), "split.folds",
              "0 where split.train or split.val is given", self.folds)


@dataclass(frozen=True, kw_only=True)
class PatchesConfig(Section):
    """What the network sees: patches of size x size pixels, each pixel spanning `scale` scene pixels."""

    size: int = 256
    """Side of a patch in patch pixels."""
    scales: tuple[float, ...] = (1.0,)
    """Scene pixels that one patch pixel spans, or with pixel_m so many times its metres; below 1 pixels are enlarged.
    Several with combine `mixture` or `concentric`."""
    combine: Combine = "single"
    """How scales are combined: `single` uses one; `mixture` trains on patches of all, each sample of one scale, and
    predicts at each and averages; `concentric` sees the same centre at all of them at once, from the finest, which it
    predicts, to the coarsest, and fuses them by learned weights."""
    pixel_m: float = 0.0
    """Metres that a patch pixel spans at scale 1, whatever a scene's own pixels span; 0: as the scene's own."""
    stride: int | None = None
    """Distance between neighbouring patches in patch pixels; None: as the size. The last ones are flush with the edge
    of the split's ground."""
    foreign: Literal["exclude", "ignore"] = "exclude"
    """Patches whose window (of concentric ones the coarsest) reaches over ground of no or another split: left out, or
    kept with the labels there ignored (their pixels are seen all the same: the overlap certificate counts them)."""
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
        check(8 <= self.size <= 8192, "patches.size", "from 8 to 8192", self.size)
        check(len(self.scales) > 0 and all(1 / 8 <= s <= 64 for s in self.scales), "patches.scales",
              "from 1/8 to 64 each", self.scales)
        check(len(set(self.scales)) == len(self.scales), "patches.scales", "different from each other", self.scales)
        check(self.combine != "single" or len(self.scales) == 1, "patches.scales", "one for patches.combine single",
              self.scales)
        check(self.combine != "concentric" or (len(self.scales) > 1 and list(self.scales) == sorted(self.scales)),
              "patches.scales", "two or more, from fine to coarse, for patches.combine concentric", self.scales)
        check(0 <= self.pixel_m < math.inf, "patches.pixel_m", "0 or more", self.pixel_m)
        check(self.stride is None or self.stride >= 1, "patches.stride", "1 or more, or None for that of the size",
              self.stride)
        for name in ("min_foreground", "min_not_lowest", "max_ignored"):
            check(0 <= getattr(self, name) <= 1, f"patches.{name}", "from 0 to 1", getattr(self, name))
        check(not self.min_foreground or bool(self.background), "patches.background",
              "given where patches.min_foreground is", self.background)
        check(bool(self.balance), "patches.balance", "none, class, sqrt, or class names joined by +", self.balance)

    @property
    def step(self) -> int:
        """Distance between neighbouring patches in patch pixels."""
        return self.size if self.stride is None else self.stride

    @property
    def together(self) -> bool:
        """Whether a sample shows all scales at once, around one centre."""
        return self.combine == "concentric"

    @property
    def at_once(self) -> int:
        """How many scales a sample shows."""
        return len(self.scales) if self.together else 1

    @property
    def placed(self) -> tuple[float, ...]:
        """The scales that have patches, labels and predictions of their own: of concentric ones the finest."""
        return self.scales[:1] if self.together else self.scales


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
        check(min(self.rgb) >= 1 and len(set(self.rgb)) in (1, 3), "augment.rgb",
              "three different bands, counted from 1, or a grey one three times", self.rgb)
