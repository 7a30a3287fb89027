"""Scenes go once into a chunked, sharded Zarr store with their pyramid; patches of any size and scale come out.

    patchstore.create(uri, dtype="uint8", bands=3, classes=[ClassInfo("water", (0, 0, 255)), …])
    patchstore.ingest_scene(uri, source, coding)          # source from find_folder or find_tiles
    store = patchstore.open(uri)
    images_NBHW, labels_NHW = store.read([patchstore.Window(scene, row, col, side)], size)
"""

from patchstore.errors import PatchstoreError, ReadError, SourceError, StateError, StoreError
from patchstore.masks import MaskCoding
from patchstore.pyramid import CELL
from patchstore.raster import RasterFile, RasterInfo
from patchstore.read import Store, open
from patchstore.schema import ClassInfo, Scene
from patchstore.sources import SceneSource, check, find_folder, find_tiles, inspect
from patchstore.window import Window
from patchstore.write import SceneReport, create, ingest_scene

__all__ = ["CELL", "ClassInfo", "MaskCoding", "PatchstoreError", "RasterFile", "RasterInfo", "ReadError", "Scene",
           "SceneReport", "SceneSource", "SourceError", "StateError", "Store", "StoreError", "Window", "check",
           "create", "find_folder", "find_tiles", "ingest_scene", "inspect", "open"]
