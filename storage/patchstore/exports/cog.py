"""Cloud-Optimised GeoTIFFs from rows as they come, with CRS, validity, colours and overviews.

A file appears under its name only when it is whole and was read back. Memory is that of a strip of tiles and of GDAL's
bounded cache; disk, for a moment, `room_needed`.
Legend: B bands; H, W rows and columns of the file; h rows of a piece or strip.
"""

import json
import math
import os
import shutil
import tempfile
import threading
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # GDAL's own errors, which are no RasterioError and have no public name
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile

from patchstore.errors import OutputError
from patchstore.sources.raster import bound_cache

TILE = 512
"""Side of a tile in pixels. Strips of whole tiles also go past GDAL's block cache."""

_HEADERS = 1 << 16
"""Bytes that colours, tags and names may take."""
Array = NDArray[Any]
Colour = tuple[int, int, int]
_opening = threading.Lock()  # warnings.catch_warnings changes what all threads see


@dataclass(frozen=True, kw_only=True)
class CogHeader:
    """What a file says of its pixels."""

    shape: tuple[int, int]
    """Rows and columns."""
    bands: int
    dtype: str
    crs: str | None
    """Coordinate reference system as WKT."""
    transform: tuple[float, ...] | None
    """a, b, c, d, e, f: x = a col + b row + c, y = d col + e row + f, of pixel corners."""
    resampling: Literal["average", "mode", "nearest"] = "average"
    """How overviews are made: `average` for imagery, `mode` (the most frequent value) for classes."""
    masked: bool = False
    """Whether the pieces say which pixels are real; the file then has an internal mask."""
    nodata: int | None = None
    """Value of pixels that are not real, where a value says it."""
    colours: Sequence[Colour] = ()
    """Of the values 0, 1, …, in one band of uint8; nodata is transparent."""
    descriptions: Sequence[str] = ()
    """A name for each band."""
    scale: float | None = None
    """What a pixel times this is, on every band, is its value. Such bands are quantities, none a colour."""
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.colours and (self.bands, self.dtype) != (1, "uint8"):
            raise ValueError(f"colours are for one band of uint8, got {self.bands} of {self.dtype}")
        if len(self.descriptions) not in (0, self.bands):
            raise ValueError(f"descriptions must be none or one for each of {self.bands} bands, got "
                             f"{len(self.descriptions)}")


@dataclass(frozen=True, slots=True)
class Piece:
    """Some rows of a file, all columns; of any height."""

    row: int
    """Where they begin, counted from wherever the first piece says that it begins."""
    pixels: Array
    """(B, h, W), or (h, W) of a file of one band, in the file's dtype."""
    valid: NDArray[np.bool_] | None = None
    """(h, W): which pixels are real. For a masked file, and no other."""


def class_header(*, shape: tuple[int, int], crs: str | None, transform: tuple[float, ...] | None, names: Sequence[str],
                 colours: Sequence[Colour], nodata: int, tags: Mapping[str, str] | None = None) -> CogHeader:
    """The header of a raster of class indices: the classes' colours, and in the tag CLASSES a JSON list of their names,
    both in the order of the index."""
    return CogHeader(shape=shape, bands=1, dtype="uint8", crs=crs, transform=transform, resampling="mode",
                     nodata=nodata, colours=colours, descriptions=("class",),
                     tags={**(tags or {}), "CLASSES": json.dumps(list(names))})


def room_needed(shape: tuple[int, int], *, bands: int = 1, dtype: str = "uint8", masked: bool = False) -> int:
    """Bytes of disk that writing a file of `shape` takes at most, for a moment, if its pixels do not compress at all.

    They stand in the plain file and in the COG, their overviews in the COG and in GDAL's temporary file, all in whole
    tiles: 2 2/3 times the pixels of a large file. Noise of 4096 x 4096 took 0.99 of it, a map of classes takes a
    fiftieth.
    """
    rows, cols = shape
    tile_bytes = TILE * TILE * (bands * np.dtype(dtype).itemsize + masked) * 1.001  # deflate adds 0.02 % to noise
    levels = [math.ceil(rows / TILE) * math.ceil(cols / TILE)]
    while max(rows, cols) > TILE:
        rows, cols = math.ceil(rows / 2), math.ceil(cols / 2)
        levels.append(math.ceil(rows / TILE) * math.ceil(cols / TILE))
    return math.ceil(2 * sum(levels) * tile_bytes) + _HEADERS


def check_room(path: str | os.PathLike[str], shape: tuple[int, int], *, bands: int = 1, dtype: str = "uint8",
               masked: bool = False) -> None:
    """Raise OutputError when the disk has not the room that `room_needed` gives for a file at `path`."""
    need = room_needed(shape, bands=bands, dtype=dtype, masked=masked)
    folder = next(parent for parent in Path(path).absolute().parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if free < need:
        raise OutputError(f"{path}: writing it may need {need:,} bytes of disk, and {free:,} are free in {folder}; "
                          "free some, or write to another disk")


def check_crs(path: str | os.PathLike[str], wkt: str | None) -> Any:
    """The CRS of a file that is to be written at `path`. Raises OutputError for text that is no WKT, and for a CRS that
    GeoTIFF cannot hold, which GDAL would leave out without a word."""
    if wkt is None:
        return None
    try:
        crs = rasterio.CRS.from_wkt(wkt)
    except CRSError as error:
        raise OutputError(f"{path}: its CRS is not WKT that PROJ can read: {wkt!r} ({error})") from error
    # Beside a file GDAL would keep such a CRS in NAME.aux.xml, which a COG does not carry.
    with _writing(Path(path)), rasterio.Env(GDAL_PAM_ENABLED=False), MemoryFile() as memory:
        with memory.open(driver="GTiff", width=1, height=1, count=1, dtype="uint8", crs=crs,
                         transform=rasterio.Affine.translation(1, 1)) as raster:
            raster.write(np.zeros((1, 1, 1), np.uint8))
        with memory.open() as raster:
            if raster.crs is None:
                raise OutputError(f"{path}: a GeoTIFF cannot hold its CRS ({wkt[:60]!r} …); bring the scene into "
                                  "another (gdalwarp -t_srs)")
    return crs


def write_cog(path: str | os.PathLike[str], pieces: Iterable[Piece], header: CogHeader, *, overwrite: bool = False,
              scratch: Path | None = None) -> None:
    """Write a Cloud-Optimised GeoTIFF from pieces, top to bottom: tiles of 512 px, deflate (which every reader has).

    `scratch`: folder on the same file system for what is written meanwhile, of which a process that is killed leaves
    up to `room_needed`; None: beside the file.

    Raises OutputError when the file exists and may not be overwritten, when its folder cannot be written or the disk
    has no room (asked first) or is full, when the CRS is not WKT or one that GeoTIFF cannot hold, and when the pieces
    leave gaps, do not fill the shape, or are not as the header says. Nothing is left then, and an earlier file stays.
    """
    path = Path(path)
    if path.is_dir() or (path.exists() and not overwrite):
        raise OutputError(f"{path}: exists already; give another name{'' if path.is_dir() else ', or overwrite it'}")
    check_room(path, header.shape, bands=header.bands, dtype=header.dtype, masked=header.masked)
    crs = check_crs(path, header.crs)
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=scratch or path.parent)
    # Beside the file, so that the last step is a rename in one file system; GDAL's own temporary files land there too.
    with folder:
        plain, whole = Path(folder.name) / "plain.tif", Path(folder.name) / "whole.tif"
        with _writing(path):
            raster = _create(plain, header, crs)
        try:
            checksum = _fill(path, raster, _strips(path, pieces, header))
        finally:
            with _writing(path):
                raster.close()
        with _writing(path):
            rasterio.shutil.copy(plain, whole, driver="COG", compress="deflate", blocksize=TILE, bigtiff="if_safer",
                                 predictor="YES" if _smooth(header) else "NO", overview_resampling=header.resampling)
            if _checksum(whole, masked=header.masked) != checksum:
                # GDAL says nothing when the disk is full at the very end (seen in 3.10)
                raise OSError("what was written reads back otherwise")
            os.replace(whole, path)


def _smooth(header: CogHeader) -> bool:
    """Whether neighbouring values are near each other, so that their differences compress better."""
    return header.resampling == "average"


def _create(path: Path, header: CogHeader, crs: Any) -> Any:
    """A tiled GeoTIFF open for writing: a COG cannot be written in pieces, only copied from another file."""
    predictor = 1 if not _smooth(header) else 3 if header.dtype == "float32" else 2
    # Without alpha="NO" the fourth of four bands of uint8 would be taken for opacity, and without MINISBLACK three
    # for red, green and blue.
    plain = {} if header.scale is None else {"photometric": "MINISBLACK"}
    raster = _open(path, "w", driver="GTiff", height=header.shape[0], width=header.shape[1], count=header.bands,
                   dtype=header.dtype, crs=crs, nodata=header.nodata, alpha="NO", tiled=True, blockxsize=TILE,
                   blockysize=TILE, compress="deflate", zlevel=1, predictor=predictor, bigtiff="if_safer",
                   transform=None if header.transform is None else rasterio.Affine(*header.transform), sparse_ok=True,
                   **plain)
    if header.colours:
        clear = {} if header.nodata is None else {header.nodata: (0, 0, 0, 0)}
        raster.write_colormap(1, {value: (*colour, 255) for value, colour in enumerate(header.colours)} | clear)
    if header.scale is not None:
        raster.scales = (header.scale,) * header.bands
    raster.update_tags(**header.tags)
    for band, text in enumerate(header.descriptions, start=1):
        raster.set_band_description(band, text)
    return raster


def _fill(path: Path, raster: Any, strips: Iterable[Piece]) -> int:
    """Write strips into an open raster; their CRC-32, as `_checksum` has it."""
    checksum = 0
    for strip in strips:
        window = ((strip.row, strip.row + strip.pixels.shape[1]), (0, raster.width))
        with _writing(path):
            raster.write(strip.pixels, window=window)
            if strip.valid is not None:  # in the copy this mask is internal, wherever it stands here
                raster.write_mask(strip.valid, window=window)
        checksum = _crc(strip, checksum)
    return checksum


def _strips(path: Path, pieces: Iterable[Piece], header: CogHeader) -> Iterator[Piece]:
    """Gather pieces into strips (B, h, W) of TILE rows, the last lower. One is valid until the next is asked for."""
    height, width = header.shape
    strip_BhW = np.empty((header.bands, min(TILE, height), width), header.dtype)
    valid_hW = np.empty(strip_BhW.shape[1:], np.bool_) if header.masked else None
    done = filled = 0
    expected: int | None = None
    for piece in pieces:
        if expected not in (None, piece.row):
            raise OutputError(f"{path}: its rows must follow each other: expected row {expected}, got {piece.row}")
        pixels_BhW = _pixels(path, piece, header)
        rows = pixels_BhW.shape[1]
        expected = piece.row + rows
        if done + filled + rows > height:
            raise OutputError(f"{path}: got more rows than the {height} that it has")
        start = 0
        while start < rows:
            count = min(strip_BhW.shape[1] - filled, rows - start)
            strip_BhW[:, filled:filled + count] = pixels_BhW[:, start:start + count]
            if valid_hW is not None and piece.valid is not None:
                valid_hW[filled:filled + count] = piece.valid[start:start + count]
            start, filled = start + count, filled + count
            if filled == strip_BhW.shape[1] or done + filled == height:
                yield Piece(done, strip_BhW[:, :filled], None if valid_hW is None else valid_hW[:filled])
                done, filled = done + filled, 0
    if done < height:
        raise OutputError(f"{path}: its rows end after {done + filled} of {height}")


def _pixels(path: Path, piece: Piece, header: CogHeader) -> Array:
    """The pixels (B, h, W) of a piece. Raises OutputError when it is not as the header says."""
    pixels_BhW = piece.pixels[None] if piece.pixels.ndim == 2 else piece.pixels
    fits = pixels_BhW.ndim == 3 and (len(pixels_BhW), pixels_BhW.shape[2]) == (header.bands, header.shape[1])
    if not fits or pixels_BhW.dtype != header.dtype:
        raise OutputError(f"{path}: its rows must be {header.bands} band(s) of {header.dtype}, {header.shape[1]} wide, "
                          f"got {piece.pixels.dtype} {piece.pixels.shape}")
    if (None if piece.valid is None else piece.valid.shape) != (pixels_BhW.shape[1:] if header.masked else None):
        raise OutputError(f"{path}: {'each' if header.masked else 'no'} piece must say which of its pixels are real, "
                          f"got {None if piece.valid is None else piece.valid.shape} for {pixels_BhW.shape[1:]}")
    return pixels_BhW


def _crc(strip: Piece, checksum: int) -> int:
    for values in (strip.pixels, strip.valid):
        if values is not None:
            checksum = zlib.crc32(np.ascontiguousarray(values).data, checksum)
    return checksum


def _checksum(path: Path, *, masked: bool) -> int:
    """CRC-32 of the pixels, and of their validity where the file has a mask, strip by strip of TILE rows."""
    checksum = 0
    with _open(path) as raster:
        for row in range(0, raster.height, TILE):
            window = ((row, min(row + TILE, raster.height)), (0, raster.width))
            valid_hW = raster.dataset_mask(window=window) != 0 if masked else None
            checksum = _crc(Piece(row, raster.read(window=window), valid_hW), checksum)
    return checksum


def _open(path: Path, mode: str = "r", **profile: Any) -> Any:
    """An open rasterio dataset, without the warning that it has no transform: an image may well have none."""
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, mode, **profile)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Within it what GDAL and the system say about writing is one line with the file."""
    bound_cache()
    try:
        yield
    except (OSError, RasterioError, CPLE_BaseError) as error:
        raise OutputError(f"{path}: cannot be written ({error}); it needs a folder that may be written, and room on "
                          "the disk for nearly three times its pixels") from error
