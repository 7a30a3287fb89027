"""The format of a store: names, metadata, levels, and the places of its bytes."""

from patchstore.format.catalog import array_path, load_settings, need_settings
from patchstore.format.conventions import pixel_m2
from patchstore.format.locations import Folder, normal
from patchstore.format.pyramid import CELL
from patchstore.format.schema import META, Affine, ClassInfo, Scene, Settings, colour, digest
from patchstore.format.windows import ENLARGED, Range, Window, centres, level_shape, levels_of, locate, reflect

__all__ = ["CELL", "ENLARGED", "META", "Affine", "ClassInfo", "Folder", "Range", "Scene", "Settings", "Window",
           "array_path", "centres", "colour", "digest", "level_shape", "levels_of", "load_settings", "locate",
           "need_settings", "normal", "pixel_m2", "reflect"]
