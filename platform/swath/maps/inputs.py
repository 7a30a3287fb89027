"""What is mapped: files that were never ingested and scenes of a store, alike; and the area of interest in each."""

import difflib
import glob
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

import patchstore
from patchstore import RasterFile, SourceError, StoreError
from patchstore.format import META, Affine, Folder, digest, load_settings, normal, pixel_m2
from patchstore.sources import SIDECARS, Grid, VectorFile, burn, content_files, open_dataset, rasters, reading
from swath.errors import DataError
from swath.geometry import Range
from swath.prediction.readers import StoreReader


@dataclass(frozen=True, kw_only=True, eq=False)
class Input:
    """A raster to map; a `swath.pixels.Reader`. It pickles as where it lies."""

    name: str
    """Stem of what is written for it."""
    origin: str
    """Where it came from, for messages."""
    fingerprint: str
    """Another one means other pixels, or another place: what was predicted before is not to be gone on with. Of a
    store's scene its own, by content. Of a file its path, header, and size and time of change of the files that hold
    its pixels, as reading all of a file for its digest may take as long as predicting it; a copy counts as another, and
    a file that was changed without either is taken for the same."""
    shape: tuple[int, int]
    """Rows and columns."""
    crs: str | None
    """Coordinate reference system as WKT."""
    transform: Affine | None
    """a, b, c, d, e, f: x = a col + b row + c, y = d col + e row + f, of pixel corners."""
    has_valid: bool
    """Whether some pixels may not be real."""
    source: RasterFile | StoreReader
    """What reads it."""
    files: tuple[Path, ...] = ()
    """The files that hold its pixels, resolved; none for a store's scene."""

    @property
    def pixel_m2(self) -> float | None:
        """Ground area of a pixel in square metres; None where it is not known."""
        return pixel_m2(self.crs, self.transform)

    @property
    def bands(self) -> int:
        """Number of bands."""
        return self.source.bands

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels."""
        return self.source.dtype

    def read(self, windows: Sequence[tuple[int, int, int]], size: int, /) -> NDArray[Any]:
        """images_NBHW of `size` pixels a side, for windows (row, col, side) in full-resolution pixels.

        Raises SourceError or ReadError when they cannot be read.
        """
        return self.source.read(windows, size)

    def valid(self, rows: Range, cols: Range) -> NDArray[np.bool_] | None:
        """Which pixels of a stretch are real, (rows, cols); None where all of the input's are. Raises as `read`."""
        return self.source.valid(rows, cols) if self.has_valid else None


def find(wanted: str, *, bands: int, dtype: np.dtype[Any]) -> list[Input]:
    """The inputs that a text names, by name: a raster; a folder of rasters, without those below it; a glob, with ** for
    any folders; a store, or a scene of one as STORE/SCENE. They have the bands and the dtype of a model.

    Headers are read, pixels are not. Raises DataError when there is nothing, with all inputs that cannot be read, have
    other bands or dtype, or would be written under one name; StoreError for a store that cannot be read.
    """
    place = _in_store(wanted)
    if place is not None:
        return _scenes(*place, bands, dtype)
    paths = _paths(wanted)
    found: list[Input] = []
    refused: list[str] = []
    for path in paths:
        try:
            found.append(_file(path, bands, dtype))
        except SourceError as error:
            refused.append(str(error))
    times = Counter(path.stem for path in paths)
    refused += [f"{', '.join(str(path) for path in paths if path.stem == stem)}: all would be written as {stem}; "
                "rename them, or map them one after another into different folders"
                for stem, count in sorted(times.items()) if count > 1]
    if refused:
        more = [f"{len(refused)} problems with the {len(paths)} files of {wanted}:"] if len(refused) > 1 else []
        raise DataError("\n".join([*more, *refused]))
    return sorted(found, key=lambda each: each.name)


def _in_store(wanted: str) -> tuple[str, str] | None:
    """(store, scene or nothing for all) where a text names such; None where it names files."""
    if "://" in wanted:
        uri, _, scene = wanted.rstrip("/").rpartition("/")
        for place in ((wanted, ""), (uri, scene)):
            if load_settings(Folder(normal(place[0]))) is not None:
                return place
        raise DataError(f"{wanted}: there is no store, nor a scene of one; check the address, or ingest scenes first")
    path = Path(wanted)
    if path.is_file():
        return None
    if (path.parent / META).is_file():  # a scene's folder has such a file as well
        return str(path.parent), path.name
    return (wanted, "") if (path / META).is_file() else None


def _scenes(uri: str, scene: str, bands: int, dtype: np.dtype[Any]) -> list[Input]:
    store = patchstore.open(uri)
    if (store.bands, store.dtype) != (bands, dtype):
        raise DataError(f"{uri}: has {store.bands} bands of {store.dtype}, but {bands} of {dtype} are needed")
    names = [scene] if scene else sorted(store.scenes)
    if not names:
        raise StoreError(f"{uri}: has no scenes; ingest some first")
    if scene and scene not in store.scenes:
        near = difflib.get_close_matches(scene, store.scenes, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {len(store.scenes)} scenes of other names"
        raise DataError(f"{uri}: has no scene {scene!r}; {hint}")
    return [_scene(store, name) for name in names]


def _scene(store: patchstore.Store, name: str) -> Input:
    scene = store.scenes[name]
    return Input(name=name, origin=f"{store.uri}: scene {name}", fingerprint=scene.fingerprint, shape=scene.shape,
                 crs=scene.crs, transform=scene.transform, has_valid=scene.has_valid, source=StoreReader(store, name))


def _paths(wanted: str) -> list[Path]:
    """The files that a text names. Raises DataError where there are none."""
    path = Path(wanted)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = rasters(path)
        if not found:
            raise DataError(f"{wanted}: has no rasters (folders below it are not looked into: '{wanted}/**/*.tif' "
                            "names theirs)")
        return found
    if not glob.has_magic(wanted):
        raise DataError(f"{wanted}: no such file or folder; give a raster, a folder of them or a quoted glob, a store, "
                        "or STORE/SCENE")
    beside = (*SIDECARS, ".msk")
    matched = (Path(text) for text in sorted(glob.glob(wanted, recursive=True)))
    found = [path for path in matched if path.is_file() and not path.name.lower().endswith(beside)]
    if not found:
        raise DataError(f"{wanted}: finds no file")
    return found


def _file(path: Path, bands: int, dtype: np.dtype[Any]) -> Input:
    source = RasterFile(path.absolute(), bands=bands, dtype=dtype)  # a task may run with another working directory
    with open_dataset(path) as dataset, reading(path):
        header = [str(path.resolve()), str((source.shape, bands, dtype, source.crs, source.transform)),
                  str(dataset.nodatavals)]
        files = content_files(dataset)
        states = [(file, file.stat()) for file in files]
    return Input(name=path.stem, origin=str(path), shape=source.shape, crs=source.crs, transform=source.transform,
                 has_valid=source.has_valid, source=source, files=tuple(file.resolve() for file in (path, *files)),
                 fingerprint=digest([*header, *(f"{file} {s.st_size} {s.st_mtime_ns}" for file, s in states)]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Area:
    """What of an input lies in some polygons: pixels whose centres they hold."""

    region: tuple[Range, Range]
    """Rows and columns of the input outside which no polygon reaches."""
    polygons_N: NDArray[Any]
    """In pixels of the input."""
    width: int
    """Columns of the input."""

    def inside(self, rows: Range, cols: Range) -> NDArray[np.bool_]:
        """Which pixels of a stretch of the input lie in a polygon: (rows, cols)."""
        bounds_N4 = shapely.bounds(self.polygons_N)
        near_N = (bounds_N4[:, 1] < rows[1]) & (bounds_N4[:, 3] > rows[0])
        codes_HW = burn(self.polygons_N[near_N], np.zeros(int(near_N.sum()), np.int64), rows, self.width)
        inside_HW: NDArray[np.bool_] = codes_HW[:, slice(*cols)] >= 0
        return inside_HW


def area(path: Path, of: Input) -> Area | None:
    """The polygons of a vector file in an input's pixels; None where none of them touches it.

    All that do are held. Raises DataError when the file has no polygons or the input no place on the ground,
    SourceError when the file cannot be read, names no CRS, or holds what is no polygon.
    """
    if of.crs is None or of.transform is None:
        raise DataError(f"{of.origin}: has no {'CRS' if of.crs is None else 'transform'}, so the area {path} has no "
                        "place in it; georeference it (gdal_edit.py -a_srs), or map it without an area")
    file = VectorFile(Path(path), Grid.described(of.origin, of.shape, of.crs, of.transform))
    if file.empty:
        raise DataError(f"{path}: has no polygons, so nothing would be mapped; draw some, or map without an area")
    polygons_N, _ = file.read((0, of.shape[0]))
    height, width = of.shape
    try:
        there_N = shapely.clip_by_rect(polygons_N, 0, 0, width, height)
    except shapely.errors.ShapelyError as error:
        raise DataError(f"{path}: a polygon cannot be cut to {of.origin} ({error}); mend it (ogr2ogr -makevalid)"
                        ) from None
    touching_N = shapely.area(there_N) > 0
    if not touching_N.any():
        return None
    left, top, right, bottom = shapely.total_bounds(there_N[touching_N])
    return Area(region=((int(np.floor(top)), int(np.ceil(bottom))), (int(np.floor(left)), int(np.ceil(right)))),
                polygons_N=polygons_N[touching_N], width=width)
