"""What an ingest will take, from a few strips of its sources: read, counted, reduced and encoded, but not written."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from patchstore.errors import SourceError
from patchstore.format.pyramid import cell_counts, cell_moments
from patchstore.ingestion.plan import ScenePlan
from patchstore.ingestion.shards import encode, reduce
from patchstore.sources.scene_reader import SceneReader

_STRIPS = 4
"""Strips that are looked at, each of another scene where there are as many."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What the scenes of an ingest come to."""

    pixels: int
    shards: int
    """Files of pixels."""
    size: int
    """Bytes: an estimate."""
    seconds: float
    """Of one process on this machine: an estimate."""
    refused: tuple[str, ...]
    """What was wrong with strips that were looked at."""


def estimate(plans: Sequence[ScenePlan]) -> Estimate:
    """Size and time of plans, extrapolated by pixels from the middle strips of up to four of the scenes."""
    chosen = [plans[i] for i in np.unique(np.linspace(0, len(plans) - 1, _STRIPS).round().astype(int))
              ] if plans else []
    tried: list[tuple[int, int, float]] = []
    refused: list[str] = []
    for plan in chosen:
        try:
            tried.append(_strip(plan))
        except SourceError as error:
            refused.append(str(error))
    pixels = sum(_pixels(plan) for plan in plans)
    share = pixels / max(1, sum(count for count, _, _ in tried))
    return Estimate(pixels=pixels, refused=tuple(refused), shards=sum(plan.layout.shards for plan in plans),
                    size=round(share * sum(size for _, size, _ in tried)),
                    seconds=share * sum(seconds for _, _, seconds in tried))


def _strip(plan: ScenePlan) -> tuple[int, int, float]:
    """(pixels, bytes in the store, seconds) of a strip of chunks."""
    settings, (height, width) = plan.settings, plan.scene.shape
    first = height // 2 // settings.chunk * settings.chunk
    rows = (first, min(first + settings.chunk, height))
    began = time.perf_counter()
    with SceneReader(plan.source, plan.coding, settings.ignore) as reader:
        image_BHW, valid_HW = reader.pixels(rows, (0, width))
        labels_HW, _ = reader.labels(rows)
    planes = {name: values for name, values in (("image", image_BHW), ("mask", labels_HW), ("valid", valid_HW))
              if values is not None}
    levels = range(1, plan.scene.levels)
    arrays = {f"0/{name}": values for name, values in planes.items()} | {"moments": cell_moments(image_BHW, valid_HW)}
    for name, reduced in (reduce(planes, levels) if levels else {}).items():
        arrays |= {f"{level}/{name}": values for level, values in reduced.items()}
    if labels_HW is not None:
        arrays["counts"] = cell_counts(labels_HW, len(settings.classes))
    size = sum(len(content) for place, values in arrays.items()
               for content in encode(plan.layout.array(place), values, (0,) * values.ndim).values())
    return (rows[1] - rows[0]) * width, size, time.perf_counter() - began


def _pixels(plan: ScenePlan) -> int:
    return plan.scene.shape[0] * plan.scene.shape[1]
