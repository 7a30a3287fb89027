"""Random patches from a store against other ways to read the same pixels. By hand: python tests/bench_read.py

Needs the extra `bench`. Repetitions of all ways are interleaved, and the table gives medians: on a shared machine only
the ratios mean something.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
import zarr
from rich.console import Console
from rich.table import Table

import patchstore
from patchstore import ClassInfo, testing
from patchstore.schema import colour

SIDE, SIZE, BATCH, COUNT, REPETITIONS = 4096, 256, 16, 256, 5


def main() -> None:
    """Print patches a second, image and mask together."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        testing.make_dataset(folder, scenes=1, size=SIDE, groups=1)
        source = patchstore.find_folder(folder)[0]
        classes = [ClassInfo(name, colour(code)) for name, code in (text.split("=") for text in testing.CLASSES)]
        uri = patchstore.create(str(folder / "store.zarr"), dtype="uint8", bands=3, classes=classes)
        patchstore.ingest_scene(uri, source)
        places = np.random.default_rng(0).integers(0, SIDE - SIZE, (COUNT, 2))
        ways = _ways(uri, source)
        for read in ways.values():  # everything open, page cache warm
            read(places[:BATCH])
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(REPETITIONS):
            for name, read in ways.items():
                began = time.perf_counter()
                for first in range(0, COUNT, BATCH):
                    read(places[first : first + BATCH])
                seconds[name].append(time.perf_counter() - began)
    _show({name: COUNT / statistics.median(values) for name, values in seconds.items()})


def _ways(uri: str, source: patchstore.SceneSource) -> dict[str, Callable[[np.ndarray], None]]:
    store = patchstore.open(uri, cache_bytes=0)
    version = f"{source.name}/{store.scenes[source.name].version}"
    assert source.mask is not None
    image, mask = rasterio.open(source.image), rasterio.open(source.mask)

    def patches(places: np.ndarray) -> None:
        store.read([patchstore.Window(source.name, int(r), int(c), SIZE) for r, c in places], SIZE)

    def by_zarr(pipeline: str) -> Callable[[np.ndarray], None]:
        with zarr.config.set({"codec_pipeline.path": pipeline}):
            group = zarr.open_group(uri, mode="r")
            arrays = group[f"{version}/image/0"], group[f"{version}/mask/0"]

        def read(places: np.ndarray) -> None:
            for row, col in places:
                for array in arrays:
                    array[..., row : row + SIZE, col : col + SIZE]

        return read

    def windows(places: np.ndarray) -> None:
        for row, col in places:
            for raster in (image, mask):
                raster.read(window=((row, row + SIZE), (col, col + SIZE)))

    return {"swath store (tensorstore, a batch at once)": patches,
            "zarr-python": by_zarr("zarr.core.codec_pipeline.BatchedCodecPipeline"),
            "zarr-python with zarrs": by_zarr("zarrs.ZarrsCodecPipeline"),
            "rasterio, GeoTIFF tiled 256, zstd": windows}


def _show(rates: dict[str, float]) -> None:
    table = Table(title=f"{COUNT} random patches of {SIZE} px from a scene of {SIDE} px, no cache")
    for column in ("way", "patches/s", "swath is … times as fast"):
        table.add_column(column)
    first = next(iter(rates.values()))
    for name, rate in rates.items():
        table.add_row(name, f"{rate:.0f}", f"{first / rate:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
