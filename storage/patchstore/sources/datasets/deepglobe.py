"""DeepGlobe land cover, and CodaLab sets of the same layout: satellite tiles with masks of colours."""

from dataclasses import replace
from pathlib import Path

from patchstore.format.schema import ClassInfo
from patchstore.sources.datasets.class_table import find_table, read_table
from patchstore.sources.pairing import Found, find_files, pair

_DEEPGLOBE = (ClassInfo("urban_land", (0, 255, 255)), ClassInfo("agriculture_land", (255, 255, 0)),
              ClassInfo("rangeland", (255, 0, 255)), ClassInfo("forest_land", (0, 255, 0)),
              ClassInfo("water", (0, 0, 255)), ClassInfo("barren_land", (255, 255, 255)),
              ClassInfo("unknown", (0, 0, 0)))
_UNKNOWN = "unknown"
"""Name of an entry that DeepGlobe's tables list beside the classes: pixels that nobody could identify."""


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
