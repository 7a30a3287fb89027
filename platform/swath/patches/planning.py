"""The plan: which patches exist, and with what weight each is drawn.

Pure: it reads the counts of classes by 64 px cell, and no pixel. Positions are full-resolution scene pixels; a patch
of `size` pixels at scale s spans a window of round(size x factor) of them, where the factor is s, or what s times
`patches.pixel_m` metres are in pixels of the scene.

Legend: P patches, K classes, I, J rows and columns of cells; _SC is (scenes, scales), _SK (scales, classes).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from patchstore import CELL, Store, Window
from patchstore.format import ENLARGED, centres, locate
from swath.config import Config, PatchesConfig
from swath.errors import DataError
from swath.geometry import around
from swath.patches import relevance
from swath.patches.places import CellSums, places, rectangles
from swath.patches.relevance import Sieve
from swath.splits.division import Split, SplitName, divide

LEAST, MOST = 1 / ENLARGED, 64
"""Scene pixels along a patch pixel: finer shows nothing but interpolation, coarser is past the levels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Own:
    """Which pixels of a patch lie in its split's own cells; small, to be sent to who reads the patch."""

    cells_IJ: NDArray[np.bool_]
    """The cells that the patch touches."""
    row_H: NDArray[np.uint16]
    """For each row of the patch its row of cells."""
    col_W: NDArray[np.uint16]
    """For each column of the patch its column of cells."""

    def keep(self, labels_HW: NDArray[np.uint8], ignore: int) -> None:
        """Ignore, in place, the patch's labels elsewhere."""
        labels_HW[~self.cells_IJ[np.ix_(self.row_H, self.col_W)]] = ignore


@dataclass(frozen=True, kw_only=True, eq=False)
class PatchPlan:
    """The patches of a split: 13 bytes each, 17 where weights differ.

    Concentric patches are those of the finest scale: their place, labels, counts and weights are of its windows. Around
    the same centre they show the ground of the further scales too, whose labels nobody reads.
    """

    size: int
    """Side of a patch in patch pixels."""
    scales: tuple[float, ...]
    """The scales, as configured."""
    scenes: tuple[str, ...]
    """The split's scenes."""
    scene_P: NDArray[np.int32]
    """Index of each patch's scene."""
    row_P: NDArray[np.int32]
    """First row of each patch's window, in full-resolution scene pixels."""
    col_P: NDArray[np.int32]
    """First column of the window."""
    scale_P: NDArray[np.uint8]
    """Index of each patch's scale."""
    weight_P: NDArray[np.float32]
    """Expected draws of each patch in an epoch, 1 in the mean; one value of stride zero where all are alike."""
    side_SC: NDArray[np.int32]
    """Side of a window in full-resolution scene pixels, by (scene, scale)."""
    level_SC: NDArray[np.int8]
    """Level that is read, by (scene, scale)."""
    chunk: int
    """Side of the store's chunks in pixels."""
    shard: int
    """Side of the store's shards in pixels."""
    pixel_bytes: int
    """Bytes of a decoded pixel: its bands and its label."""
    there_SK: NDArray[np.float64]
    """Patch pixels of each class in the patches of each scale of `placed`, each patch once."""
    drawn_SK: NDArray[np.float64]
    """The same as expected in an epoch of draws."""
    exact: float
    """Share of the patches whose class pixels are exact: at full resolution, with edges on the grid of cells. Those of
    others are estimated: from the cells that they cut, and because labels of coarser levels are majorities."""
    notes: tuple[str, ...]
    """What whoever uses the plan should know, each a sentence."""
    cells: Mapping[str, NDArray[np.bool_]] | None
    """The split's cells by scene where patches reach over foreign ones, whose labels are to be ignored; else none."""
    together: bool = False
    """Whether a patch is seen at all scales at once (concentric), or at its own."""

    def __len__(self) -> int:
        return len(self.scene_P)

    @property
    def at_once(self) -> int:
        """How many scales a patch is seen at."""
        return len(self.scales) if self.together else 1

    @property
    def placed(self) -> tuple[float, ...]:
        """The scales that patches lie at: of concentric ones the finest."""
        return self.scales[:1] if self.together else self.scales

    def views(self, ids: Sequence[int] | NDArray[np.int64]) -> list[tuple[Window, ...]]:
        """All that is seen of patches: for each id its window, and those of the further scales around its centre. They
        may begin outside of the scene."""
        windows = self.windows(ids)
        if not self.together:
            return [(window,) for window in windows]
        return [(window, *(Window(window.scene, around(window.row, window.side, side),
                                  around(window.col, window.side, side), side)
                           for side in self.side_SC[self.scene_P[i], 1:].tolist()))
                for i, window in zip(ids, windows, strict=True)]

    def windows(self, ids: Sequence[int] | NDArray[np.int64]) -> list[Window]:
        """The ground of patches: one window for each id, of concentric patches that of the finest scale."""
        return [
            Window(self.scenes[self.scene_P[i]], int(self.row_P[i]), int(self.col_P[i]),
                   int(self.side_SC[self.scene_P[i], self.scale_P[i]]))
            for i in ids
        ]

    def own(self, ids: Sequence[int] | NDArray[np.int64]) -> tuple[Own | None, ...]:
        """Where patches may use their labels; none for each where that is everywhere.

        A pixel of a level lies in one cell: levels have pixels of 1 to 32 scene pixels, cells 64.
        """
        return tuple(None if self.cells is None else self._own(self.cells, int(i)) for i in ids)

    def _own(self, cells: Mapping[str, NDArray[np.bool_]], patch: int) -> Own:
        scene, scale = self.scene_P[patch], self.scale_P[patch]
        cells_IJ, level = cells[self.scenes[scene]], int(self.level_SC[scene, scale])
        square = locate(int(self.row_P[patch]), int(self.col_P[patch]), int(self.side_SC[scene, scale]), self.size,
                        level + 1)
        row_H, col_W = (np.clip((at << level) // CELL, 0, length - 1)
                        for at, length in zip(centres(square, self.size), cells_IJ.shape, strict=True))
        return Own(cells_IJ=cells_IJ[row_H[0]:row_H[-1] + 1, col_W[0]:col_W[-1] + 1],
                   row_H=(row_H - row_H[0]).astype(np.uint16), col_W=(col_W - col_W[0]).astype(np.uint16))

    @property
    def megapixels(self) -> float:
        """Patch pixels of one epoch, of all scales that are seen, in millions."""
        return len(self) * self.at_once * self.size**2 / 1e6


def factor(config: PatchesConfig, pixel_m2: float | None) -> float:
    """Scene pixels that a patch pixel spans at scale 1; `pixel_m2` is the ground of a scene's pixel.

    Raises DataError where `patches.pixel_m` is given and the ground is not known.
    """
    if config.pixel_m == 0:
        return 1.0
    if pixel_m2 is None:
        raise DataError("patches.pixel_m needs the pixel size in metres, which the CRS does not give (it is absent, in "
                        "degrees or stretched); set patches.pixel_m 0, or give the scene a CRS in true metres")
    return config.pixel_m / math.sqrt(pixel_m2)


def factors(config: PatchesConfig, pixel_m2: float | None, name: str) -> tuple[float, ...]:
    """Scene pixels that a patch pixel spans at each scale, in the scene (or file) of this name.

    Raises DataError as `factor`, and for one below 1/8 or above 64.
    """
    try:
        own = factor(config, pixel_m2)
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
    for scale in config.scales:
        if not LEAST <= scale * own <= MOST:
            raise DataError(f"{name}: at scale {scale:g} of patches.pixel_m {config.pixel_m:g} a patch pixel spans "
                            f"{scale * own:.3g} of its pixels; choose scales at which it is from 1/8 to {MOST}")
    return tuple(scale * own for scale in config.scales)


def plan(store: Store, config: Config, split: SplitName, *, labels: Split | None = None) -> PatchPlan:
    """The patches of a split, of every scale of the configuration: scene by scene, scale by scale.

    A patch belongs to a split when its whole window (of a concentric one that of its coarsest scale), as far as it lies
    in the scene, is in cells of that split, and it has labelled pixels there; with `patches.foreign` ignore, when it
    has such pixels at all. A pixel that any whole window of the split could show (of a concentric patch: its finest
    window) is in a patch (for a stride up to the size, before the filters). Train patches that
    fail a filter of relevance are left out, and `patches.balance` weighs them; those of other splits are alike.

    Raises DataError when no patch is left, saying why, for a scale of which no train patch is left, for a class that
    does not exist, and for scenes in which `patches.pixel_m` has no meaning. Time and memory are
    linear in windows and cells.
    """
    labels = labels or divide(store, config.split)
    classes = [info.name for info in store.classes]
    rules = relevance.rules(config.patches, classes)
    relevance.named(config.patches, classes)
    found = _Survey(store, config.patches, split, dict(labels.scenes(split)), Sieve(rules if split == "train" else ()))
    found.run()
    if not found.patches:
        raise DataError(_empty(found))
    if split == "train" and (bare := found.bare()):
        raise DataError(f"{store.uri}: no train patch of {config.patches.size} px at scale {bare[0]:g} is left, but "
                        "prediction averages over every scale; leave it out of patches.scales, or use a smaller "
                        "patches.size, larger blocks or looser filters")
    weight_P, drawn_SK = (found.weigh(classes) if split == "train" and config.patches.balance != "none" else
                          (np.broadcast_to(np.float32(1), found.patches), found.there_SK))
    scene_P, scale_P = (np.repeat(np.array(values, kind), [len(piece.row_P) for piece in found.pieces])
                        for values, kind in (([piece.scene for piece in found.pieces], np.int32),
                                             ([piece.scale for piece in found.pieces], np.uint8)))
    return PatchPlan(
        size=config.patches.size, scales=config.patches.scales, together=config.patches.together,
        scenes=tuple(found.cells), scene_P=scene_P,
        row_P=np.concatenate([piece.row_P for piece in found.pieces]),
        col_P=np.concatenate([piece.col_P for piece in found.pieces]), scale_P=scale_P, weight_P=weight_P,
        side_SC=found.side_SC, level_SC=found.level_SC, chunk=store.settings.chunk, shard=store.settings.shard,
        pixel_bytes=store.bands * store.dtype.itemsize + 1, there_SK=found.there_SK, drawn_SK=drawn_SK,
        exact=found.exact / found.patches, notes=tuple(_notes(found)),
        cells=found.cells if config.patches.foreign == "ignore" else None)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Piece:
    """The patches of one scene at one scale."""

    scene: int
    scale: int
    row_P: NDArray[np.int32]
    col_P: NDArray[np.int32]


class _Survey:
    """What a plan is made of, scene by scene: each scene's cells are in memory only while it is looked at."""

    def __init__(self, store: Store, config: PatchesConfig, split: SplitName, cells: dict[str, NDArray[np.bool_]],
                 sieve: Sieve) -> None:
        self.store, self.config, self.split, self.cells, self.sieve = store, config, split, cells, sieve
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
        self.labelled_S, self.unreached_S = np.zeros((2, len(config.placed)))
        self.there_SK = np.zeros((len(config.placed), len(store.classes)))

    def run(self) -> None:
        """Find the patches."""
        for number, (scene, cells_IJ) in enumerate(self.cells.items()):
            counts_IJK = self._counts(scene)
            labelled_IJ, shape = counts_IJK.sum(axis=2), self.store.scenes[scene].shape
            boxes = rectangles(cells_IJ if self.config.foreign == "exclude" else np.ones_like(cells_IJ))
            sums = CellSums(counts_IJK, shape)
            outer = int(self.side_SC[number, -1]) if self.config.together and self.config.foreign == "exclude" else None
            for index, side in enumerate(self._sides(number)):
                stride = max(1, round(self.config.step * float(self.factor_SC[number, index])))
                found = places(shape, boxes, side, stride, outer)
                self.labelled_S[index] += labelled_IJ.sum()
                self.unreached_S[index] += (labelled_IJ * (1 - found.reached_IJ)).sum()
                keep_P = np.zeros(len(found.row_P), np.bool_)
                for some, pixels_PK in sums.by_class(found.row_P, found.col_P, side):
                    keep_P[some] = kept_P = self.sieve.keep(pixels_PK, side)
                    self.there_SK[index] += pixels_PK[kept_P].sum(axis=0) * (self.config.size / side) ** 2
                piece = _Piece(scene=number, scale=index, row_P=found.row_P[keep_P], col_P=found.col_P[keep_P])
                if side == self.config.size:
                    self.exact += int(sums.exact(piece.row_P, piece.col_P, side).sum())
                self.patches += len(piece.row_P)
                self.pieces.append(piece)

    def bare(self) -> list[float]:
        """The scales of which no patch is left."""
        found = {piece.scale for piece in self.pieces if len(piece.row_P)}
        return [scale for index, scale in enumerate(self.config.placed) if index not in found]

    def weigh(self, classes: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """The weight of every patch, and the class pixels that are then drawn: float32 (P), float64 (S, K).

        The cells are read again: class pixels by patch would be many times as large as the plan.
        """
        total_K = self.there_SK.sum(axis=0)
        balance = relevance.balance(self.config, classes, total_K)
        weight_P, drawn_SK, first = np.empty(self.patches, np.float32), np.zeros_like(self.there_SK), 0
        for number, scene in enumerate(self.cells):
            sums = CellSums(self._counts(scene), self.store.scenes[scene].shape)
            for index, side in enumerate(self._sides(number)):
                piece = self.pieces[number * len(self.config.placed) + index]
                here_P = weight_P[first:first + len(piece.row_P)]
                for some, pixels_PK in sums.by_class(piece.row_P, piece.col_P, side):
                    pixels_PK *= (self.config.size / side) ** 2
                    here_P[some] = weights = balance.weights(pixels_PK, total_K, self.patches)
                    drawn_SK[index] += weights @ pixels_PK
                first += len(piece.row_P)
        return weight_P, drawn_SK

    def _sides(self, scene: int) -> list[int]:
        """Sides of the windows that patches have in a scene, by scale."""
        sides: list[int] = self.side_SC[scene, :len(self.config.placed)].tolist()
        return sides

    def _counts(self, scene: str) -> NDArray[np.int64]:
        """Counts by cell, of the split's own cells alone."""
        return self.store.counts(scene) * self.cells[scene][..., None]


def _empty(found: _Survey) -> str:
    """Why a plan has no patch: which step left none, what was there before it, and what to do."""
    config, split, sieve = found.config, found.split, found.sieve
    what = (f"{found.store.uri}: no {split} patch of {config.size} px at scale "
            f"{', '.join(f'{s:g}' for s in config.scales)}: ")
    if not found.cells:
        return what + f"no cell is in the {split} split; give it ground by split.{split} or a fraction"
    if not sieve.seen:
        sides = np.unique(found.side_SC[:, -1] if config.together else found.side_SC).tolist()
        return what + (f"no window of {' or '.join(map(str, sides))} scene pixels fits into the {split} cells of "
                       f"{len(found.cells)} scenes; use a smaller patches.size or patches.scales, larger blocks, or "
                       "patches.foreign ignore")
    where = "lie in" if config.foreign == "exclude" else "are in scenes with"
    rule = sieve.culprit()
    remedy = f"{'lower' if rule.least else 'raise'} {rule.field}" if rule else "give the split labelled ground"
    return what + f"{sieve.seen:,} windows {where} {split} cells; {sieve.story()}; {remedy}"


def _notes(found: _Survey) -> list[str]:
    """What whoever uses the plan should know."""
    config, split, notes = found.config, found.split, []
    levels_C = np.array([found.store.scenes[name].levels for name in found.cells])
    for index, scale in enumerate(config.scales):
        wanted_C = np.array([(side // config.size).bit_length() - 1 for side in found.side_SC[:, index].tolist()])
        if few := int((wanted_C > levels_C - 1).sum()):
            notes.append(f"Scale {scale:g} is coarser than the levels of {few} of {len(levels_C)} {split} scenes; "
                         "their coarsest is read and resampled.")
    for index, scale in enumerate(config.placed):
        if lost := round(found.unreached_S[index]):
            around_it = f" and the ground around it at scale {config.scales[-1]:g}" if config.together else ""
            notes.append(f"{lost:,} of {round(found.labelled_S[index]):,} labelled {split} pixels lie where no window "
                         f"of scale {scale:g}{around_it} fits into the {split} cells; no patch reaches them.")
    notes += [f"No {split} patch is left at scale {scale:g}." for scale in found.bare()]
    if config.step > config.size:
        notes.append(f"patches.stride {config.step} is more than patches.size {config.size}: pixels between patches "
                     "are in none.")
    if found.sieve.dropped:
        notes.append(f"Of {found.sieve.seen:,} {split} windows {found.sieve.story()}.")
    return notes

