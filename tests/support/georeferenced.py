"""A small scene with a place on the ground: its pixels, labels and polygons, and how they are read and ingested."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyogrio
import shapely
from rasterio.transform import Affine

import patchstore
from patchstore import ClassInfo, MaskCoding, SceneReader, SceneSource

CLASSES = (ClassInfo("water", (0, 0, 255)), ClassInfo("land", (200, 100, 0)), ClassInfo("road", (9, 9, 9)))
INDEX = MaskCoding(classes=CLASSES)
CRS = "EPSG:32634"
PLACE = Affine(0.5, 0, 500_000, 0, -0.5, 5_800_000)
HW = (70, 90)
GEO = {"crs": CRS, "transform": PLACE}
Region = tuple[np.ndarray, np.ndarray, np.ndarray]


def write_polygons(path: Path, shapes: Sequence[shapely.Geometry], crs: str | None = CRS, *, kind: str = "Unknown",
                   **fields: Sequence[object]) -> Path:
    pyogrio.raw.write(path, shapely.to_wkb(np.array(shapes, object)), [np.array(v) for v in fields.values()],
                      list(fields), geometry_type=kind, crs=crs)
    return path


def at(*pixels: tuple[float, float]) -> list[tuple[float, float]]:
    """Coordinates of (row, col) places."""
    return [PLACE @ (col, row) for row, col in pixels]


def square(row: float, col: float, height: float, width: float) -> shapely.Polygon:
    return shapely.Polygon(at((row, col), (row, col + width), (row + height, col + width), (row + height, col)))


def pixels_of(shape: tuple[int, ...] = (3, *HW), dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        return rng.normal(size=shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(max(info.min, -3000), min(info.max, 60000) + 1, shape).astype(dtype)


def mask_of(shape: tuple[int, int] = HW, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 3, tuple(-(-n // 5) for n in shape), np.uint8)
    return np.ascontiguousarray(coarse.repeat(5, 0).repeat(5, 1)[:shape[0], :shape[1]])


def scene(image: Path, mask: Path | None = None, **more: object) -> SceneSource:
    return SceneSource(name="a", image=image, mask=mask, group="a", **more)  # type: ignore[arg-type]


def labels(source: SceneSource, coding: MaskCoding = INDEX, cut: int = 10_000) -> tuple[np.ndarray, dict[str, int]]:
    """All labels of a scene, read `cut` rows at once, and what is ignored by value."""
    with SceneReader(source, coding, 255) as reader:
        bands, ignored = [], dict[str, int]()
        for row in range(0, reader.info.shape[0], cut):
            band, counts = reader.labels((row, min(row + cut, reader.info.shape[0])))
            assert band is not None
            bands.append(band)
            ignored = {key: ignored.get(key, 0) + counts.get(key, 0) for key in ignored | counts}
    return np.concatenate(bands), ignored


def ingest(folder: Path, source: SceneSource, coding: MaskCoding = INDEX) -> Region:
    """(image, mask, valid) of a scene after an ingest into a store of its kind."""
    info = patchstore.inspect(source, coding)
    uri = patchstore.create(folder / f"{len(list(folder.glob('*.zarr')))}.zarr", dtype=info.dtype, bands=info.bands,
                            classes=CLASSES, chunk=64, shard=64)
    patchstore.ingest(uri, source, coding)
    store = patchstore.open(uri)
    rows, cols = ((0, n) for n in store.scenes["a"].shape)
    return tuple(store.region("a", name, rows, cols) for name in ("image", "mask", "valid"))  # type: ignore[return-value, arg-type]
