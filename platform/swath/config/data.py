"""Section `data` of a configuration: where scenes come from, and how they are stored."""

import re
from dataclasses import dataclass
from typing import Literal

from swath.config.rules import Section, check
from swath.errors import ConfigError

_CLASS = re.compile(r"^[\w .+-]+=#[0-9A-Fa-f]{6}$")
_MERGE = re.compile(r"^([^#=]+(#[0-9A-Fa-f]{6})?)?=[^=]+$")
_IGNORED = {"index": (re.compile("-?[0-9]+"), "whole numbers"),
            "colour": (re.compile("#[0-9A-Fa-f]{6}"), "colours #RRGGBB"),
            "polygons": (re.compile("(?s).+"), "non-empty texts")}
"""Pattern of a value in `data.ignored`, for each kind of mask. Every value that an ingest's error message asks the user
to declare matches it."""
LAYOUT = ("images", "masks", "stacked", "image_suffix", "mask_suffix", "group", "area")
"""Fields that tell the adapter `folder` how to find files. Other adapters do not use them."""


@dataclass(frozen=True, kw_only=True)
class DataConfig(Section):
    """Where the scenes come from, and where the store is."""

    store: str = ""
    """Folder or URI of the store, for example runs/dubai.zarr."""
    source: str = ""
    """Folder of images and masks. Only an ingest uses it."""
    adapter: str = "folder"
    """Layout of the source folder. `patchstore.sources.adapters` describes each layout in full. `folder` takes any
    images and masks and finds them by the patterns in the fields `images` to `area`. The other adapters are the
    layouts of published data sets; they do not use those fields. MODULE:NAME is an adapter of your own."""
    images: str = "images/*"
    """Glob pattern of the images, relative to the source folder; ** matches any number of folders. Used by
    adapter `folder`, like all fields from here to `area`."""
    masks: str = "masks/*"
    """Glob pattern of the masks. A mask has the name of its image, apart from file extension and suffix. Empty:
    ingest images without masks. If the pattern finds a single vector file, it labels all scenes."""
    stacked: tuple[str, ...] = ()
    """Glob patterns of additional files for each scene, such as near infrared or height. Their bands follow the
    bands of the image."""
    image_suffix: str = ""
    """Regular expression that is removed from the end of the names of images and stacked files before files are
    paired."""
    mask_suffix: str = ""
    """Regular expression that is removed from the end of the names of masks and area files before files are paired,
    for example _mask."""
    group: str = ""
    """Regular expression that finds the group in a scene's name: the text matched by its first capture group. Empty:
    each scene is its own group. Scenes in one group are assumed to show the same ground if they have no CRS and
    no position in the group (adapters of cut tiles give this position as an origin)."""
    area: str = ""
    """Glob pattern of vector files with the area of interest: one file for all scenes, or one for each scene. Labels
    outside the area are ignored. Empty: no limit."""
    crs: str = ""
    """CRS of images that have a transform (from a world file, for example) but do not name a CRS, such as
    EPSG:32634."""
    align: bool = False
    """Warp masks and stacked files to the grid of their image if they lie on another grid. Without this option they
    are refused."""
    classes: tuple[str, ...] = ()
    """Classes in the order of their index, each written name=#RRGGBB. Empty: the classes of the adapter."""
    mask: Literal["index", "colour", "polygons"] = "index"
    """Content of the masks.
    - `index`: class indices.
    - `colour`: the colours of the classes; a palette image is read by the colours of its palette.
    - `polygons`: vector polygons."""
    ignored: tuple[str, ...] = ()
    """Mask values that belong to no class and are expected: colours (#RRGGBB), indices, or values of the polygon
    attribute, depending on `data.mask`. Their pixels are counted and reported, and never scored."""
    stray: Literal["error", "ignore"] = "error"
    """What to do with mask values that are neither a class nor listed in `data.ignored`.
    - `error`: stop with an error.
    - `ignore`: ignore these pixels and count them; useful for masks with lossy compression."""
    attribute: str = ""
    """Attribute of the polygons that holds the name or the index of their class. Only for data.mask polygons."""
    background: str = ""
    """Class of the ground that no polygon covers. Only for data.mask polygons. Empty: this ground is ignored."""
    merge: tuple[str, ...] = ()
    """Classes that are merged or renamed when the store is read, each written new=old+old or new#RRGGBB=old+old.
    Write =old to ignore a class. Classes that are not listed stay as they are. An ingest does not use this field."""
    chunk: int = 256
    """Side of a chunk in pixels. A chunk is the unit of compression."""
    shard: int = 2048
    """Side of a shard in pixels, a multiple of data.chunk. A shard is one file."""
    zstd: int = 1
    """Zstandard compression level, from 1 (fastest to read) to 19."""

    def __post_init__(self) -> None:
        for text in self.classes:
            check(bool(_CLASS.match(text)), "each of data.classes", "written name=#RRGGBB", text)
        names = [text.split("=")[0] for text in self.classes]
        check(len(set(names)) == len(names), "data.classes", "classes with different names", self.classes)
        check(len(names) <= 255, "the number of data.classes", "at most 255", len(names))
        form, rule = _IGNORED[self.mask]
        for text in self.ignored:
            check(bool(form.fullmatch(text)), "data.ignored", f"{rule} if data.mask is {self.mask}", text)
        for text in self.merge:
            check(bool(_MERGE.match(text)), "each of data.merge", "written new=old+old, new#RRGGBB=old+old or =old",
                  text)
        given = [f"data.{name}" for name in LAYOUT if getattr(self, name) != getattr(DataConfig, name)]
        if self.adapter != "folder" and given:
            fields, verb = " and ".join(given), "applies" if len(given) == 1 else "apply"
            raise ConfigError(f"{fields} {verb} only to data.adapter folder; the adapter {self.adapter} has its own "
                              f"layout. Drop {fields}, or set data.adapter folder.")
        for name in ("attribute", "background"):
            check(self.mask == "polygons" or not getattr(self, name), "data.mask",
                  f"polygons if data.{name} is given", self.mask)
        check(not self.background or not names or self.background in names, "data.background", "one of data.classes",
              self.background)
        check(self.chunk >= 64 and self.chunk % 64 == 0, "data.chunk", "a multiple of 64", self.chunk)
        check(self.shard >= self.chunk and self.shard % self.chunk == 0, "data.shard", "a multiple of data.chunk",
              self.shard)
        check(1 <= self.zstd <= 19, "data.zstd", "from 1 to 19", self.zstd)
