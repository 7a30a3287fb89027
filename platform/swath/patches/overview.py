"""What a plan amounts to, in numbers: patches, megapixels and bytes by split and scale, and the share of each class.

Pure: it follows from the counts of classes by cell, and no pixel is read. S scales, K classes.
"""

from dataclasses import dataclass

import numpy as np

from patchstore import Store
from swath.patches.planning import PatchPlan
from swath.splits.division import Split, SplitName, class_pixels


@dataclass(frozen=True, kw_only=True)
class Row:
    """The patches of one split at one scale."""

    split: SplitName
    scale: float
    patches: int
    side_px: tuple[int, int]
    """Least and greatest side of a window in scene pixels: they differ with scenes of different pixel sizes."""
    side_m: tuple[float, float] | None
    """The same in metres on the ground; none where a scene's pixel size is not known."""
    megapixels: float
    """Patch pixels of all patches, once each, in millions."""
    bytes: int
    """Decoded bytes of the windows' pixels in the level that they are read from, image and labels, once each. What is
    fetched is whole chunks, compressed, and less than once each where neighbours share them."""
    labelled: float | None
    """Share of the patch pixels that have a label; none for the further scales of concentric patches, at which labels
    are not read."""
    exact: float
    """Share of the split's patches, of all scales, whose class counts are exact, as PatchPlan.exact says."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """One class's share of the labelled pixels."""

    name: str
    pixels: int
    """Pixels of it in the train cells."""
    cells: float
    """Share of the train cells' labels."""
    patches: float
    """Share of the train patches' labels, each patch taken once."""
    drawn: float
    """Share of the labels that an epoch draws, as relevance and balance have it."""
    drawn_by_scale: tuple[float, ...]
    """The same within the patches of each scale that has patches of its own."""


def rows(store: Store, name: SplitName, plan: PatchPlan) -> list[Row]:
    """One row for each scale of a split's plan; scales without a patch have zeros. Concentric patches are in all."""
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
    """Each class's share of the train cells, of the train plan's patches, and of what an epoch draws."""
    pixels_K = class_pixels(store, split, "train")
    cells_K, patches_K, drawn_K = (values_K / max(1, values_K.sum()) for values_K in (
        pixels_K, plan.class_pixels_SK.sum(axis=0), plan.drawn_class_pixels_SK.sum(axis=0)))
    shares_SK = plan.drawn_class_pixels_SK / np.maximum(1, plan.drawn_class_pixels_SK.sum(axis=1, keepdims=True))
    return [Share(name=info.name, pixels=int(pixels_K[k]), cells=float(cells_K[k]), patches=float(patches_K[k]),
                  drawn=float(drawn_K[k]), drawn_by_scale=tuple(shares_SK[:, k].tolist()))
            for k, info in enumerate(store.classes)]
