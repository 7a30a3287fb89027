"""Any folder of images and masks: patterns find the files, and equal places pair them."""

from collections.abc import Sequence
from pathlib import Path

from patchstore.sources.pairing import Found, find_files, pair


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

    Files pair by place (patchstore.sources.pairing): the name without ending and suffix, and the folders that
    wildcards found.
    Raises SourceError when the folder does not exist, a pattern finds nothing or an expression is wrong.
    """
    mask_files = find_files(source, masks, "mask", mask_suffix) if masks else None
    area_files = find_files(source, area, "area", mask_suffix) if area else None
    stacked_files = [find_files(source, pattern, "stacked file", image_suffix) for pattern in stacked]
    taken = [path for files in (mask_files, area_files, *stacked_files) if files for path in files.all]
    image_files = find_files(source, images, "image", image_suffix, without=taken)
    return pair(image_files, mask_files, stacked=stacked_files, area=area_files, group=group)
