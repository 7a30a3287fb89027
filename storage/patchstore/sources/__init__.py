"""Rasters, masks and vector labels as data sets bring them, and the adapters that find them."""

from patchstore.sources.adapters import ADAPTERS, Adapter, find
from patchstore.sources.class_raster import ClassRaster, bounds, span
from patchstore.sources.datasets.deepglobe import find_deepglobe
from patchstore.sources.datasets.folder import find_folder
from patchstore.sources.datasets.icg_drone import find_icg_drone
from patchstore.sources.datasets.landcover_ai import find_landcover_ai
from patchstore.sources.datasets.obx import find_obx
from patchstore.sources.datasets.tiles import find_tiles
from patchstore.sources.grid import Grid, misfit, open_on
from patchstore.sources.masks import MaskCoding
from patchstore.sources.pairing import Found
from patchstore.sources.raster import (
    SIDECARS,
    RasterFile,
    RasterInfo,
    content_files,
    open_dataset,
    rasters,
    reading,
)
from patchstore.sources.scene_reader import SceneReader, inspect
from patchstore.sources.scene_source import SceneSource
from patchstore.sources.value_meanings import Header, Legend, read_header, read_legend
from patchstore.sources.vector import VectorFile, burn

__all__ = ["ADAPTERS", "SIDECARS", "Adapter", "ClassRaster", "Found", "Grid", "Header", "Legend", "MaskCoding",
           "RasterFile", "RasterInfo", "SceneReader", "SceneSource", "VectorFile", "bounds", "burn", "content_files",
           "find", "find_deepglobe", "find_folder", "find_icg_drone", "find_landcover_ai", "find_obx", "find_tiles",
           "inspect", "misfit", "open_dataset", "open_on", "rasters", "read_header", "read_legend", "reading", "span"]
