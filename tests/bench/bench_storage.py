"""The store against other ways from an orthophoto to a patch. By hand; needs the extra `bench`.

    python tests/bench/bench_storage.py --keep DIR        every row, on four scenes of 9000 x 9500
    python tests/bench/bench_storage.py --rows warm order --scenes 1 --rows-px 4096 --cols-px 4096

One process for each way. The ways of a row are interleaved, in another order at each repetition, after one that does
not count; a ratio is the median of the repetitions' own. On a shared machine only the ratios mean something, and on
scenes that fit in GDAL's block cache not all of those.
"""

import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import tyro

import bench_inputs
import bench_reads
import bench_s3
import patchstore
from bench_inputs import SIZE, Form
from bench_race import Row, Way, Work, race, show, versus, write_figures
from bench_reads import BATCH, Place, Read

T = TypeVar("T")
RowName = Literal["warm", "cold", "order", "ingest", "s3"]
FORMS: dict[RowName, tuple[Form, ...]] = {"warm": ("tiled", "png", "raw", "store"), "cold": ("png", "store"),
                                          "order": ("store",), "ingest": ("striped",), "s3": ()}
"""What each row reads."""
PATCHES = 1024
"""Read in a repetition, where there are so many."""
STRIDE, SHARD, GROUP = 128, 2048, 8
"""Of the row `order`, in pixels; shards in a group."""
CACHE_BYTES = 256 << 20
"""Of the row `order`: more than 1.5 x GROUP x 16.8 MB (a decoded shard), below which the gain is gone."""
S3_SIDE = 4096
"""Largest side of the scene on S3."""
VERSIONS = ("tensorstore", "zarr", "zarrs", "rasterio", "opencv-python-headless", "torchgeo", "moto")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure, and on what."""

    rows: tuple[RowName, ...] = ("warm", "cold", "order", "ingest", "s3")
    """Parts of the table."""
    scenes: int = 4
    """How many scenes."""
    rows_px: int = 9000
    """Height of a scene."""
    cols_px: int = 9500
    """Width of a scene."""
    repetitions: int = 5
    """How often each way is measured."""
    keep: Path | None = None
    """Folder for what is prepared, used again the next time; else it is removed at the end."""
    json: Path | None = None
    """File for the figures."""

    def __post_init__(self) -> None:
        if min(self.scenes, self.repetitions) < 1 or min(self.rows_px, self.cols_px) < 4 * SIZE:
            raise SystemExit(f"need 1 or more scenes and repetitions, and scenes of {4 * SIZE} px or more")


class Bench:
    """Each public method measures one part of the table."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.shape = (settings.rows_px, settings.cols_px)
        self.repetitions = settings.repetitions
        self.parent = folder
        self.folder = folder / f"{settings.rows_px}x{settings.cols_px}"
        forms = {form for row in settings.rows for form in FORMS[row]}
        self.names = bench_inputs.prepare(self.folder, settings.scenes, self.shape, forms)
        self.notes: list[str] = []

    def warm(self) -> Iterator[Row]:
        """Random aligned patches, the store as `patchstore.open` gives it: with 256 MB of cache, as rasterio has at
        most. TorchGeo's sampler draws at any pixel; a row of its own has the store at any pixel too."""
        self._warm_up("warm")
        reads = {"store": bench_reads.by_store(self.folder, cache_bytes=CACHE_BYTES),
                 "uncached": bench_reads.by_store(self.folder), "png": bench_reads.by_png(self.folder),
                 "rasterio": self._tuned_rasterio(), "memmap": bench_reads.by_memmap(self.folder, self.names),
                 "zarr": bench_reads.by_zarr(self.folder, "zarr.core.codec_pipeline.BatchedCodecPipeline"),
                 "zarrs": bench_reads.by_zarr(self.folder, "zarrs.ZarrsCodecPipeline")}
        bench_reads.check(reads, self._aligned(0)[:8])
        ways: dict[str, Way] = {name: partial(self._read_aligned, read) for name, read in reads.items()}
        ways["anywhere"] = lambda repetition: _reading(reads["store"], self._anywhere(repetition))
        torchgeo = bench_reads.by_torchgeo(self.folder, self.names)
        few = len(self._aligned(0)) // 8  # it is slow
        ways["torchgeo"] = lambda _: (few, partial(torchgeo, few))
        rates = race(ways, self.repetitions)
        for name, against, wanted in (("png", "PNG patches, OpenCV", 5),
                                      ("rasterio", "rasterio, tiled zstd GeoTIFF", 2),
                                      ("zarr", "zarr-python, same store", 6), ("memmap", "raw memmap (limit)", 0.2),
                                      ("torchgeo", "TorchGeo RandomGeoSampler, tiled zstd GeoTIFF", 20),
                                      ("zarrs", "zarr-python with zarrs, same store", None),
                                      ("uncached", "the store without a cache", None)):
            yield versus("256 px, aligned, warm", against, wanted, rates["store"], rates[name])
        yield versus("256 px, any pixel, warm", "TorchGeo RandomGeoSampler, tiled zstd GeoTIFF", None,
                     rates["anywhere"], rates["torchgeo"])

    def cold(self) -> Iterator[Row]:
        """Random aligned patches that the page cache has not. It has the inodes, which is to PNG's favour."""
        def reading(read: Read, files: str, repetition: int) -> Work:
            bench_reads.drop_pages(self.folder / files)
            return self._read_aligned(read, repetition)

        rates = race({"store": partial(reading, bench_reads.by_store(self.folder), "store.zarr"),
                      "png": partial(reading, bench_reads.by_png(self.folder), "png")}, self.repetitions)
        yield versus("256 px, aligned, cold", "PNG patches, OpenCV, cold", 3, rates["store"], rates["png"])

    def order(self) -> Iterator[Row]:
        """Windows that share chunks: by groups of shards with a cache, and fully at random without one."""
        self._warm_up("order")
        for size in (256, 512):
            def by_groups(repetition: int, size: int = size) -> Work:
                read = bench_reads.by_store(self.folder, size, CACHE_BYTES)  # anew, so that its cache is empty
                return _reading(read, self._of_group(repetition, size))

            def at_random(repetition: int, size: int = size) -> Work:
                count = len(self._of_group(repetition, size))
                places = _draw(_grid(self.names, self.shape, size, STRIDE), count, repetition)
                return _reading(bench_reads.by_store(self.folder, size), places)

            rates = race({"groups": by_groups, "random": at_random}, self.repetitions)
            yield versus(f"{size} px, stride {STRIDE}, within {GROUP} shards, {CACHE_BYTES >> 20} MB of cache",
                         "random, no cache", 4, rates["groups"], rates["random"])

    def ingest(self) -> Iterator[Row]:
        """A scene of uncompressed striped GeoTIFFs to a store, to PNG patches and to COG."""
        makers = {"store": lambda out, name, *sources: bench_inputs.ingest(str(out / "store.zarr"), name, *sources),
                  "png": lambda out, _, *sources: bench_inputs.cut_patches(out, *sources),
                  "cog": lambda out, _, *sources: bench_inputs.copy_cog(out, *sources)}

        def writing(kind: str, repetition: int) -> Work:
            name, out = self.names[repetition % len(self.names)], self.folder / "written" / kind
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            bench_reads.read_pages(self.folder / "striped" / name)
            os.sync()  # else one way waits for what another wrote
            sources = bench_inputs.files(self.folder, "striped", name)
            return 4 * self.shape[0] * self.shape[1] / 1e6, partial(makers[kind], out, name, *sources)

        rates = race({kind: partial(writing, kind) for kind in makers}, self.repetitions)
        files = {kind: bench_inputs.count_files(self.folder / "written" / kind) for kind in makers}
        shutil.rmtree(self.folder / "written")
        for kind, against in (("png", "cutting 256 px PNGs, OpenCV"), ("cog", "GDAL to COG, deflate")):
            yield versus("ingest, levels and counts included", against, 2, rates["store"], rates[kind], "MB/s")
        yield Row(what="files of a scene, how many fewer", against="256 px PNGs", wanted=25, unit="files",
                  ratios=(files["png"] / files["store"],), ours=files["store"], theirs=files["png"])

    def s3(self) -> Iterator[Row]:
        """A batch at once from S3 with latency, and one window after another: arrays open, no cache."""
        side = min(S3_SIDE, *self.shape)
        folder = self.parent / f"{side}x{side}"
        name, = bench_inputs.prepare(folder, 1, (side, side), ("striped",))
        grid = _grid([name], (side, side), SIZE, SIZE)
        uri = f"s3://{bench_s3.BUCKET}/bench.zarr"
        with bench_s3.serve() as server:
            bench_inputs.ingest(uri, name, *bench_inputs.files(folder, "striped", name))
            store = patchstore.open(uri, cache_bytes=0)

            def read(kind: str, repetition: int) -> Work:
                places = _draw(grid, BATCH, repetition)
                batches = [places] if kind == "batch" else [[place] for place in places]
                return BATCH, lambda: [bench_reads.read_windows(store, batch, SIZE) for batch in batches]

            def log(repetition: int, latency_s: float) -> list[bench_s3.Served]:
                server.log(latency_s)
                read("batch", repetition)[1]()
                return server.log()

            began = time.perf_counter()
            requests = len(log(-2, bench_s3.LATENCY_S))
            rate = BATCH / (time.perf_counter() - began)
            self.notes.append(f"S3, first batch, which opens the arrays: {rate:.0f} patches/s, {requests} requests")
            rates = race({kind: partial(read, kind) for kind in ("batch", "single")}, self.repetitions)
            logs = [log(repetition, bench_s3.COUNTING_S) for repetition in range(self.repetitions)]
        yield versus(f"{BATCH} windows at once from S3, {1000 * bench_s3.LATENCY_S:.0f} ms added",
                     "one window after another", 5, rates["batch"], rates["single"])
        yield Row(what="requests of that batch", against="", wanted=None, ratios=tuple(map(len, logs)))
        yield Row(what="requests of that batch in a row", against="", wanted=2, at_most=True,
                  ratios=tuple(map(bench_s3.depth, logs)))

    def _warm_up(self, row: RowName) -> None:
        """Read what a row reads into the page cache."""
        for form in FORMS[row]:
            bench_reads.read_pages(self.folder / ("store.zarr" if form == "store" else form))

    def _aligned(self, repetition: int) -> list[Place]:
        """Random patches of a repetition, none twice."""
        return _draw(_grid(self.names, self.shape, SIZE, SIZE), PATCHES, repetition)

    def _tuned_rasterio(self) -> Read:
        """Rasterio with the block cache that serves these scenes fastest."""
        reads = {str(mb): bench_reads.by_rasterio(self.folder, self.names, mb) for mb in bench_reads.CACHES_MB}
        rates = race({mb: partial(self._read_aligned, read) for mb, read in reads.items()}, 3)
        best = max(rates, key=lambda mb: statistics.median(rates[mb]))
        self.notes.append(f"rasterio's block cache: {best} MB, the best of {', '.join(reads)}")
        return reads[best]

    def _read_aligned(self, read: Read, repetition: int) -> Work:
        return _reading(read, self._aligned(repetition))

    def _anywhere(self, repetition: int) -> list[Place]:
        """As many random windows at any pixel."""
        draw = random.Random(repetition)
        return [Place(draw.choice(self.names), *(draw.randrange(side - SIZE + 1) for side in self.shape))
                for _ in self._aligned(repetition)]

    def _of_group(self, repetition: int, size: int) -> list[Place]:
        """The windows that begin in a random group of shards, shuffled."""
        shards: dict[tuple[str, int, int], list[Place]] = {}
        for place in _grid(self.names, self.shape, size, STRIDE):
            shards.setdefault((place.scene, place.row // SHARD, place.col // SHARD), []).append(place)
        places = [place for shard in _draw(list(shards), GROUP, repetition) for place in shards[shard]]
        return _draw(places, len(places), repetition)


def _grid(names: Sequence[str], shape: tuple[int, int], size: int, stride: int) -> list[Place]:
    """All windows of a stride that lie wholly in their scene."""
    return [Place(name, row, col) for name in names for row in range(0, shape[0] - size + 1, stride)
            for col in range(0, shape[1] - size + 1, stride)]


def _draw(items: Sequence[T], count: int, repetition: int) -> list[T]:
    """So many of them at random, or all, none twice: the same for every way."""
    return random.Random(repetition).sample(items, min(count, len(items)))


def _reading(read: Read, places: Sequence[Place]) -> Work:
    return len(places), partial(read, places)


def main() -> None:
    """Measure, print, and write the figures down."""
    settings = tyro.cli(Settings, description=__doc__)
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(settings, settings.keep or Path(temporary))
        parts = {"warm": bench.warm, "cold": bench.cold, "order": bench.order, "ingest": bench.ingest, "s3": bench.s3}
        rows = [row for name in settings.rows for row in parts[name]()]
    show(f"{settings.scenes} scenes of {settings.rows_px} x {settings.cols_px} px, medians of {settings.repetitions} "
         "interleaved repetitions", rows, bench.notes)
    if settings.json is not None:
        write_figures(settings.json, asdict(settings), rows, bench.notes, VERSIONS)


if __name__ == "__main__":
    main()
