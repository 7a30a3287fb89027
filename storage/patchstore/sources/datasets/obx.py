"""Photos of the Outer Banks with lossy masks of class indices."""

from dataclasses import replace
from pathlib import Path

from patchstore.format.schema import ClassInfo
from patchstore.sources.datasets.folder import find_folder
from patchstore.sources.pairing import Found

_OBX = (ClassInfo("class_0", (45, 110, 190)), ClassInfo("class_1", (120, 200, 200)),
        ClassInfo("class_2", (200, 180, 110)))


def find_obx(source: Path) -> Found:
    """Photos of the Outer Banks: `img/NAME.jpg` with masks of indices `gt/NAME_mask.jpg`, or `_label_greyscale_mask`.

    The masks are lossy, with stray values at the edges of classes (MaskCoding's `stray`). The set does not name its
    classes 0, 1, 2; in its photos 0 is mostly open water, 1 mostly shallow water, surf or wet sand, 2 mostly land. Each
    photo is a group of its own, though photos taken seconds apart may overlap: no georeference says which do.
    """
    found = find_folder(source, "img/*", "gt/*", mask_suffix="(_label_greyscale)?_mask")
    return replace(found, classes=_OBX)
