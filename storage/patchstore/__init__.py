"""Scenes go once into a chunked, sharded Zarr store with their pyramid; patches of any size and scale come out.

    patchstore.create(uri, dtype="uint8", bands=3, classes=[ClassInfo("water", (0, 0, 255)), …])
    patchstore.ingest_scene(uri, source, coding)          # source: one of find(…).scenes
    store = patchstore.open(uri)
    images_NBHW, labels_NHW = store.read([patchstore.Window(scene, row, col, side)], size)
    patchstore.export(store, scene, "window.tif", rows=(0, 512), cols=(0, 512))
"""

from patchstore.adapters import (
    ADAPTERS,
    find,
    find_deepglobe,
    find_folder,
    find_icg_drone,
    find_landcover_ai,
    find_obx,
    find_tiles,
)
from patchstore.errors import OutputError, PatchstoreError, ReadError, SourceError, StateError, StoreError
from patchstore.estimate import Estimate, estimate
from patchstore.export import export
from patchstore.masks import MaskCoding
from patchstore.pairing import Found
from patchstore.pyramid import CELL
from patchstore.raster import RasterFile, RasterInfo
from patchstore.read import Store, open
from patchstore.scene_reader import SceneReader, inspect
from patchstore.schema import ClassInfo, Scene, Settings
from patchstore.sources import SceneSource
from patchstore.window import Window
from patchstore.write import SceneReport, Step, Steps, compare, create, ingest_scene, steps

__all__ = ["ADAPTERS", "CELL", "ClassInfo", "Estimate", "Found", "MaskCoding", "OutputError", "PatchstoreError",
           "RasterFile", "RasterInfo", "ReadError", "Scene", "SceneReader", "SceneReport", "SceneSource", "Settings",
           "SourceError", "StateError", "Step", "Steps", "Store", "StoreError", "Window", "compare", "create",
           "estimate", "export", "find", "find_deepglobe", "find_folder", "find_icg_drone", "find_landcover_ai",
           "find_obx", "find_tiles", "ingest_scene", "inspect", "open", "steps"]
