"""The overlap certificate: is what a model is scored on free of what it was trained on?

Two questions for each pair of splits, asked of the ground and of the content. How many pixels of one can patches of the
other see, and how near do they come? Compared in the frame that scenes share (their CRS, else their group's grid),
exactly: unions of rectangles of cells and of patches' windows. And which cells stand in both under two names? Those
whose band moments (number, sum and sum of squares of their pixels), and their neighbours', are equal to the bit; this
needs no frame, but copies have to lie on the same 64 px grid of their scenes, and a cropped one loses border cells.
Free of overlap is not yet independent: the distance stands beside the autocorrelation length of the labels
(swath.autocorrelation).
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
    """Two splits against each other."""

    overlap_px: int
    """Pixels of one split that patches of the other can see: of the two counts the larger."""
    same_px: int
    """Pixels of one split in cells whose content the other has too, whatever its scenes are called and wherever they
    are said to lie; likewise the larger."""
    distance: float | None
    """Smallest distance between what patches of one can see and the other; 0 where they touch, none where no scenes of
    the two can be compared."""
    unit: str
    """Unit of the distance: `m`, `crs` (that of a CRS that is not metric), `px`, or empty."""
    distance_px: float | None
    """The same in pixels."""
    stacked: tuple[str, ...]
    """Groups of which both have scenes, different ones, without a CRS and at one place of the group: the first eight
    by name."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """The comparison of all splits that have cells."""

    pairs: dict[str, Pair]
    """By "train-val", "train-test" and "val-test"."""
    autocorrelation: Length | None
    """Autocorrelation length of the labels of all splits; none where there is nothing to measure."""
    systems: int
    """Coordinate systems of the scenes that have cells; to have none counts as one."""

    @property
    def clean(self) -> bool:
        """Whether no split shares a pixel with another."""
        return all(pair.overlap_px == pair.same_px == 0 for pair in self.pairs.values())

    def findings(self) -> list[str]:
        """What is wrong, or not certain, a sentence each; empty where all is well."""
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
        """One line of JSON, as it is tagged on a run."""
        return json.dumps(asdict(self))


def certify(store: Store, split: Split, plans: Mapping[SplitName, PatchPlan] | None = None) -> Certificate:
    """Compare every two splits of a store that have cells.

    With `plans`, what patches of a split can see is the union of its plan's windows, as far as they lie in the scene;
    of a split without a plan, and by default, it is the split's own cells.
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
    """A part of a scene, in its frame."""

    there: Place
    shape: shapely.Geometry


class _Shown:
    """What one split has and sees: by frame, and by content."""

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
    """Number, rows and columns (first and past the last, int64 (2, P)) of the windows of each scene of a plan; of
    concentric patches those of the coarsest scale, which hold the others."""
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
    """Which part of a scene some window covers: bool (rows, cols) of a grid with an edge wherever a window begins or
    ends, and the grid's edges. Exact; its memory grows with the number of different edges, and those are few where
    windows lie on a lattice."""
    rows_2P, cols_2P = np.clip(rows_2P, 0, shape[0]), np.clip(cols_2P, 0, shape[1])
    edges_R, edges_C = np.unique(rows_2P), np.unique(cols_2P)
    (top_P, bottom_P), (left_P, right_P) = np.searchsorted(edges_R, rows_2P), np.searchsorted(edges_C, cols_2P)
    change_RC = np.zeros((len(edges_R), len(edges_C)), np.int32)
    for at, sign in (((top_P, left_P), 1), ((bottom_P, right_P), 1), ((top_P, right_P), -1), ((bottom_P, left_P), -1)):
        np.add.at(change_RC, at, sign)
    return change_RC.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0, edges_R, edges_C


def _ground(there: Place, covered_RC: NDArray[np.bool_], edges_R: NDArray[np.int64], edges_C: NDArray[np.int64]
            ) -> shapely.Geometry:
    """The ground of a grid's covered rectangles, in the scene's frame: one shape, of runs of columns that are merged
    over rows alike."""
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
    """A 64-bit hash of the content of each cell that has some texture, and the cell's pixels.

    The hash is that of the cell, its right, its lower and its diagonal neighbour in the scene: of calm water in one
    band, single cells of the same moments are common, fours of them are not. In the last row and column the neighbours
    before take their place. So a copy of a whole scene has all of its cells, and one that is cropped from a scene, on
    the scene's grid, loses those of its last row and column.

    Cells of one value, and those whose like occurs again in their scene (flat water, saturated roofs), say nothing.
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
    """One word for some in their order, element by element: Fibonacci hashing, with the high bits folded back."""
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
    """The groups in whose grid some scene of the one has the origin of another scene of the other."""
    found = set()
    for frame in one.keys() & other.keys():
        at: dict[tuple[int, int], set[str]] = {}
        for part in other[frame]:
            at.setdefault(part.there.scene.origin, set()).add(part.there.scene.name)
        found |= {part.there.scene.group for part in one[frame] if not part.there.in_crs
                  and at.get(part.there.scene.origin, set()) - {part.there.scene.name}}
    return sorted(found)


def _same(one: _Shown, other: _Shown) -> int:
    """Pixels of the one in cells whose content the other has too."""
    if len(other.keys_N) == 0:
        return 0
    place_N = np.searchsorted(other.keys_N, one.keys_N)  # both are sorted: 20 times np.isin's rate
    return int(one.pixels_N[other.keys_N.take(place_N, mode="clip") == one.keys_N].sum())


def _overlap(cells: dict[str, list[_Ground]], seen: dict[str, list[_Ground]]) -> int:
    """Pixels of the one that lie in the other. Each scene counts its own: ten dates of a place count ten times."""
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
    """Smallest distance of two grounds of one frame: in pixels (of the scene of the cells), in the frame's unit, and
    that unit; None where one of them is empty."""
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
