"""The plan of a split: which patches exist, and how often each is drawn.

A plan is a pure function: it reads the class counts of 64 px cells, and no pixel. Positions are full-resolution scene
pixels. A patch of `size` pixels at scale s covers a window of round(size x factor) scene pixels. The factor is s, or,
with `patches.pixel_m`, the length s x pixel_m in scene pixels.

Legend: P patches, K classes, I, J rows and columns of cells; _SC is (scenes, scales), _SK (scales, classes).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchstore import CELL, Store, Window
from patchstore.format import ENLARGED, centres, locate
from swath.config import Combine, CombinedScales, Config, PatchesConfig
from swath.errors import DataError
from swath.geometry import around
from swath.patches import relevance
from swath.patches.places import CellSums, places, rectangles
from swath.patches.relevance import RelevanceFilter
from swath.splits.division import Split, SplitName, divide

MIN_FACTOR, MAX_FACTOR = 1 / ENLARGED, 64
"""Smallest and largest number of scene pixels that a patch pixel may span. A finer patch shows only interpolation; a
coarser one exceeds the levels of the pyramid."""


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnCells:
    """Mask of the pixels of a patch that lie in cells of its own split. It is small, because it is sent to the process
    that reads the patch."""

    cells_IJ: NDArray[np.bool_]
    """For each cell that the patch touches: whether it belongs to the split."""
    row_H: NDArray[np.uint16]
    """Row of cells of each patch row, an index into cells_IJ."""
    col_W: NDArray[np.uint16]
    """Column of cells of each patch column, an index into cells_IJ."""

    def keep(self, labels_HW: NDArray[np.uint8], ignore: int) -> None:
        """Set the labels outside the split's own cells to `ignore`, in place."""
        labels_HW[~self.cells_IJ[np.ix_(self.row_H, self.col_W)]] = ignore


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchPlan(CombinedScales):
    """The patches of one split. It takes 13 bytes for each patch, 17 if weights differ.

    Concentric patches are placed at the finest scale: position, labels, class counts and weight belong to that window.
    The windows of the other scales have the same centre, and their labels are not read.
    """

    size: int
    """Side of a patch in patch pixels."""
    scales: tuple[float, ...]
    """The scales, as configured."""
    scenes: tuple[str, ...]
    """Names of the split's scenes."""
    scene_P: NDArray[np.int32]
    """Scene of each patch, an index into `scenes`."""
    row_P: NDArray[np.int32]
    """First row of each patch's window, in full-resolution scene pixels."""
    col_P: NDArray[np.int32]
    """First column of each patch's window, in full-resolution scene pixels."""
    scale_P: NDArray[np.uint8]
    """Scale of each patch, an index into `scales`."""
    weight_P: NDArray[np.float32]
    """Expected number of draws of each patch in an epoch; the mean is 1. If all are equal, this is one value with
    stride zero."""
    side_SC: NDArray[np.int32]
    """Side of a window in full-resolution scene pixels, by scene and scale."""
    level_SC: NDArray[np.int8]
    """Pyramid level from which a window is read, by scene and scale."""
    chunk: int
    """Side of the store's chunks in pixels."""
    shard: int
    """Side of the store's shards in pixels."""
    pixel_bytes: int
    """Bytes of a decoded pixel: all bands and the label."""
    class_pixels_SK: NDArray[np.float64]
    """Patch pixels of each class, in all patches of each of `placement_scales`. Each patch counts once."""
    drawn_class_pixels_SK: NDArray[np.float64]
    """Patch pixels of each class that one epoch draws on average, by scale."""
    exact: float
    """Share of patches with exact class counts: patches at full resolution with edges on the grid of cells. Other
    counts are estimates, because windows cut cells and labels of coarser levels are majorities."""
    notes: tuple[str, ...]
    """Remarks for the user of the plan, one sentence each."""
    cells: Mapping[str, NDArray[np.bool_]] | None
    """The split's cells by scene, if patches may reach over foreign cells and their labels must be ignored; else None.
    """
    combine: Combine = "mixture"
    """How the scales are combined, as configured."""

    def __len__(self) -> int:
        return len(self.scene_P)

    def views(self, ids: Sequence[int] | NDArray[np.int64]) -> list[tuple[Window, ...]]:
        """All windows of patches: for each id its own window, then for concentric patches the windows of the other
        scales around the same centre. A window may begin outside the scene."""
        windows = self.windows(ids)
        if not self.is_concentric:
            return [(window,) for window in windows]
        return [(window, *(Window(window.scene, around(window.row, window.side, side),
                                  around(window.col, window.side, side), side)
                           for side in self.side_SC[self.scene_P[i], 1:].tolist()))
                for i, window in zip(ids, windows, strict=True)]

    def windows(self, ids: Sequence[int] | NDArray[np.int64]) -> list[Window]:
        """The own window of each id; for concentric patches the window of the finest scale."""
        return [
            Window(self.scenes[self.scene_P[i]], int(self.row_P[i]), int(self.col_P[i]),
                   int(self.side_SC[self.scene_P[i], self.scale_P[i]]))
            for i in ids
        ]

    def own(self, ids: Sequence[int] | NDArray[np.int64]) -> tuple[OwnCells | None, ...]:
        """For each id the mask of its split's own cells; None if all labels may be used.

        Each pixel of a level lies in exactly one cell: pixels of a level span 1 to 32 scene pixels, cells 64.
        """
        return tuple(None if self.cells is None else self._own(self.cells, int(i)) for i in ids)

    def _own(self, cells: Mapping[str, NDArray[np.bool_]], patch: int) -> OwnCells:
        scene, scale = self.scene_P[patch], self.scale_P[patch]
        cells_IJ, level = cells[self.scenes[scene]], int(self.level_SC[scene, scale])
        square = locate(int(self.row_P[patch]), int(self.col_P[patch]), int(self.side_SC[scene, scale]), self.size,
                        level + 1)
        row_H, col_W = (np.clip((at << level) // CELL, 0, length - 1)
                        for at, length in zip(centres(square, self.size), cells_IJ.shape, strict=True))
        return OwnCells(cells_IJ=cells_IJ[row_H[0]:row_H[-1] + 1, col_W[0]:col_W[-1] + 1],
                   row_H=(row_H - row_H[0]).astype(np.uint16), col_W=(col_W - col_W[0]).astype(np.uint16))

    @property
    def megapixels(self) -> float:
        """Patch pixels of one epoch in millions, over all scales that samples show."""
        return len(self) * self.scales_per_sample * self.size**2 / 1e6


def factor(config: PatchesConfig, pixel_m2: float | None) -> float:
    """Number of scene pixels that a patch pixel spans at scale 1. `pixel_m2` is the ground area of a scene pixel in m².

    Raises DataError if `patches.pixel_m` is set and the area is unknown.
    """
    if config.pixel_m == 0:
        return 1.0
    if pixel_m2 is None:
        raise DataError("patches.pixel_m needs the pixel size in metres, which the CRS does not give (it is absent, in "
                        "degrees or stretched); set patches.pixel_m 0, or give the scene a CRS in true metres")
    return config.pixel_m / math.sqrt(pixel_m2)


def factors(config: PatchesConfig, pixel_m2: float | None, name: str) -> tuple[float, ...]:
    """Number of scene pixels that a patch pixel spans at each scale, for the scene or file `name`.

    Raises DataError like `factor`, and if a factor is below 1/8 or above 64.
    """
    try:
        own = factor(config, pixel_m2)
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
    for scale in config.scales:
        if not MIN_FACTOR <= scale * own <= MAX_FACTOR:
            raise DataError(f"{name}: at scale {scale:g} of patches.pixel_m {config.pixel_m:g} a patch pixel spans "
                            f"{scale * own:.3g} of its pixels; choose scales at which it is from 1/8 to {MAX_FACTOR}")
    return tuple(scale * own for scale in config.scales)


def plan(store: Store, config: Config, split: SplitName, *, labels: Split | None = None) -> PatchPlan:
    """Plan the patches of a split at all scales of the configuration, scene by scene and scale by scale.

    A patch belongs to a split if
    - its window (for concentric patches the coarsest one), cut at the edge of the scene, lies in cells of the split,
      and
    - the window has labelled pixels there.
    With `patches.foreign` ignore, the second condition alone is enough.

    No ground is lost: each pixel that some window inside the split can show is in a patch, if the stride is at most the
    size and before filters (for concentric patches, in the finest window). The relevance filters and `patches.balance`
    apply to the train split only; patches of other splits all have the same weight.

    Raises DataError, with the reason, if no patch is left, if a scale has no train patch, if a class does not exist, or
    if `patches.pixel_m` has no meaning in a scene. Time and memory are linear in the number of windows and cells.
    """
    labels = labels or divide(store, config.split)
    classes = [info.name for info in store.classes]
    rules = relevance.rules(config.patches, classes)
    relevance.named(config.patches, classes)
    found = _PlanBuilder(store, config.patches, split, dict(labels.scenes(split)),
                         RelevanceFilter(rules if split == "train" else ()))
    found.run()
    if not found.patches:
        raise DataError(_empty(found))
    if split == "train" and (bare := found.bare()):
        raise DataError(f"{store.uri}: no train patch of {config.patches.size} px at scale {bare[0]:g} is left, but "
                        "prediction averages over every scale; leave it out of patches.scales, or use a smaller "
                        "patches.size, larger blocks or looser filters")
    weight_P, drawn_SK = (found.weigh(classes) if split == "train" and config.patches.balance != "none" else
                          (np.broadcast_to(np.float32(1), found.patches), found.class_pixels_SK))
    scene_P, scale_P = (np.repeat(np.array(values, kind), [len(piece.row_P) for piece in found.pieces])
                        for values, kind in (([piece.scene for piece in found.pieces], np.int32),
                                             ([piece.scale for piece in found.pieces], np.uint8)))
    return PatchPlan(
        size=config.patches.size, scales=config.patches.scales, combine=config.patches.combine,
        scenes=tuple(found.cells), scene_P=scene_P,
        row_P=np.concatenate([piece.row_P for piece in found.pieces]),
        col_P=np.concatenate([piece.col_P for piece in found.pieces]), scale_P=scale_P, weight_P=weight_P,
        side_SC=found.side_SC, level_SC=found.level_SC, chunk=store.settings.chunk, shard=store.settings.shard,
        pixel_bytes=store.bands * store.dtype.itemsize + 1, class_pixels_SK=found.class_pixels_SK,
        drawn_class_pixels_SK=drawn_SK, exact=found.exact / found.patches, notes=tuple(_notes(found)),
        cells=found.cells if config.patches.foreign == "ignore" else None)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Piece:
    """The patches of one scene at one scale."""

    scene: int
    scale: int
    row_P: NDArray[np.int32]
    col_P: NDArray[np.int32]


class _PlanBuilder:
    """Collects the patches of a plan, scene by scene. Class counts of one scene at a time are in memory."""

    def __init__(self, store: Store, config: PatchesConfig, split: SplitName, cells: dict[str, NDArray[np.bool_]],
                 relevant: RelevanceFilter) -> None:
        self.store, self.config, self.split, self.cells, self.relevant = store, config, split, cells, relevant
        scenes = [store.scenes[name] for name in cells]
        unknown = [scene.name for scene in scenes if scene.pixel_m2 is None]
        if config.pixel_m and unknown:
            factors(config, None, f"{store.uri}: scene{'s' * (len(unknown) > 1)} {', '.join(unknown[:8])}"
                                  f"{f', … ({len(unknown)})' * (len(unknown) > 8)}")
        self.factor_SC = np.array([factors(config, scene.pixel_m2, f"{store.uri}: scene {scene.name}")
                                   for scene in scenes]).reshape(len(scenes), len(config.scales))
        self.side_SC = np.rint(config.size * self.factor_SC).astype(np.int32)
        self.level_SC = np.array([[locate(0, 0, int(side), config.size, scene.levels).level for side in side_S]
                                  for side_S, scene in zip(self.side_SC, scenes, strict=True)],
                                 np.int8).reshape(self.side_SC.shape)
        self.pieces: list[_Piece] = []
        self.patches = self.exact = 0
        self.labelled_S, self.unreached_S = np.zeros((2, len(config.placement_scales)))
        self.class_pixels_SK = np.zeros((len(config.placement_scales), len(store.classes)))

    def run(self) -> None:
        """Find the patches of all scenes."""
        for number, (scene, cells_IJ) in enumerate(self.cells.items()):
            counts_IJK = self._counts(scene)
            labelled_IJ, shape = counts_IJK.sum(axis=2), self.store.scenes[scene].shape
            boxes = rectangles(cells_IJ if self.config.foreign == "exclude" else np.ones_like(cells_IJ))
            sums = CellSums(counts_IJK, shape)
            narrowed = self.config.is_concentric and self.config.foreign == "exclude"
            outer = int(self.side_SC[number, -1]) if narrowed else None
            for index, side in enumerate(self._sides(number)):
                stride = max(1, round(self.config.step * float(self.factor_SC[number, index])))
                found = places(shape, boxes, side, stride, outer)
                self.labelled_S[index] += labelled_IJ.sum()
                self.unreached_S[index] += (labelled_IJ * (1 - found.reached_IJ)).sum()
                keep_P = np.zeros(len(found.row_P), np.bool_)
                for some, pixels_PK in sums.by_class(found.row_P, found.col_P, side):
                    keep_P[some] = kept_P = self.relevant.keep(pixels_PK, side)
                    self.class_pixels_SK[index] += pixels_PK[kept_P].sum(axis=0) * (self.config.size / side) ** 2
                piece = _Piece(scene=number, scale=index, row_P=found.row_P[keep_P], col_P=found.col_P[keep_P])
                if side == self.config.size:
                    self.exact += int(sums.exact(piece.row_P, piece.col_P, side).sum())
                self.patches += len(piece.row_P)
                self.pieces.append(piece)

    def bare(self) -> list[float]:
        """The scales that have no patch left."""
        found = {piece.scale for piece in self.pieces if len(piece.row_P)}
        return [scale for index, scale in enumerate(self.config.placement_scales) if index not in found]

    def weigh(self, classes: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Weight of each patch, float32 (P), and the class pixels that an epoch then draws, float64 (S, K).

        Class counts are read a second time: counts for each patch would be many times as large as the plan.
        """
        total_K = self.class_pixels_SK.sum(axis=0)
        balance = relevance.balance(self.config, classes, total_K)
        weight_P, drawn_SK, first = np.empty(self.patches, np.float32), np.zeros_like(self.class_pixels_SK), 0
        for number, scene in enumerate(self.cells):
            sums = CellSums(self._counts(scene), self.store.scenes[scene].shape)
            for index, side in enumerate(self._sides(number)):
                piece = self.pieces[number * len(self.config.placement_scales) + index]
                here_P = weight_P[first:first + len(piece.row_P)]
                for some, pixels_PK in sums.by_class(piece.row_P, piece.col_P, side):
                    pixels_PK *= (self.config.size / side) ** 2
                    here_P[some] = weights = balance.weights(pixels_PK, total_K, self.patches)
                    drawn_SK[index] += weights @ pixels_PK
                first += len(piece.row_P)
        return weight_P, drawn_SK

    def _sides(self, scene: int) -> list[int]:
        """Side of a patch's own window in a scene, by scale."""
        sides: list[int] = self.side_SC[scene, :len(self.config.placement_scales)].tolist()
        return sides

    def _counts(self, scene: str) -> NDArray[np.int64]:
        """Class counts of the split's own cells; 0 in other cells."""
        return self.store.counts(scene) * self.cells[scene][..., None]


def _empty(found: _PlanBuilder) -> str:
    """Why a plan has no patch: the step that left none, the counts before it, and a remedy."""
    config, split, relevant = found.config, found.split, found.relevant
    what = (f"{found.store.uri}: no {split} patch of {config.size} px at scale "
            f"{', '.join(f'{s:g}' for s in config.scales)}: ")
    if not found.cells:
        return what + f"no cell is in the {split} split; give it ground by split.{split} or a fraction"
    if not relevant.seen:
        sides = np.unique(found.side_SC[:, -1] if config.is_concentric else found.side_SC).tolist()
        return what + (f"no window of {' or '.join(map(str, sides))} scene pixels fits into the {split} cells of "
                       f"{len(found.cells)} scenes; use a smaller patches.size or patches.scales, larger blocks, or "
                       "patches.foreign ignore")
    where = "lie in" if config.foreign == "exclude" else "are in scenes with"
    rule = relevant.culprit()
    remedy = f"{'lower' if rule.least else 'raise'} {rule.field}" if rule else "give the split labelled ground"
    return what + f"{relevant.seen:,} windows {where} {split} cells; {relevant.story()}; {remedy}"


def _notes(found: _PlanBuilder) -> list[str]:
    """Remarks for the user of a plan."""
    config, split, notes = found.config, found.split, []
    levels_C = np.array([found.store.scenes[name].levels for name in found.cells])
    for index, scale in enumerate(config.scales):
        wanted_C = np.array([(side // config.size).bit_length() - 1 for side in found.side_SC[:, index].tolist()])
        if few := int((wanted_C > levels_C - 1).sum()):
            notes.append(f"Scale {scale:g} is coarser than the levels of {few} of {len(levels_C)} {split} scenes; "
                         "their coarsest is read and resampled.")
    for index, scale in enumerate(config.placement_scales):
        if lost := round(found.unreached_S[index]):
            around_it = f" and the ground around it at scale {config.scales[-1]:g}" if config.is_concentric else ""
            notes.append(f"{lost:,} of {round(found.labelled_S[index]):,} labelled {split} pixels lie where no window "
                         f"of scale {scale:g}{around_it} fits into the {split} cells; no patch reaches them.")
    notes += [f"No {split} patch is left at scale {scale:g}." for scale in found.bare()]
    if config.step > config.size:
        notes.append(f"patches.stride {config.step} is more than patches.size {config.size}: pixels between patches "
                     "are in none.")
    if found.relevant.dropped:
        notes.append(f"Of {found.relevant.seen:,} {split} windows {found.relevant.story()}.")
    return notes

