"""The data's section of a configuration: where scenes come from, and how they are stored."""

import re
from dataclasses import dataclass
from typing import Literal

from swath.config.rules import Section, check

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
    adapter: str = "folder"
    """Layout of the source on disk. `folder`: any images and masks, found by the patterns below. `landcover_ai`,
    `deepglobe`, `tiles`, `icg_drone`, `obx`: the layouts of these data sets, which need no patterns."""
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
