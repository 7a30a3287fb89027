"""Rasters that tests write, and random content for them."""

from pathlib import Path

import numpy as np
import rasterio


def write(path: Path, pixels: np.ndarray, palette: dict[int, tuple[int, ...]] | None = None, **profile: object) -> Path:
    """A raster of (H, W) or (B, H, W), its format by the ending; `palette`: index -> colour."""
    pixels = pixels if pixels.ndim == 3 else pixels[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    driver = {".tif": "GTiff", ".png": "PNG", ".jpg": "JPEG"}[path.suffix]
    count, height, width = pixels.shape
    with rasterio.open(path, "w", driver=driver, count=count, height=height, width=width, dtype=pixels.dtype, **profile
                       ) as file:
        file.write(pixels)
        if palette:
            file.write_colormap(1, palette)
    return path


def random_mask(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Indices 0, 1, 2 in small squares."""
    coarse = np.random.default_rng(seed).integers(0, 3, tuple(-(-n // 7) for n in shape), np.uint8)
    return np.ascontiguousarray(coarse.repeat(7, 0).repeat(7, 1)[:shape[0], :shape[1]])


def random_image(shape: tuple[int, int], bands: int = 3, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (bands, *shape), np.uint8)
