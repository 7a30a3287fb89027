"""Synthetic scenes as real GeoTIFFs, with masks: of any size, for demonstrations and tests."""

from patchstore.testing.scenes import CLASSES, CRS, ORIGIN_M, make_dataset, write_scene

__all__ = ["CLASSES", "CRS", "ORIGIN_M", "make_dataset", "write_scene"]
