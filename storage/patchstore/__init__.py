"""Scenes go once into a chunked, sharded Zarr store with their pyramid; patches of any size and scale come out.

    patchstore.ingest_folder("mine.zarr", "photos/", classes={"road": "#5A5A5A", "field": "#C8B46E"})
    store = patchstore.open("mine.zarr")
    store.plot("north_1", level=3)                         a thumbnail with labels
    images_NBHW, labels_NHW = store.read([patchstore.Window("north_1", 0, 0, 1024)], 256)
    patchstore.export(store, "north_1", "window.tif", rows=(0, 512), cols=(0, 512))

One scene at a time:

    patchstore.create(uri, dtype="uint8", bands=3, classes=[patchstore.ClassInfo("water", (0, 0, 255)), …])
    patchstore.ingest(uri, source, coding)                 source: one of find(…).scenes
"""

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from patchstore.errors import (
    OutputError,
    PatchstoreError,
    ReadError,
    SettingError,
    SourceError,
    StateError,
    StoreError,
)
from patchstore.format import CELL, ClassInfo, Scene, Settings, Window
from patchstore.store import Store, open

if TYPE_CHECKING:
    __version__: str
    from patchstore.exports import export
    from patchstore.ingestion import (
        Estimate,
        FolderPreview,
        FolderReport,
        Runner,
        SceneReport,
        SceneTask,
        Step,
        Steps,
        Survey,
        compare,
        create,
        estimate,
        ingest,
        ingest_folder,
        one_by_one,
        steps,
        survey_folder,
    )
    from patchstore.sources import (
        ADAPTERS,
        Adapter,
        Found,
        MaskCoding,
        RasterFile,
        RasterInfo,
        SceneReader,
        SceneSource,
        find,
        find_deepglobe,
        find_folder,
        find_icg_drone,
        find_landcover_ai,
        find_obx,
        find_tiles,
        inspect,
    )
    from patchstore.upkeep import audit, collect, remove, versions

_LATER = ("sources", "exports", "ingestion", "upkeep")
"""Packages that are imported when one of their names is first used: with them come GDAL and the readers of vectors, a
second and 100 MB that a process which only reads patches does not need."""

__all__ = ["ADAPTERS", "CELL", "Adapter", "ClassInfo", "Estimate", "FolderPreview", "FolderReport", "Found",
           "MaskCoding", "OutputError", "PatchstoreError", "RasterFile", "RasterInfo", "ReadError", "Runner", "Scene",
           "SceneReader", "SceneReport", "SceneSource", "SceneTask", "SettingError", "Settings", "SourceError",
           "StateError", "Step", "Steps", "Store", "StoreError", "Survey", "Window", "__version__", "audit", "collect",
           "compare", "create", "estimate", "export", "find", "find_deepglobe", "find_folder", "find_icg_drone",
           "find_landcover_ai", "find_obx", "find_tiles", "ingest", "ingest_folder", "inspect", "one_by_one", "open",
           "remove", "steps", "survey_folder", "versions"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("swath")  # one distribution has both packages
    if name in __all__:
        for package in _LATER:
            module = importlib.import_module(f"patchstore.{package}")
            if name in module.__all__:
                return getattr(module, name)
    raise AttributeError(f"module 'patchstore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
