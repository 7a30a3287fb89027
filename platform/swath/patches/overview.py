"""Size of a plan in numbers: patches, megapixels and bytes by split and scale, and the share of each class.

Everything follows from class counts of cells; no pixel is read. S scales, K classes.
"""

from dataclasses import dataclass

import numpy as np

from patchstore import Store
from swath.patches.planning import PatchPlan
from swath.splits.division import Split, SplitName, class_pixels


@dataclass(frozen=True, kw_only=True)
class Row:
    """Patches of one split at one scale."""

    split: SplitName
    scale: float
    patches: int
    side_px: tuple[int, int]
    """Smallest and largest side of a window in scene pixels. They differ if scenes have different pixel sizes."""
    side_m: tuple[float, float] | None
    """Smallest and largest side of a window in metres; None if the pixel size of a scene is unknown."""
    megapixels: float
    """Patch pixels of all patches in millions. Each patch counts once."""
    bytes: int
    """Decoded bytes of all windows, image and labels, at the level from which they are read. Each window counts once.
    The bytes that are fetched differ: chunks are compressed and fetched whole, and neighbours share them."""
    labelled: float | None
    """Share of patch pixels that have a label; None for the coarser scales of concentric patches, whose labels are not
    read."""
    exact: float
    """Share of the split's patches with exact class counts, over all scales; see PatchPlan.exact."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """One class's share of the labelled pixels."""

    name: str
    pixels: int
    """Pixels of the class in the train cells."""
    cells: float
    """Share of the labels in the train cells."""
    patches: float
    """Share of the labels in the train patches. Each patch counts once."""
    drawn: float
    """Share of the labels that an epoch draws, after relevance filters and class balance."""
    drawn_by_scale: tuple[float, ...]
    """The share `drawn` at each placement scale."""


def rows(store: Store, name: SplitName, plan: PatchPlan) -> list[Row]:
    """One row for each scale of a split's plan. A scale without patches has zeros. Concentric patches count at every
    scale."""
    every = []
    for index, scale in enumerate(plan.scales):
        own = index < len(plan.placement_scales)
        patches_C = np.bincount(plan.scene_P[plan.is_concentric | (plan.scale_P == index)], minlength=len(plan.scenes))
        taken = np.flatnonzero(patches_C)
        patches, side_C, level_C = int(patches_C.sum()), plan.side_SC[:, index], plan.level_SC[:, index]
        read_C = (-(-side_C.astype(np.int64) >> level_C)) ** 2 * (plan.pixel_bytes - (not own))
        metres = [None if (area := store.scenes[plan.scenes[c]].pixel_m2) is None else float(side_C[c] * area**0.5)
                  for c in taken.tolist()]
        known = [m for m in metres if m is not None]
        pixels = patches * plan.size**2
        every.append(Row(
            split=name, scale=scale, patches=patches, megapixels=pixels / 1e6, bytes=int((patches_C * read_C).sum()),
            side_px=(int(side_C[taken].min()), int(side_C[taken].max())) if patches else (0, 0),
            side_m=(min(known), max(known)) if known and len(known) == len(metres) else None,
            labelled=(float(plan.class_pixels_SK[index].sum()) / pixels if pixels else 0.0) if own else None,
            exact=float(plan.exact)))
    return every


def shares(store: Store, split: Split, plan: PatchPlan) -> list[Share]:
    """Share of each class in the train cells, in the patches of the train plan, and in the draws of an epoch."""
    pixels_K = class_pixels(store, split, "train")
    cells_K, patches_K, drawn_K = (values_K / max(1, values_K.sum()) for values_K in (
        pixels_K, plan.class_pixels_SK.sum(axis=0), plan.drawn_class_pixels_SK.sum(axis=0)))
    shares_SK = plan.drawn_class_pixels_SK / np.maximum(1, plan.drawn_class_pixels_SK.sum(axis=1, keepdims=True))
    return [Share(name=info.name, pixels=int(pixels_K[k]), cells=float(cells_K[k]), patches=float(patches_K[k]),
                  drawn=float(drawn_K[k]), drawn_by_scale=tuple(shares_SK[:, k].tolist()))
            for k, info in enumerate(store.classes)]
