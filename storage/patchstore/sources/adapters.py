"""Adapters: each reads the layout in which a kind of data set lies on disk, and finds its scenes.

    find("folder", source, images="images/*", masks="masks/*")     any images and masks, by patterns
    find("deepglobe", source)                                      a set's own layout

A problem of a single file is a line of `Found.rejected`; a folder that does not exist, or has nothing of the layout, is
a SourceError. Files are looked for, not opened (but for class tables, and tiles, whose places need their sizes).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from glob import escape
from pathlib import Path
from typing import Any

from patchstore.errors import SourceError
from patchstore.format.schema import ClassInfo
from patchstore.sources.class_table import find_table, read_table
from patchstore.sources.pairing import Found, find_files, pair
from patchstore.sources.raster import inspect_raster
from patchstore.sources.scene_source import SceneSource

_LANDCOVER_AI = (ClassInfo("background", (190, 190, 170)), ClassInfo("building", (210, 50, 45)),
                 ClassInfo("woodland", (35, 105, 45)), ClassInfo("water", (45, 110, 190)),
                 ClassInfo("road", (90, 90, 90)))
_DEEPGLOBE = (ClassInfo("urban_land", (0, 255, 255)), ClassInfo("agriculture_land", (255, 255, 0)),
              ClassInfo("rangeland", (255, 0, 255)), ClassInfo("forest_land", (0, 255, 0)),
              ClassInfo("water", (0, 0, 255)), ClassInfo("barren_land", (255, 255, 255)),
              ClassInfo("unknown", (0, 0, 0)))
_OBX = (ClassInfo("class_0", (45, 110, 190)), ClassInfo("class_1", (120, 200, 200)),
        ClassInfo("class_2", (200, 180, 110)))
_UNKNOWN = "unknown"
"""Name of what DeepGlobe's tables list beside the classes: pixels that nobody could tell."""
_TILE = re.compile(r"/Tile ([1-9]\d*)/images/image_part_(\d{3})\.\w+$")


def find(adapter: str | Callable[..., Found], source: Path, *, crs: str = "", align: bool = False, **layout: Any
         ) -> Found:
    """The scenes of a source folder, by one of ADAPTERS or a function of one's own. `layout`: its further arguments.

    `crs` and `align` become those of every scene. Raises SourceError as the adapter does, ValueError for an unknown
    adapter.
    """
    if isinstance(adapter, str):
        if adapter not in ADAPTERS:
            raise ValueError(f"adapter must be one of {', '.join(ADAPTERS)}, got {adapter!r}")
        adapter = ADAPTERS[adapter]
    found = adapter(source, **layout)
    return replace(found, scenes=tuple(replace(scene, crs=crs, align=align) for scene in found.scenes))


def find_folder(source: Path, images: str = "images/*", masks: str = "masks/*", group: str = "", *,
                stacked: Sequence[str] = (), image_suffix: str = "", mask_suffix: str = "", area: str = "") -> Found:
    """Any images and masks, found by patterns below the source (`**` is any folders); scenes by name.

    images         a file that another pattern finds too is no image: `*.tif` with masks `*_mask.tif` is clear
    masks          empty: images only. One vector file alone (.gpkg, .geojson, .json, .shp, .fgb) labels all scenes
    group          a regular expression whose first group, searched in a scene's name, is its group; empty: each scene
                   is one of its own
    stacked        further files of each scene, such as near infrared or height; their bands follow its image's
    image_suffix   a regular expression, removed from the end of the names of images and stacked files: `_(rgb|nir)`
    mask_suffix    the same for masks and areas: `_mask`
    area           polygons outside which labels are ignored: one vector file for all scenes, or one for each

    Files pair by place (patchstore.pairing): the name without ending and suffix, and the folders that wildcards found.
    Raises SourceError when the folder does not exist, a pattern finds nothing or an expression is wrong.
    """
    mask_files = find_files(source, masks, "mask", mask_suffix) if masks else None
    area_files = find_files(source, area, "area", mask_suffix) if area else None
    stacked_files = [find_files(source, pattern, "stacked file", image_suffix) for pattern in stacked]
    taken = [path for files in (mask_files, area_files, *stacked_files) if files for path in files.all]
    image_files = find_files(source, images, "image", image_suffix, without=taken)
    return pair(image_files, mask_files, stacked=stacked_files, area=area_files, group=group)


def find_landcover_ai(source: Path) -> Found:
    """LandCover.ai: `images/NAME.tif` with masks of class indices `masks/NAME.tif`; five classes.

    Each scene is a group of its own: names such as M-33-20-D-c-4-2 are sheets of a map, and sheets of different
    hundreds share their ends, so no part of a name says which scenes adjoin. Their CRS does.
    """
    return replace(find_folder(source, "images/*.tif", "masks/*.tif"), classes=_LANDCOVER_AI)


def find_deepglobe(source: Path) -> Found:
    """DeepGlobe and CodaLab: `NAME_sat.*` with masks of colours `NAME_mask.*`, in any folders below the source.

    Classes come from class_dict.csv (below the source, or up to two folders above it), else they are DeepGlobe's land
    cover; `unknown` is ignored and no class. Of a folder of images in which none has a mask (DeepGlobe's valid/ and
    test/), all are scenes without one; else a missing mask is a reason to reject the image.

    DeepGlobe's masks are not pure: its authors say to binarise each band at 128. That is not done here, since other
    sets' colours may lie between. A mask's colours that no class has are an error unless they are said to be ignored
    (MaskCoding's `stray`), and then they are counted.
    """
    images = find_files(source, "**/*_sat.*", "image", "_sat", flat=True)
    table = find_table(source, "class_dict.csv")
    listed = _DEEPGLOBE if table is None else read_table(table)
    classes = tuple(info for info in listed if info.name.lower() != _UNKNOWN)
    ignored = tuple(info.code for info in listed if info.name.lower() == _UNKNOWN)
    if not any(source.glob("**/*_mask.*")):
        return replace(pair(images), classes=classes, ignored=ignored)
    masks = find_files(source, "**/*_mask.*", "mask", "_mask", flat=True)
    labelled = {path.parent for place, paths in images.at.items() if place in masks.at for path in paths}
    bare = {place: paths for place, paths in images.at.items() if not labelled & {path.parent for path in paths}}
    rest = {place: paths for place, paths in images.at.items() if place not in bare}
    with_masks, without = pair(replace(images, at=rest), masks), pair(replace(images, at=bare))
    return Found(scenes=(*with_masks.scenes, *without.scenes), rejected=(*with_masks.rejected, *without.rejected),
                 classes=classes, ignored=ignored)


def find_icg_drone(source: Path) -> Found:
    """ICG's semantic drone set: `original_images/NAME.jpg` with masks `label_images_semantic/NAME.png`.

    The two folders lie anywhere below the source, one of each. A mask's values are indices of classes in the order of
    class_dict_seg.csv (below the source, or up to two folders above it); `unlabeled`, the first, is one of them. Each
    photo is a group of its own: the set does not say which show the same ground.
    """
    if not source.is_dir():
        raise SourceError(f"{source}: is not a folder")
    table = find_table(source, "class_dict_seg.csv")
    if table is None:
        raise SourceError(f"{source}: there is no class_dict_seg.csv in it or in the two folders above; the masks' "
                          "indices mean the order of its lines")
    images, masks = (_only_folder(source, name) for name in ("original_images", "label_images_semantic"))
    return replace(find_folder(source, f"{images}/*.jpg", f"{masks}/*.png"), classes=read_table(table))


def find_obx(source: Path) -> Found:
    """Photos of the Outer Banks: `img/NAME.jpg` with masks of indices `gt/NAME_mask.jpg`, or `_label_greyscale_mask`.

    The masks are lossy, with stray values at the edges of classes (MaskCoding's `stray`). The set does not name its
    classes 0, 1, 2; in its photos 0 is mostly open water, 1 mostly shallow water, surf or wet sand, 2 mostly land. Each
    photo is a group of its own, though photos taken seconds apart may overlap: no georeference says which do.
    """
    found = find_folder(source, "img/*", "gt/*", mask_suffix="(_label_greyscale)?_mask")
    return replace(found, classes=_OBX)


def find_tiles(source: Path) -> Found:
    """MBRSC's Dubai: `Tile K/images/image_part_00P.*` with `Tile K/masks/*`; scenes tile_K_part_00P by tile and part.

    The nine parts of a tile are a row-major 3 x 3 grid of one image, and one group. A tile without all nine images is
    rejected whole, since the parts' places follow from their neighbours' sizes.
    """
    images = find_files(source, "Tile */images/image_part_*", "image")
    masks = find_files(source, "Tile */masks/image_part_*", "mask")
    rejected = [line for files in (images, masks) for line in files.refused(images.at)]
    tiles: dict[int, dict[int, Path]] = {}
    for path, *more in images.at.values():
        match = _TILE.search(path.as_posix())
        if match is None:
            rejected.append(f"{path}: is not named like Tile 1/images/image_part_001.jpg")
        elif not more:
            tiles.setdefault(int(match[1]), {})[int(match[2])] = path
    scenes: list[SceneSource] = []
    for tile, parts in sorted(tiles.items()):
        origins = _origins(parts)
        for part, path in sorted(parts.items()):
            try:
                if isinstance(origins, str):
                    raise SourceError(origins)
                scenes.append(SceneSource(
                    name=f"tile_{tile}_part_{part:03d}", image=path, group=f"tile_{tile}", origin=origins[part],
                    mask=masks.of((path.parent.parent.name, path.stem))))
            except SourceError as error:
                rejected.append(f"{path}: {error}")
    return Found(scenes=tuple(scenes), rejected=tuple(rejected))


ADAPTERS: Mapping[str, Callable[..., Found]] = {
    "folder": find_folder, "landcover_ai": find_landcover_ai, "deepglobe": find_deepglobe, "tiles": find_tiles,
    "icg_drone": find_icg_drone, "obx": find_obx}
"""Every adapter by its name; `find` and the configuration's choice follow it."""


def _origins(parts: Mapping[int, Path]) -> dict[int, tuple[int, int]] | str:
    """Row and column of each part in its tile, or why they cannot be known."""
    if sorted(parts) != list(range(1, 10)):
        return f"its tile has the parts {sorted(parts)}, but the parts' places in it need all of 1 … 9"
    try:
        shapes = {part: inspect_raster(path).shape for part, path in parts.items()}
    except SourceError as error:
        return f"its place in the tile needs every part of it ({error})"
    return {part: (sum(shapes[p][0] for p in range(part - 3, 0, -3)),
                   sum(shapes[p][1] for p in range(part - (part - 1) % 3, part))) for part in parts}


def _only_folder(source: Path, name: str) -> str:
    """Pattern, below a source, of the one folder of that name. Raises SourceError."""
    found = sorted(path for path in source.rglob(name) if path.is_dir())
    if len(found) != 1:
        raise SourceError(f"{source}: must have one folder {name} below it, has {len(found)}"
                          + "".join(f"; {path}" for path in found))
    return escape(found[0].relative_to(source).as_posix())
