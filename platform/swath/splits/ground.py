"""Position of scenes on the ground: frames in which two scenes can be compared.

The frame of a scene is its CRS if it has a CRS and a transform, else the pixel grid of its group. In a group, scenes
without a given position lie at the origin. Scenes of different frames cannot be compared. Coordinates of a frame are
(x, y): CRS units, or columns and rows of the group. Legend: N scenes; R, C rows and columns of cells.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError

from patchstore import CELL, Scene

NEGLIGIBLE_PX = 1e-3
"""Gaps and overlaps narrower than this share of a pixel are rounding errors of coordinates."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Place:
    """A scene and its position."""

    scene: Scene
    frame: str
    """`crs` and the EPSG code of the CRS (its WKT if it has no code), or `group` and the name of the group."""
    matrix_33: NDArray[np.float64]
    """Transform of pixel corners: (x, y, 1) of the frame = matrix @ (col, row, 1)."""

    @cached_property
    def pixel(self) -> float:
        """Side of a pixel in units of the frame. If pixels are not square, the side of a square of the same area."""
        return float(np.sqrt(abs(np.linalg.det(self.matrix_33))))

    @property
    def in_crs(self) -> bool:
        """True if the frame is a CRS, False if it is the grid of a group."""
        return self.frame.startswith("crs ")

    @property
    def pixel_m(self) -> float | None:
        """Side of a pixel in metres; None if unknown."""
        return None if self.scene.pixel_m2 is None else float(np.sqrt(self.scene.pixel_m2))

    def bounds(self) -> tuple[float, float, float, float]:
        """Smallest x, smallest y, largest x and largest y of the scene in its frame."""
        rows, cols = self.scene.shape
        corners_32 = (self.matrix_33 @ np.array([[0, cols, 0, cols], [0, 0, rows, rows], [1, 1, 1, 1]]))[:2]
        return (*corners_32.min(axis=1).tolist(), *corners_32.max(axis=1).tolist())


def place(scene: Scene) -> Place:
    """The frame of a scene, and its position in it."""
    if scene.crs is None or scene.transform is None:
        row, col = scene.origin
        return Place(scene=scene, frame=f"group {scene.group}",
                     matrix_33=np.array([[1.0, 0, col], [0, 1, row], [0, 0, 1]]))
    a, b, c, d, e, f = scene.transform
    return Place(scene=scene, frame=f"crs {_system(scene.crs)}", matrix_33=np.array([[a, b, c], [d, e, f], [0, 0, 1]]))


@cache
def _system(crs: str) -> str:
    """One name for all texts of a CRS: its EPSG code if that is exact, else the text itself."""
    try:
        code = CRS.from_wkt(crs).to_epsg(confidence_threshold=100)
    except CRSError:  # a text that PROJ does not read is equal to itself alone
        return crs
    return crs if code is None else f"EPSG:{code}"


def by_frame(scenes: Iterable[Scene]) -> dict[str, list[Place]]:
    """The scenes of each frame with their positions, in order of their names."""
    frames: dict[str, list[Place]] = {}
    for scene in sorted(scenes, key=lambda scene: scene.name):
        there = place(scene)
        frames.setdefault(there.frame, []).append(there)
    return frames


def neighbourhoods(places: list[Place], margin_px: float) -> list[list[Place]]:
    """Divide the scenes of one frame into sets that lie apart: further than `margin_px` pixels of the frame's coarsest
    scene.

    Scenes that overlap or touch, directly or through others, are in the same set. Scenes count by their bounding boxes.
    """
    grow = (margin_px / 2 + NEGLIGIBLE_PX) * max(there.pixel for there in places)
    bounds_N4 = np.array([there.bounds() for there in places]) + np.array([-grow, -grow, grow, grow])
    boxes_N = shapely.box(*bounds_N4.T)
    one_M, other_M = shapely.STRtree(boxes_N).query(boxes_N, predicate="intersects")
    set_N, before_N = np.arange(len(places)), np.full(len(places), -1)
    while (set_N != before_N).any():  # each takes the least number among its neighbours', until none changes
        before_N = set_N.copy()
        np.minimum.at(set_N, one_M, before_N[other_M])
    return [[places[i] for i in np.flatnonzero(set_N == number)] for number in np.unique(set_N)]


def cell_edges(length: int) -> NDArray[np.int64]:
    """Edges of the cells along an axis of `length` pixels: int64 (cells + 1). The last cell may be narrower."""
    return np.minimum(np.arange(-(-length // CELL) + 1) * CELL, length)


def cell_shape(scene: Scene) -> tuple[int, int]:
    """Number of rows and columns of a scene's cells."""
    return -(-scene.shape[0] // CELL), -(-scene.shape[1] // CELL)
