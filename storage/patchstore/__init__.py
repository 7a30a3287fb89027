"""Scenes go once into a chunked, sharded Zarr store with their pyramid; patches of any size and scale come out.

    patchstore.create(uri, dtype="uint8", bands=3, classes=[ClassInfo("water", (0, 0, 255)), …])
    patchstore.ingest_scene(uri, source, coding)          # source: one of find(…).scenes
    store = patchstore.open(uri)
    images_NBHW, labels_NHW = store.read([patchstore.Window(scene, row, col, side)], size)
    patchstore.export(store, scene, "window.tif", rows=(0, 512), cols=(0, 512))
"""

import importlib
from typing import TYPE_CHECKING, Any

from patchstore.errors import OutputError, PatchstoreError, ReadError, SourceError, StateError, StoreError
from patchstore.format.pyramid import CELL
from patchstore.format.schema import ClassInfo, Scene, Settings
from patchstore.format.windows import Window
from patchstore.store.read import Store, open

if TYPE_CHECKING:
    from patchstore.exports.scenes import export
    from patchstore.ingestion.estimates import Estimate, estimate
    from patchstore.ingestion.scene import SceneReport, Step, Steps, compare, create, ingest_scene, steps
    from patchstore.sources.adapters import (
        ADAPTERS,
        find,
        find_deepglobe,
        find_folder,
        find_icg_drone,
        find_landcover_ai,
        find_obx,
        find_tiles,
    )
    from patchstore.sources.masks import MaskCoding
    from patchstore.sources.pairing import Found
    from patchstore.sources.raster import RasterFile, RasterInfo
    from patchstore.sources.scene_reader import SceneReader, inspect
    from patchstore.sources.scene_source import SceneSource

# Imported when they are asked for: GDAL and what reads vectors come along, a second and 100 MB that a process which
# only reads patches would spend for nothing.
_LATER = {
    "sources.adapters": ("ADAPTERS", "find", "find_deepglobe", "find_folder", "find_icg_drone", "find_landcover_ai",
                 "find_obx", "find_tiles"),
    "ingestion.estimates": ("Estimate", "estimate"),
    "exports.scenes": ("export",),
    "sources.masks": ("MaskCoding",),
    "sources.pairing": ("Found",),
    "sources.raster": ("RasterFile", "RasterInfo"),
    "sources.scene_reader": ("SceneReader", "inspect"),
    "sources.scene_source": ("SceneSource",),
    "ingestion.scene": ("SceneReport", "Step", "Steps", "compare", "create", "ingest_scene", "steps"),
}

__all__ = ["ADAPTERS", "CELL", "ClassInfo", "Estimate", "Found", "MaskCoding", "OutputError", "PatchstoreError",
           "RasterFile", "RasterInfo", "ReadError", "Scene", "SceneReader", "SceneReport", "SceneSource", "Settings",
           "SourceError", "StateError", "Step", "Steps", "Store", "StoreError", "Window", "compare", "create",
           "estimate", "export", "find", "find_deepglobe", "find_folder", "find_icg_drone", "find_landcover_ai",
           "find_obx", "find_tiles", "ingest_scene", "inspect", "open", "steps"]


def __getattr__(name: str) -> Any:
    for module, names in _LATER.items():
        if name in names:
            return getattr(importlib.import_module(f"patchstore.{module}"), name)
    raise AttributeError(f"module 'patchstore' has no attribute {name!r}")
