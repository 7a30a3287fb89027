"""Do two rasters lie on one grid of pixels; and where they do not, one of them warped to the other's.

Two grids are one when shape and CRS are equal and no corner lies more than half a pixel aside: georeferences are often
written with float noise. A raster without georeference has its pixels' places from its shape alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import CRSError
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT

from patchstore.errors import SourceError
from patchstore.sources.raster import open_dataset, reading

ASIDE_PX = 0.5
"""Most pixels that a corner of a fitting raster may lie aside."""
_TOLERANCE_PX = 1e-6
"""Error of a warp's coordinates. GDAL's default of 1/8 pixel interpolates them block by block, so that pixels would
depend on how rows are cut; this costs 75 ns a pixel between two UTM zones, 14 within one."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where a raster's pixels lie."""

    path: Path
    """The raster's file, for messages."""
    shape: tuple[int, int]
    crs: CRS | None
    transform: Affine | None
    """From (col, row) of pixel corners to (x, y); none where the file has no georeference."""

    @classmethod
    def of(cls, path: Path, dataset: Any, crs: str = "") -> Self:
        """The grid of an open dataset; `crs` is that of a file that has a transform but names no CRS.

        Raises SourceError when the transform is degenerate, or `crs` is unknown, contradicts the file's or has no
        transform to describe.
        """
        transform = None if dataset.transform.is_identity else dataset.transform
        if transform is not None and transform.is_degenerate:
            raise SourceError(f"{path}: its transform {tuple(transform)[:6]} is no grid of pixels; georeference it")
        found = dataset.crs
        if crs:
            given = parse_crs(crs, f"the CRS given for {path}")
            if transform is None:
                raise SourceError(f"{path}: has no georeference that {crs} could describe; give it a world file, or no "
                                  "CRS")
            if found and found != given:
                raise SourceError(f"{path}: is in {name_of(found)}, so it cannot be in {crs}; give no CRS for it")
            found = given
        return cls(path=path, shape=(dataset.height, dataset.width), crs=found or None, transform=transform)

    @classmethod
    def described(cls, what: str, shape: tuple[int, int], crs: str | None, transform: Sequence[float] | None) -> Self:
        """A grid by its numbers: CRS as WKT, transform a to f. `what` has it, for messages. Raises SourceError."""
        return cls(path=Path(what), shape=shape, crs=None if crs is None else parse_crs(crs, f"{what}: its CRS"),
                   transform=None if transform is None else Affine(*transform))

    @property
    def place(self) -> str:
        """CRS and transform as text, without a path."""
        transform = None if self.transform is None else tuple(self.transform)[:6]
        return f" crs={self.crs.to_wkt() if self.crs else None} transform={transform}"

    def to_xy(self, cols: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Coordinates (2, N) of pixel corners. The grid must have a transform."""
        assert self.transform is not None
        return _apply(self.transform, cols, rows)

    def to_pixels(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """(cols, rows) of coordinates: (2, N). The grid must have a transform."""
        assert self.transform is not None
        return _apply(~self.transform, x, y)


def _apply(transform: Affine, u: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
    a, b, c, d, e, f, *_ = transform  # written out: how affine applies one to arrays differs between its versions
    return np.stack([a * u + b * v + c, d * u + e * v + f])


def parse_crs(text: str, what: str) -> CRS:
    """A CRS of EPSG:n, WKT or PROJJSON. Raises SourceError, naming `what`."""
    try:
        return CRS.from_user_input(text)
    except CRSError as error:
        raise SourceError(f"{what}: {text!r} is no coordinate reference system ({error}); write EPSG:32634 or WKT"
                          ) from None


def name_of(crs: CRS) -> str:
    """How a message calls a CRS: EPSG:32634, or WKT where it has no code."""
    return str(crs.to_string())


def misfit(grid: Grid, image: Grid) -> str:
    """How a raster's grid differs from its image's, in words; empty where both are one."""
    said = []
    if grid.shape != image.shape:
        said.append(f"is {grid.shape[0]} x {grid.shape[1]} pixels (rows x columns), but its image {image.path} is "
                    f"{image.shape[0]} x {image.shape[1]}")
    if grid.transform is None or image.transform is None:
        return "".join(said)
    if grid.crs and image.crs and grid.crs != image.crs:
        said.append(f"is in {name_of(grid.crs)}, but its image {image.path} is in {name_of(image.crs)}")
    else:
        aside = _aside_px(grid, image)
        if round(aside, 6) > ASIDE_PX:  # half a pixel is often meant exactly, and written with float noise
            said.append(f"has corners up to {aside:,.6g} pixels aside of its image {image.path}")
    return ", and ".join(said)


@dataclass(frozen=True)
class OnGrid:
    """An open raster file on its image's grid."""

    source: Any
    """The dataset of the file itself."""
    dataset: Any
    """The same where it lies on that grid; else a WarpedVRT of it, whose last band is alpha: 0 where the file has
    nothing."""
    note: str = ""
    """What was done for that, for a report."""
    place: str = ""
    """Where the file itself lies, if it is warped: `Grid.place`."""

    @property
    def warped(self) -> bool:
        """Whether the dataset is a warp of the file."""
        return self.dataset is not self.source

    def close(self) -> None:
        """Close the file."""
        self.dataset.close()
        self.source.close()


def open_on(image: Grid, path: Path, resampling: Resampling, *, align: bool) -> OnGrid:
    """Open a file on its image's grid; with `align` one that lies on another is warped to it.

    Where only one of both files names a CRS it is taken for the other's too. Raises SourceError when the file cannot be
    read, does not fit and `align` is off, or cannot be warped.
    """
    dataset = open_dataset(path)
    grid = Grid.of(path, dataset)
    differs = misfit(grid, image)
    if not differs:
        return OnGrid(dataset, dataset)
    if grid.transform is None or image.transform is None:
        bare = path if grid.transform is None else image.path
        raise SourceError(f"{path}: {differs}; it cannot be aligned, since {bare} has no georeference")
    if not align:
        raise SourceError(f"{path}: {differs}; have it warped to its image's grid (--align), or give the right file")
    if resampling is not Resampling.nearest and ColorInterp.alpha in dataset.colorinterp:
        raise SourceError(f"{path}: {differs}; it cannot be aligned, since a band is marked as alpha: unmark it "
                          "(gdal_edit.py -colorinterp_4 undefined), or leave it out (gdal_translate -b)")
    return OnGrid(dataset, _warped(dataset, grid, image, resampling), place=grid.place,
                  note=f"{path}: {differs}: warped to that grid ({resampling.name})")


def _warped(dataset: Any, grid: Grid, image: Grid, resampling: Resampling) -> Any:
    anywhere = grid.crs or image.crs or CRS.from_wkt('LOCAL_CS["any, the same for both",UNIT["metre",1]]')
    labels = resampling is Resampling.nearest
    has_alpha = ColorInterp.alpha in dataset.colorinterp
    # The declared nodata of a mask may be a class, which a warp would drop; decoding sees to it.
    nodata = {"src_nodata": None} if labels else {}
    with reading(grid.path, f"cannot be warped to the grid of {image.path}"):
        return WarpedVRT(dataset, src_crs=anywhere, crs=image.crs or anywhere, transform=image.transform,
                         height=image.shape[0], width=image.shape[1], resampling=resampling, tolerance=_TOLERANCE_PX,
                         add_alpha=not has_alpha, **nodata)


def _aside_px(grid: Grid, image: Grid) -> float:
    """How far, at most, a corner lies aside of the image's corner of that name, in the image's pixels."""
    cols, rows = np.array([0.0, 0, 1, 1]), np.array([0.0, 1, 0, 1])
    x, y = grid.to_xy(cols * grid.shape[1], rows * grid.shape[0])
    col, row = image.to_pixels(x, y)
    return float(np.abs([col - cols * image.shape[1], row - rows * image.shape[0]]).max())
