"""The overlap certificate: is what a model is scored on free of what it was trained on?

Patches of a split see only cells of that split, so it is enough to compare where the splits' cells lie on the ground:
in their CRS where scenes share one, else in the grid of their group. The same content under two names is found by its
fingerprint. Each scene is represented by the rectangle around its cells of a split, which is exact where whole scenes
are assigned and an upper bound of the overlap elsewhere.
"""

import json
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from patchstore import CELL, Scene, Store
from swath.split import SPLITS, Split, SplitName


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two splits against each other."""

    overlap_px: int
    """Pixels of the first split that the second one has too."""
    distance: float | None
    """Smallest distance between the two, in units of the CRS (or pixels, in a group's grid); none where no scenes of
    the two can be compared."""
    unit: str
    """Unit of the distance: `crs`, `px`, or empty."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """The comparison of all splits, by "train-val", "train-test" and "val-test"."""

    pairs: dict[str, Pair]

    @property
    def clean(self) -> bool:
        """Whether no split shares a pixel with another."""
        return all(pair.overlap_px == 0 for pair in self.pairs.values())

    def to_json(self) -> str:
        """One line of JSON, as it is tagged on a run."""
        return json.dumps({name: asdict(pair) for name, pair in self.pairs.items()})


def certify(store: Store, split: Split) -> Certificate:
    """Compare the ground of every two splits of a store."""
    boxes = {name: _boxes(store, split, name) for name in SPLITS}
    return Certificate(pairs={f"{a}-{b}": _compare(boxes[a], boxes[b]) for a, b in combinations(SPLITS, 2)})


@dataclass(frozen=True)
class _Boxes:
    """The rectangles (x0, y0, x1, y1) of a split that lie in one frame, with the area of a pixel there."""

    rectangles_N4: NDArray[np.float64]
    pixel_area: float


def _boxes(store: Store, split: Split, name: SplitName) -> tuple[dict[str, _Boxes], dict[str, int]]:
    """A split's rectangles by frame, and its pixels by fingerprint."""
    frames: dict[str, tuple[list[tuple[float, float, float, float]], float]] = {}
    pixels: dict[str, int] = {}
    for scene_name, cells in split.scenes(name):
        scene = store.scenes[scene_name]
        rows, cols = np.flatnonzero(cells.any(axis=1)), np.flatnonzero(cells.any(axis=0))
        top, bottom = int(rows[0]) * CELL, min((int(rows[-1]) + 1) * CELL, scene.shape[0])
        left, right = int(cols[0]) * CELL, min((int(cols[-1]) + 1) * CELL, scene.shape[1])
        frame, rectangle, area = _place(scene, top, bottom, left, right)
        frames.setdefault(frame, ([], area))[0].append(rectangle)
        pixels[scene.fingerprint] = (bottom - top) * (right - left)
    return {frame: _Boxes(np.array(boxes), area) for frame, (boxes, area) in frames.items()}, pixels


def _place(scene: Scene, top: int, bottom: int, left: int, right: int
           ) -> tuple[str, tuple[float, float, float, float], float]:
    """A rectangle of a scene in its frame: the frame's name, the rectangle, and the area of a pixel."""
    if scene.crs is None or scene.transform is None:
        row, col = scene.origin
        return f"group {scene.group}", (left + col, top + row, right + col, bottom + row), 1.0
    a, b, c, d, e, f = scene.transform
    corners = [(a * x + b * y + c, d * x + e * y + f) for x in (left, right) for y in (top, bottom)]
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    return f"crs {scene.crs}", (min(xs), min(ys), max(xs), max(ys)), abs(a * e - b * d)


def _compare(one: tuple[dict[str, _Boxes], dict[str, int]], other: tuple[dict[str, _Boxes], dict[str, int]]) -> Pair:
    overlap, nearest, unit = 0.0, np.inf, ""
    for frame in one[0].keys() & other[0].keys():
        a, b = one[0][frame].rectangles_N4[:, None], other[0][frame].rectangles_N4[None]
        across = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])  # (N, M, 2): negative is a gap
        overlap += float(np.prod(np.maximum(across, 0), axis=-1).sum()) / one[0][frame].pixel_area
        gap = float(np.sqrt((np.maximum(-across, 0) ** 2).sum(axis=-1)).min())
        if gap < nearest:
            nearest, unit = gap, "crs" if frame.startswith("crs ") else "px"
    twice = sum(pixels for fingerprint, pixels in one[1].items() if fingerprint in other[1])
    return Pair(overlap_px=max(round(overlap), twice), distance=None if np.isinf(nearest) else nearest, unit=unit)
