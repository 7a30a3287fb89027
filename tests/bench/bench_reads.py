"""Ways to read the same patches, image and mask, for bench_storage.py; and what the page cache holds.

Each way opens its files once. Ours and zarr-python read one store, without a cache of chunks unless said.
"""

import ctypes
import mmap
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import rasterio
import zarr
from numpy.typing import NDArray

import bench_inputs
import patchstore
from bench_inputs import SIZE
from patchstore.format.catalog import array_path

Array = NDArray[Any]
BATCH = 32
CACHES_MB = (16, 64, 256)
"""Sizes of GDAL's block cache to choose from: none holds the scenes, as none would hold real ones."""


class Place(NamedTuple):
    """A window of level 0, by its first pixel."""

    scene: str
    row: int
    col: int


Patch = tuple[Array, Array]
"""Image (3, size, size), labels (size, size)."""
Read = Callable[[Sequence[Place]], Patch]
"""Reads the patches of one or more places; returns the last."""


def by_store(folder: Path, size: int = SIZE, cache_bytes: int = 0) -> Read:
    """Batches at once through patchstore; its arrays are open."""
    store = patchstore.open(bench_inputs.store_uri(folder), cache_bytes)
    read_windows(store, [Place(name, 0, 0) for name in store.scenes], size)

    def read(places: Sequence[Place]) -> Patch:
        for first in range(0, len(places), BATCH):
            patch = read_windows(store, places[first:first + BATCH], size)
        return patch

    return read


def read_windows(store: patchstore.Store, places: Sequence[Place], size: int) -> Patch:
    """One read of patchstore; returns the last patch."""
    images_NBHW, labels_NHW = store.read([patchstore.Window(*place, size) for place in places], size)
    return images_NBHW[-1], labels_NHW[-1]


def by_png(folder: Path) -> Read:
    """Files of a patch each, by OpenCV; places must be those that were cut."""
    def read(places: Sequence[Place]) -> Patch:
        for scene, row, col in places:
            stem = f"{folder}/png/{scene}/{row}_{col}"
            image_HWB = cv2.imread(f"{stem}_image.png", cv2.IMREAD_COLOR)
            mask_HW = cv2.imread(f"{stem}_mask.png", cv2.IMREAD_UNCHANGED)
            if image_HWB is None or mask_HW is None:  # which takes OpenCV no time
                raise SystemExit(f"{stem}_*.png: cannot be read")
            patch = image_HWB[..., ::-1].transpose(2, 0, 1), mask_HW
        return patch

    return read


def by_rasterio(folder: Path, names: Sequence[str], cache_mb: int) -> Read:
    """Windows of tiled GeoTIFFs that stay open."""
    rasters = {name: [rasterio.open(path) for path in bench_inputs.files(folder, "tiled", name)] for name in names}

    def read(places: Sequence[Place]) -> Patch:
        with rasterio.Env(GDAL_CACHEMAX=cache_mb << 20):  # rasterio takes an integer for bytes
            for scene, row, col in places:
                window = ((row, row + SIZE), (col, col + SIZE))
                image, mask = rasters[scene]
                patch = image.read(window=window), mask.read(1, window=window)
        return patch

    return read


def by_zarr(folder: Path, pipeline: str) -> Read:
    """One patch after another through zarr-python, with a codec pipeline."""
    uri = bench_inputs.store_uri(folder)
    with zarr.config.set({"codec_pipeline.path": pipeline}):
        group = zarr.open_group(uri, mode="r")
        arrays = {name: [group[array_path(scene, part, 0)] for part in ("image", "mask")]
                  for name, scene in patchstore.open(uri).scenes.items()}
    return _by_slices(arrays)


def by_memmap(folder: Path, names: Sequence[str]) -> Read:
    """Copies of windows of the raw pixels."""
    arrays = {name: [np.load(folder / "raw" / name / f"{part}.npy", mmap_mode="r") for part in ("image", "mask")]
              for name in names}
    return _by_slices(arrays)


def by_torchgeo(folder: Path, names: Sequence[str]) -> Callable[[int], None]:
    """A number of patches where TorchGeo's sampler draws them, as its tutorial on custom raster datasets has it.

    Tensors of float32 and int64, and GDAL's own block cache (a twentieth of the memory), are its defaults.
    """
    from torch.utils.data import DataLoader
    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import RandomGeoSampler

    class Images(RasterDataset):
        is_image = True

    class Masks(RasterDataset):
        is_image = False

    images, masks = zip(*(bench_inputs.files(folder, "tiled", name) for name in names))
    dataset = Images(list(images)) & Masks(list(masks))

    def read(count: int) -> None:
        sampler = RandomGeoSampler(dataset, size=SIZE, length=count)
        for batch in DataLoader(dataset, batch_size=BATCH, sampler=sampler, num_workers=0, collate_fn=stack_samples):
            if batch["image"].shape[1:] != (3, SIZE, SIZE) or batch["mask"].shape[1:] != (SIZE, SIZE):
                raise SystemExit(f"TorchGeo gave {batch['image'].shape} and {batch['mask'].shape}")

    return read


def check(reads: Mapping[str, Read], places: Sequence[Place]) -> None:
    """Raises SystemExit when two ways read different pixels or labels."""
    for place in places:
        patches = {name: read([place]) for name, read in reads.items()}
        expected = next(iter(patches.values()))
        for name, patch in patches.items():
            if not all(map(np.array_equal, patch, expected)):
                raise SystemExit(f"{name} reads something else than {next(iter(patches))} does at {place}")


def read_pages(folder: Path) -> None:
    """Read all files once, so that the page cache has them."""
    for path in _files(folder):
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass


def drop_pages(folder: Path) -> None:
    """Put all files out of the page cache, which needs no root; it is looked at whether they are.

    What lies below this machine may still have them. Raises SystemExit when more than a hundredth stays.
    """
    os.sync()  # a page that is not written yet stays
    for path in _files(folder):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    pages = [page for path in _files(folder) for page in _resident(path)]
    if sum(pages) > len(pages) / 100:
        raise SystemExit(f"{folder}: {sum(pages)} of {len(pages)} pages stay in the page cache; no cold reads here")


def _by_slices(arrays: Mapping[str, Sequence[Any]]) -> Read:
    """Copies of windows of arrays, image and mask by scene."""
    def read(places: Sequence[Place]) -> Patch:
        for scene, row, col in places:
            image, mask = arrays[scene]
            patch = (np.array(image[:, row:row + SIZE, col:col + SIZE]), np.array(mask[row:row + SIZE, col:col + SIZE]))
        return patch

    return read


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def _resident(path: Path) -> list[int]:
    """1 for each page of a file that the page cache has, else 0 (mincore(2))."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        pages = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
        first = ctypes.c_char.from_buffer(mapped)
        failed = ctypes.CDLL(None, use_errno=True).mincore(
            ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(len(mapped)), pages)
        del first  # else the file cannot be unmapped
        if failed:
            raise OSError(ctypes.get_errno(), "mincore", str(path))
        return [page & 1 for page in pages]
