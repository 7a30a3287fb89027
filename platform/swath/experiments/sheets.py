"""A contact sheet: a few train patches and their labels as the network sees them, under each named augmentation
and the configured one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchstore import Store
from swath import figures
from swath.config import Config
from swath.errors import ConfigError
from swath.loading import reader
from swath.loading.augment import PIPELINES, Augment
from swath.loading.reader import Task
from swath.patches.planning import PatchPlan

_COLUMNS = 6
"""Patches on the sheet, over all scales."""


def draw(path: Path, store: Store, config: Config, plan: PatchPlan) -> list[str]:
    """Draw a few patches of each scale under each augmentation, concentric ones at all their scales; notes say which
    augmentations the store's pixels or several scales rule out."""
    ids = np.concatenate([_spread(np.flatnonzero(plan.scale_P == index), max(1, _COLUMNS // len(plan.placement_scales)))
                          for index in range(len(plan.placement_scales))])
    task = Task(index=0, slot=0, place=0, views=tuple(plan.views(ids)), own=plan.own(ids))
    rows, notes = [], list[str]()
    for name in dict.fromkeys((*PIPELINES, config.augment.pipeline)):
        try:
            augment = Augment(replace(config.augment, pipeline=name), size=plan.size, bands=store.bands,
                              dtype=store.dtype, scales=plan.scales[:plan.scales_per_sample], ignore=store.ignore)
        except ConfigError as error:
            notes.append(f"not on the sheet: {error}")
            continue
        images_NSBHW = np.empty((len(ids), plan.scales_per_sample, store.bands, plan.size, plan.size), store.dtype)
        labels_NHW = np.empty((len(ids), plan.size, plan.size), np.uint8)
        wait, vary = reader.begin(store, task, images_NSBHW, labels_NHW, augment, config.train.seed)
        wait()
        vary()
        rows.append((name, images_NSBHW, labels_NHW))
    each = [",".join(f"{scale:g}" for scale in (plan.scales if plan.is_concentric else (plan.scales[plan.scale_P[i]],)))
            for i in ids]
    figures.contact(path, rows, titles=[f"{window.scene} x{scales}"
                                         for window, scales in zip(task.windows, each, strict=True)],
                     colours=[info.colour for info in store.classes], names=[info.name for info in store.classes],
                     ignore=store.ignore)
    return notes


def _spread(ids_P: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """A few of the ids, evenly spread: all where there are no more."""
    count = min(most, len(ids_P))
    return ids_P[(2 * np.arange(count) + 1) * len(ids_P) // max(1, 2 * count)]
