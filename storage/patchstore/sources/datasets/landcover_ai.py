"""LandCover.ai: orthophotos of Poland with masks of class indices."""

from dataclasses import replace
from pathlib import Path

from patchstore.format.schema import ClassInfo
from patchstore.sources.datasets.folder import find_folder
from patchstore.sources.pairing import Found

_LANDCOVER_AI = (ClassInfo("background", (190, 190, 170)), ClassInfo("building", (210, 50, 45)),
                 ClassInfo("woodland", (35, 105, 45)), ClassInfo("water", (45, 110, 190)),
                 ClassInfo("road", (90, 90, 90)))


def find_landcover_ai(source: Path) -> Found:
    """LandCover.ai: `images/NAME.tif` with masks of class indices `masks/NAME.tif`; five classes.

    Each scene is a group of its own: names such as M-33-20-D-c-4-2 are sheets of a map, and sheets of different
    hundreds share their ends, so no part of a name says which scenes adjoin. Their CRS does.
    """
    return replace(find_folder(source, "images/*.tif", "masks/*.tif"), classes=_LANDCOVER_AI)
