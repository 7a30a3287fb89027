"""Synthetic scenes as real GeoTIFFs, with masks: of any size, for demonstrations and tests.

Written band by band from one seed's endless landscape (patchstore.landscape), so that a scene of any size needs no
memory, and scenes that adjoin on the ground continue each other.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import rasterio
from rasterio.transform import Affine
from rasterio.windows import Window

from patchstore.sources.raster import bound_cache
from patchstore.testing.landscape import TILE, render

CLASSES = ("field=#C8B46E", "building=#D2322D", "woodland=#23692D", "water=#2D6EBE", "road=#5A5A5A")
"""Name and colour of each class, in the order of the mask's values."""
CRS = "EPSG:32634"
"""UTM zone 34 north, in which all scenes lie."""
ORIGIN_M = (500_000.0, 5_800_000.0)
"""East and north of the upper left corner of the landscape's pixel (0, 0)."""

_GAP_M = 4096.0    # least distance of two groups of scenes


def write_scene(image_path: Path | str, mask_path: Path | str, *, seed: int, shape: tuple[int, int],
                origin_m: tuple[float, float] = ORIGIN_M, pixel_m: float = 0.25) -> None:
    """Write a scene of shape (rows, cols): an RGB GeoTIFF and one of class indices with the classes' colours.

    The landscape lies fixed on the ground: origin_m, east and north of the scene's upper left corner, says which part
    of it the scene shows. Memory is that of a band of `TILE` rows. Both files get their names when they are whole.
    Raises ValueError for an empty shape or an origin that is not on the landscape's grid of pixels.
    """
    east, south = (origin_m[0] - ORIGIN_M[0]) / pixel_m, (ORIGIN_M[1] - origin_m[1]) / pixel_m
    row, col = round(south), round(east)
    if min(shape) < 1:
        raise ValueError(f"shape must be 1 or more rows and cols, got {shape}")
    if max(abs(row - south), abs(col - east)) > 1e-6:
        raise ValueError(f"origin_m must be {ORIGIN_M} plus whole pixels of {pixel_m} m, got {origin_m}")
    profile = {"driver": "GTiff", "dtype": "uint8", "height": shape[0], "width": shape[1], "crs": CRS, "tiled": True,
               "transform": Affine(pixel_m, 0, origin_m[0], 0, -pixel_m, origin_m[1]), "blockxsize": 256,
               "blockysize": 256, "compress": "zstd", "zstd_level": 1, "bigtiff": "IF_SAFER"}
    bound_cache()
    colours = {k: tuple(bytes.fromhex(text.split("#")[1])) for k, text in enumerate(CLASSES)}
    with (_named_when_whole(Path(image_path)) as image_part, _named_when_whole(Path(mask_path)) as mask_part,
          rasterio.open(image_part, "w", count=3, photometric="RGB", predictor=2, **profile) as image,
          rasterio.open(mask_part, "w", count=1, **profile) as mask):
        mask.write_colormap(1, colours)
        for top in range(row // TILE * TILE, row + shape[0], TILE):  # along the tiles, so that each is made once
            first, end = max(top, row), min(top + TILE, row + shape[0])
            image_BHW, mask_HW = render(seed, (first, end), (col, col + shape[1]))
            window = Window(0, first - row, shape[1], end - first)
            image.write(image_BHW, window=window)
            mask.write(mask_HW, 1, window=window)


@contextmanager
def _named_when_whole(path: Path) -> Iterator[Path]:
    """A temporary name beside a path, which takes the path's place at the end."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def make_dataset(folder: Path | str, *, scenes: int, size: int, seed: int = 0, groups: int | None = None) -> None:
    """Write folder/images/gG_sS.tif and folder/masks/gG_sS.tif: square scenes of `size` pixels of 0.25 m.

    The scenes of a group (as many in each as can be; by default each scene is its own) adjoin and continue each other
    in a square; groups lie kilometres apart. Raises ValueError when there are no scenes, or fewer than groups.
    """
    groups = scenes if groups is None else groups
    if not (1 <= groups <= scenes and size >= 1):
        raise ValueError(f"need size >= 1 and 1 <= groups <= scenes, got size {size}, groups {groups}, scenes {scenes}")
    for part in ("images", "masks"):
        (Path(folder) / part).mkdir(parents=True, exist_ok=True)
    pixel_m = 0.25
    side, across = math.isqrt(-(-scenes // groups) - 1) + 1, math.isqrt(groups - 1) + 1  # of a square that holds all
    stride = math.ceil((side * size + _GAP_M / pixel_m) / TILE) * TILE
    for scene in range(scenes):
        group, place = scene % groups, scene // groups
        row = group // across * stride + place // side * size
        col = group % across * stride + place % side * size
        name = f"g{group}_s{place}.tif"
        write_scene(Path(folder, "images", name), Path(folder, "masks", name), seed=seed, shape=(size, size),
                    origin_m=(ORIGIN_M[0] + col * pixel_m, ORIGIN_M[1] - row * pixel_m), pixel_m=pixel_m)
