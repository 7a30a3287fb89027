"""Scoring during training: the sample of a report, the whole split at the end, and the validation loss.

Every rank takes a share, and every rank gets the result.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from patchstore import Store
from swath.config import Config
from swath.loading import reader
from swath.models import inference
from swath.names import SAMPLE_MIOU, SAMPLE_MIOU_SE
from swath.patches.planning import PatchPlan
from swath.scoring import counting, metrics
from swath.splits.division import Split
from swath.training.ranks import sum_over_ranks
from swath.training.setup import TrainingSetup


def score_sample(setup: TrainingSetup, forward: inference.Forward) -> dict[str, float]:
    """The score of the validation sample: mean IoU and its standard error."""
    counts = _count(setup, setup.sample.regions, forward)
    strata = np.array([region.stratum for region in setup.sample.regions])
    part = metrics.part_score(metrics.Counts(counts).scored("wrong"), strata, setup.sample.population_h,
                              setup.val_present_K)
    return {SAMPLE_MIOU: part.miou, SAMPLE_MIOU_SE: part.se}


def score_whole(setup: TrainingSetup, forward: inference.Forward) -> NDArray[np.int64]:
    """Counts over the whole validation split, by scene: int64 (R, K, K + 4), see metrics.Counts."""
    return _count(setup, counting.whole(setup.store, setup.split, "val"), forward, setup.config.score.boundary_px)


def _count(setup: TrainingSetup, regions: list[counting.Region], forward: inference.Forward, boundary_px: int = 0
           ) -> NDArray[np.int64]:
    source = counting.network_source(setup.store, forward, setup.config, setup.context.device)
    mine = counting.count(setup.store, setup.split, "val", regions, source, boundary_px=boundary_px,
                          rank=setup.context.rank, world_size=setup.context.world_size)
    return sum_over_ranks(setup.context, torch.from_numpy(mine)).numpy()


@torch.inference_mode()
def validation_loss(setup: TrainingSetup, net: torch.nn.Module) -> float:
    """The loss over validation patches spread evenly over the plan, as many pixels as the sample has."""
    count = loss_patches(setup.store, setup.split, setup.config, setup.val_plan)
    ids = np.linspace(0, len(setup.val_plan) - 1, count).round().astype(np.int64)
    mine = ids[setup.context.rank :: setup.context.world_size]
    nothing = setup.loss.totals(torch.empty(0, 1, 1, dtype=torch.uint8))  # a rank may have no patch
    own = sum((setup.loss.totals(labels) for _, labels in _validation(setup, mine)), nothing)
    totals = sum_over_ranks(setup.context, own)
    loss = torch.zeros(1, dtype=torch.float64)
    for images_NSBHW, labels_NHW in _validation(setup, mine):
        with setup.autocast():
            logits_NKHW = net(images_NSBHW.to(setup.context.device))
        loss += setup.loss(logits_NKHW.float(), labels_NHW.to(setup.context.device), totals).double().cpu()
    return float(sum_over_ranks(setup.context, loss))


def _validation(setup: TrainingSetup, ids: NDArray[np.int64]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for first in range(0, len(ids), setup.micro.most):
        images_NSBHW, labels_NHW = reader.read(setup.store, setup.val_plan, ids[first : first + setup.micro.most])
        yield torch.from_numpy(images_NSBHW), torch.from_numpy(labels_NHW)


def loss_patches(store: Store, split: Split, config: Config, val_plan: PatchPlan) -> int:
    """Validation patches that the validation loss is taken over: as many pixels as the sample has."""
    wanted = counting.sample_megapixels(store, split, config) * 1e6 / config.patches.size**2
    return min(len(val_plan), max(1, round(wanted)))
