"""The same generated scenes in every form that the benchmarks compare. Each is made once and kept.

    FOLDER/tiled/SCENE/{image,mask}.tif     GeoTIFF, tiles of 256, zstd 1
    FOLDER/striped/SCENE/{image,mask}.tif   GeoTIFF, uncompressed, striped, bands interleaved: what an ingest reads
    FOLDER/png/SCENE/ROW_COL_{image,mask}.png    patches of 256 px, those at the far edges smaller
    FOLDER/raw/SCENE/{image,mask}.npy       pixels, band first (a copy of a window: 1.2 times as fast as interleaved)
    FOLDER/store.zarr                       the store

All masks hold class indices without a palette, which OpenCV would turn into colours.
"""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import rasterio
import rasterio.shutil

import patchstore
from patchstore import ClassInfo, SceneSource
from patchstore.format.schema import colour
from patchstore.testing import scenes as testing

SIZE = 256
Form = Literal["tiled", "striped", "png", "raw", "store"]


def prepare(folder: Path, scenes: int, shape: tuple[int, int], forms: Iterable[Form]) -> list[str]:
    """Make what is not there yet of some forms of some scenes; returns the scenes' names."""
    wanted = {"tiled", *forms} | ({"striped"} if {"png", "store"} & set(forms) else set())
    names = [f"scene_{index}" for index in range(scenes)]
    for index, name in enumerate(names):
        _once(folder / "tiled" / name, _tiled, index, shape)
        if "striped" in wanted:
            _once(folder / "striped" / name, _striped, *files(folder, "tiled", name))
        if "png" in wanted:
            _once(folder / "png" / name, cut_patches, *files(folder, "striped", name))
        if "raw" in wanted:
            _once(folder / "raw" / name, _raw, *files(folder, "tiled", name))
        if "store" in wanted:
            ingest(store_uri(folder), name, *files(folder, "striped", name))
    return names


def files(folder: Path, form: Literal["tiled", "striped"], name: str) -> tuple[Path, Path]:
    """A scene's image and mask as GeoTIFFs."""
    return folder / form / name / "image.tif", folder / form / name / "mask.tif"


def store_uri(folder: Path) -> str:
    """Where the store is."""
    return str(folder / "store.zarr")


def ingest(uri: str, name: str, image: Path, mask: Path) -> None:
    """Ingest a scene into a store, which is created where it is not there."""
    classes = [ClassInfo(text, colour(code)) for text, code in (pair.split("=") for pair in testing.CLASSES)]
    uri = patchstore.create(uri, dtype="uint8", bands=3, classes=classes)
    patchstore.ingest(uri, SceneSource(name=name, image=image, mask=mask, group=name))


def cut_patches(out: Path, image: Path, mask: Path) -> None:
    """Cut a scene into PNG patches with OpenCV and its own compression; no pixel is left out."""
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # it warns of each tag of a GeoTIFF
    image_HWB, mask_HW = cv2.imread(str(image), cv2.IMREAD_COLOR), cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
    if image_HWB is None or mask_HW is None:
        raise SystemExit(f"{image} or {mask}: OpenCV cannot read it")
    for row in range(0, len(mask_HW), SIZE):
        for col in range(0, mask_HW.shape[1], SIZE):
            here = np.s_[row:row + SIZE, col:col + SIZE]
            cv2.imwrite(str(out / f"{row}_{col}_image.png"), image_HWB[here])
            cv2.imwrite(str(out / f"{row}_{col}_mask.png"), mask_HW[here])


def copy_cog(out: Path, image: Path, mask: Path) -> None:
    """Copy a scene to Cloud-Optimised GeoTIFFs, deflate, with the overviews that GDAL adds of its own accord."""
    for path in (image, mask):
        rasterio.shutil.copy(path, out / path.name, driver="COG", COMPRESS="DEFLATE")


def count_files(folder: Path) -> int:
    """Files in a folder and all below it."""
    return sum(path.is_file() for path in folder.rglob("*"))


def _once(folder: Path, make: Callable[..., None], *arguments: object) -> None:
    """Fill a folder, make(folder, *arguments), unless it is there; it gets its name when it is whole."""
    if folder.exists():
        return
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    make(part, *arguments)
    part.rename(folder)


def _tiled(out: Path, index: int, shape: tuple[int, int]) -> None:
    """A generated scene as rasterio reads it fastest: of bands interleaved or not, predictor or not, within a tenth."""
    pixel_m = 0.25
    east = testing.ORIGIN_M[0] + index * (shape[1] + 4096) * pixel_m  # apart, or TorchGeo would merge neighbours
    made = out / "made_image.tif", out / "made_mask.tif"
    testing.write_scene(*made, seed=0, shape=shape, origin_m=(east, testing.ORIGIN_M[1]), pixel_m=pixel_m)
    for source, name in zip(made, ("image.tif", "mask.tif")):
        _copy(source, out / name, interleave="band", tiled=True, blockxsize=SIZE, blockysize=SIZE, compress="zstd",
              zstd_level=1)
        source.unlink()


def _striped(out: Path, *sources: Path) -> None:
    for source in sources:
        _copy(source, out / source.name, interleave="pixel", tiled=False)


def _copy(source: Path, target: Path, **profile: object) -> None:
    """Copy a raster, but not its palette."""
    with rasterio.open(source) as old:
        kept = {name: old.profile[name] for name in ("dtype", "height", "width", "count", "crs", "transform")}
        with rasterio.open(target, "w", driver="GTiff", **kept, **profile) as new:
            new.write(old.read())


def _raw(out: Path, image: Path, mask: Path) -> None:
    with rasterio.open(image) as dataset:
        np.save(out / "image.npy", dataset.read())
    with rasterio.open(mask) as dataset:
        np.save(out / "mask.npy", dataset.read(1))
