"""The overlap certificate: is the data that scores a model free of the data that trained it?

The certificate answers two questions for each pair of splits.

- Ground: how many pixels of one split can patches of the other see, and how close do they come? The comparison is
  exact, in the common frame of the scenes (their CRS, else the grid of their group): unions of rectangles of cells and
  of windows.
- Content: which cells occur in both splits under two names? Cells are equal if their band moments (count, sum and sum
  of squares of their pixels) and those of their neighbours are equal bit for bit. This needs no frame, but a copy must
  lie on the same 64 px grid of its scene. A cropped copy loses its border cells.

Splits without overlap may still be dependent. The distance is therefore reported beside the autocorrelation length of
the labels (swath.splits.autocorrelation).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise

import numpy as np
import shapely
from numpy.typing import NDArray

from patchstore import Store
from swath.geometry import around
from swath.patches.planning import PatchPlan
from swath.splits import autocorrelation
from swath.splits.autocorrelation import Length
from swath.splits.division import SPLITS, Split, SplitName
from swath.splits.ground import NEGLIGIBLE_PX, Place, cell_edges, place


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Comparison of two splits."""

    overlap_px: int
    """Pixels of one split that patches of the other can see; the larger of the two counts."""
    same_px: int
    """Pixels of one split in cells with a content that also occurs in the other, regardless of scene names and
    positions; the larger of the two counts."""
    distance: float | None
    """Smallest distance between the ground that patches of one split can see and the other split, in `unit`. 0 if they
    touch; None if no scenes of the two can be compared."""
    unit: str
    """Unit of the distance: `m`, `crs` (the unit of a CRS that is not metric), `px`, or empty."""
    distance_px: float | None
    """The distance in pixels."""
    stacked: tuple[str, ...]
    """Groups in which the two splits have different scenes without a CRS and at the same position; the first eight by
    name."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Comparison of all splits that have cells."""

    pairs: dict[str, Pair]
    """Pairs by name: "train-val", "train-test" and "val-test"."""
    autocorrelation: Length | None
    """Autocorrelation length of the labels of all splits; None if it cannot be measured."""
    systems: int
    """Number of coordinate systems of the scenes that have cells. Scenes without a CRS count as one."""

    @property
    def clean(self) -> bool:
        """Whether no split shares a pixel with another."""
        return all(pair.overlap_px == pair.same_px == 0 for pair in self.pairs.values())

    def findings(self) -> list[str]:
        """Problems and uncertainties, one sentence each; empty if there are none."""
        lines = [line for names, pair in self.pairs.items() for line in self._of(names.replace("-", " and "), pair)]
        if stacked := sorted({group for pair in self.pairs.values() for group in pair.stacked}):
            lines.append(f"scenes of group {', '.join(stacked)} without a CRS and a place in the group are taken to "
                         "show the same ground")
        if self.pairs and self.systems > 1:
            lines.append(f"scenes lie in {self.systems} coordinate systems (to have none counts as one); between them "
                         "only content is compared")
        return lines

    def _of(self, names: str, pair: Pair) -> list[str]:
        lines = []
        if pair.overlap_px:
            lines.append(f"{names} overlap: patches of one see {pair.overlap_px:,} pixels of the other")
        if pair.same_px:
            lines.append(f"{names} have {pair.same_px:,} pixels of the same content, under two names")
        if pair.distance is None or pair.distance_px is None or pair.overlap_px:
            return lines
        if pair.distance == 0:
            lines.append(f"{names} touch")
        elif (length := self.autocorrelation) is not None:
            near, far, unit = ((pair.distance, length.m, "m") if pair.unit == "m" and length.m is not None else
                               (pair.distance_px, length.px, "px"))
            if near < far:
                lines.append(f"{names} come as near as {near:,.4g} {unit}, but labels are correlated over "
                             f"{'more than ' if length.longer else ''}{far:,.4g} {unit}")
        return lines

    def to_json(self) -> str:
        """One line of JSON, as it is stored in a tag of a run."""
        return json.dumps(asdict(self))


def certify(store: Store, split: Split, plans: Mapping[SplitName, PatchPlan] | None = None) -> Certificate:
    """Compare each pair of splits of a store that have cells.

    With `plans`, patches of a split see the union of the windows of its plan, cut at the edge of the scene. For a split
    without a plan, and by default, they see the split's own cells.
    """
    shown = {name: _Shown(store, split, name, (plans or {}).get(name)) for name in SPLITS}
    present = [name for name in SPLITS if shown[name].cells]
    return Certificate(
        pairs={f"{one}-{other}": _compare(shown[one], shown[other]) for one, other in combinations(present, 2)},
        autocorrelation=autocorrelation.of_labels(
            store, {scene for name in present for scene, _ in split.scenes(name)}),
        systems=len({part.there.frame if part.there.in_crs else "" for name in present
                     for parts in shown[name].cells.values() for part in parts}))


@dataclass(frozen=True, eq=False)
class _Ground:
    """A part of a scene as a shape in its frame."""

    there: Place
    shape: shapely.Geometry


class _Shown:
    """Cells of a split, and the ground that its patches see, by frame; and the content of its cells."""

    def __init__(self, store: Store, split: Split, name: SplitName, plan: PatchPlan | None) -> None:
        self.cells: dict[str, list[_Ground]] = {}
        self.seen: dict[str, list[_Ground]] = {}
        keys, pixels = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for scene, cells_RC in split.scenes(name):
            there = place(store.scenes[scene])
            rows, cols = (cell_edges(length) for length in there.scene.shape)
            self.cells.setdefault(there.frame, []).append(_Ground(there, _ground(there, cells_RC, rows, cols)))
            scene_keys, scene_pixels = _content(store.moments(scene), cells_RC)
            keys.append(scene_keys)
            pixels.append(scene_pixels)
        order_N = np.concatenate(keys).argsort()
        self.keys_N, self.pixels_N = np.concatenate(keys)[order_N], np.concatenate(pixels)[order_N]
        if plan is None:
            self.seen = self.cells
            return
        for number, rows_2P, cols_2P in _windows(plan):
            there = place(store.scenes[plan.scenes[number]])
            self.seen.setdefault(there.frame, []).append(_Ground(there, _ground(
                there, *_union(rows_2P, cols_2P, there.scene.shape))))


def _windows(plan: PatchPlan) -> list[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """For each scene of a plan: its number, and rows and columns of its windows (first, and after the last; int64 (2,
    P)). For concentric patches these are the coarsest windows, which contain the others."""
    own_P = side_P = plan.side_SC[plan.scene_P, plan.scale_P].astype(np.int64)
    if plan.is_concentric:
        side_P = plan.side_SC[plan.scene_P, -1].astype(np.int64)
    order_P = np.argsort(plan.scene_P, kind="stable")
    bounds = np.searchsorted(plan.scene_P[order_P], np.arange(len(plan.scenes) + 1))
    found = []
    for number, (first, past) in enumerate(pairwise(bounds)):
        chosen = order_P[first:past]
        if len(chosen):
            first_P = [around(low_P[chosen].astype(np.int64), own_P[chosen], side_P[chosen])
                       for low_P in (plan.row_P, plan.col_P)]
            rows_2P, cols_2P = (np.stack([low_P, low_P + side_P[chosen]]) for low_P in first_P)
            found.append((number, rows_2P, cols_2P))
    return found


def _union(rows_2P: NDArray[np.int64], cols_2P: NDArray[np.int64], shape: tuple[int, int]
           ) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """The part of a scene that windows cover: bool (rows, cols) of a grid with an edge wherever a window begins or
    ends, and the edges of the grid. Exact. Memory grows with the number of different edges, which is small for windows
    on a lattice."""
    rows_2P, cols_2P = np.clip(rows_2P, 0, shape[0]), np.clip(cols_2P, 0, shape[1])
    edges_R, edges_C = np.unique(rows_2P), np.unique(cols_2P)
    (top_P, bottom_P), (left_P, right_P) = np.searchsorted(edges_R, rows_2P), np.searchsorted(edges_C, cols_2P)
    change_RC = np.zeros((len(edges_R), len(edges_C)), np.int32)
    for at, sign in (((top_P, left_P), 1), ((bottom_P, right_P), 1), ((top_P, right_P), -1), ((bottom_P, left_P), -1)):
        np.add.at(change_RC, at, sign)
    return change_RC.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0, edges_R, edges_C


def _ground(there: Place, covered_RC: NDArray[np.bool_], edges_R: NDArray[np.int64], edges_C: NDArray[np.int64]
            ) -> shapely.Geometry:
    """The covered rectangles of a grid as one shape in the scene's frame. Runs of columns are merged over equal rows.
    """
    change = np.diff(np.pad(covered_RC, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    fresh = np.append(True, (covered_RC[1:] != covered_RC[:-1]).any(axis=1)) if len(covered_RC) else np.empty(0, bool)
    tops = np.flatnonzero(fresh)
    bottoms = np.append(tops[1:], len(covered_RC))
    row, left = np.nonzero(change[tops] > 0)
    _, right = np.nonzero(change[tops] < 0)
    boxes = shapely.box(edges_C[left], edges_R[tops[row]], edges_C[right], edges_R[bottoms[row]])
    (a, b, c), (d, e, f), _ = there.matrix_33
    return shapely.transform(shapely.union_all(boxes),
                             lambda xy: np.stack([a * xy[:, 0] + b * xy[:, 1] + c, d * xy[:, 0] + e * xy[:, 1] + f], 1))


def _content(moments_RCB3: NDArray[np.float64], cells_RC: NDArray[np.bool_]
             ) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """A 64-bit hash of the content of each cell with some texture, and the number of its pixels.

    The hash covers the cell and its right, lower and diagonal neighbours in the scene. For calm water in one band,
    single cells with equal moments are common, but groups of four are not. In the last row and column the previous
    neighbours are used. So a copy of a whole scene keeps all its cells; a copy cropped on the scene's grid loses the
    cells of its last row and column.

    Cells with a single value, and cells with a hash that occurs twice in their scene (flat water, saturated roofs), are
    left out: they prove nothing.
    """
    words_RCW = np.ascontiguousarray(moments_RCB3, np.float64).reshape(*cells_RC.shape, -1).view(np.uint64)
    own_RC = _hash(np.moveaxis(words_RCW, 2, 0))
    near_RC = np.pad(own_RC, ((0, 1), (0, 1)), mode="reflect")
    key_N = _hash((own_RC, near_RC[:-1, 1:], near_RC[1:, :-1], near_RC[1:, 1:]))[cells_RC]
    count_NB, sum_NB, square_NB = np.moveaxis(moments_RCB3[cells_RC], 2, 0)
    textured_N = (square_NB * count_NB > sum_NB**2 * (1 + 1e-12)).any(axis=1)
    in_order_N = np.sort(key_N)
    again_M = in_order_N[1:][in_order_N[1:] == in_order_N[:-1]]
    kept_N = textured_N & ~np.isin(key_N, again_M)
    return key_N[kept_N], count_NB.max(axis=1)[kept_N].astype(np.int64)


def _hash(words: Iterable[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """One 64-bit word for several words in order, element by element: Fibonacci hashing, with the high bits folded
    back."""
    key = np.zeros((), np.uint64)
    for word in words:
        key = (key ^ word) * np.uint64(0x9E3779B97F4A7C15)
        key ^= key >> np.uint64(29)
    return key


def _compare(one: _Shown, other: _Shown) -> Pair:
    overlap_px = max(_overlap(one.cells, other.seen), _overlap(other.cells, one.seen))
    same_px = max(_same(one, other), _same(other, one))
    near = [found for cells, seen in ((one.cells, other.seen), (other.cells, one.seen))
            for frame in sorted(cells.keys() & seen.keys()) if (found := _nearest(cells[frame], seen[frame]))]
    metric = all(unit == "m" for _, _, unit in near)  # pixels of different scenes are not alike
    distance_px, distance, unit = min(near, key=lambda found: found[metric], default=(None, None, ""))
    return Pair(overlap_px=overlap_px, same_px=same_px, distance=distance, unit=unit, distance_px=distance_px,
                stacked=tuple(_stacked(one.cells, other.cells)[:8]))


def _stacked(one: dict[str, list[_Ground]], other: dict[str, list[_Ground]]) -> list[str]:
    """Groups without a CRS in which a scene of one split has the origin of a different scene of the other."""
    found = set()
    for frame in one.keys() & other.keys():
        at: dict[tuple[int, int], set[str]] = {}
        for part in other[frame]:
            at.setdefault(part.there.scene.origin, set()).add(part.there.scene.name)
        found |= {part.there.scene.group for part in one[frame] if not part.there.in_crs
                  and at.get(part.there.scene.origin, set()) - {part.there.scene.name}}
    return sorted(found)


def _same(one: _Shown, other: _Shown) -> int:
    """Pixels of one split in cells with a content that the other also has."""
    if len(other.keys_N) == 0:
        return 0
    place_N = np.searchsorted(other.keys_N, one.keys_N)  # both are sorted: 20 times np.isin's rate
    return int(one.pixels_N[other.keys_N.take(place_N, mode="clip") == one.keys_N].sum())


def _overlap(cells: dict[str, list[_Ground]], seen: dict[str, list[_Ground]]) -> int:
    """Pixels of the cells that lie in the seen ground. Each scene counts its own pixels: ten dates of a place count ten
    times."""
    total = 0
    for frame in cells.keys() & seen.keys():
        shapes = np.array([part.shape for part in seen[frame]])
        tree = shapely.STRtree(shapes)
        for part in cells[frame]:
            met = shapes[tree.query(part.shape, predicate="intersects")]
            if len(met):
                area = shapely.area(shapely.intersection(part.shape, shapely.union_all(met)))
                total += round(float(area) / part.there.pixel**2)
    return total


def _nearest(cells: list[_Ground], seen: list[_Ground]) -> tuple[float, float, str] | None:
    """Smallest distance of two grounds in one frame: in pixels (of the scene of the cells), in the frame's unit, and
    that unit. None if one is empty."""
    shapes = np.array([part.shape for part in cells])
    index, apart = shapely.STRtree(np.array([part.shape for part in seen])).query_nearest(
        shapes, return_distance=True, all_matches=False)
    if len(apart) == 0:
        return None
    best = int(apart.argmin())
    there, distance = cells[int(index[0, best])].there, float(apart[best])
    if distance < NEGLIGIBLE_PX * there.pixel:
        distance = 0.0
    pixels = distance / there.pixel
    if there.pixel_m is not None:
        return pixels, pixels * there.pixel_m, "m"
    return pixels, distance, "crs" if there.in_crs else "px"
