"""Ingest needs the memory of a band of shards, whatever the scene's height."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

WIDTH = 10_000
_SCRIPT = """
import pathlib, resource, sys, patchstore
folder = pathlib.Path(sys.argv[1])
uri = patchstore.create(folder / "s.zarr", dtype="uint8", bands=3, classes=[patchstore.ClassInfo("a", (1, 2, 3))])
report = patchstore.ingest(uri, patchstore.SceneSource(
    name="s", image=folder / "image.tif", mask=folder / "mask.tif", group="s"))
assert report.class_pixels == (report.pixels,)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_kb(folder: Path, height: int) -> int:
    """Peak memory of ingesting a scene, most of whose file is sparse: a strip of noise at each end."""
    folder.mkdir()
    profile = {"driver": "GTiff", "height": height, "width": WIDTH, "dtype": "uint8", "tiled": True, "blockxsize": 512,
               "blockysize": 512, "sparse_ok": True, "bigtiff": "if_safer", "crs": "EPSG:32634",
               "transform": rasterio.Affine(0.25, 0, 0, 0, -0.25, 0)}
    noise = np.random.default_rng(0).integers(0, 256, (3, 512, WIDTH), np.uint8)
    with rasterio.open(folder / "image.tif", "w", count=3, **profile) as image:
        for row in (0, height // 512 * 512 - 512):
            image.write(noise, window=((row, row + 512), (0, WIDTH)))
    with rasterio.open(folder / "mask.tif", "w", count=1, **profile):
        pass
    done = subprocess.run([sys.executable, "-c", _SCRIPT, folder], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.slow
def test_peak_memory_is_flat_in_the_height(tmp_path: Path) -> None:
    low, high = (peak_kb(tmp_path / str(height), height) for height in (10_000, 160_000))
    assert high < 1.15 * low
