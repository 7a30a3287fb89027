"""What a training loop works with: everything that stays the same through a run.

The order in which a run starts: the split and the plan from the store's counts; the network from the seed; then, where
the context names a checkpoint, everything that changes from it.
"""

import math
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.parallel import DistributedDataParallel

from swath.config import Config
from swath.loading.augment import Augment
from swath.loading.loader import Loader
from swath.models import inference, network, norms, transfer
from swath.models.checkpoint import ModelCard
from swath.models.network import Net
from swath.patches.planning import PatchPlan
from swath.scoring import counting
from swath.splits import division
from swath.training import losses
from swath.training.context import Context
from swath.training.micro_batch import MicroBatch
from swath.training.prepared import Prepared
from swath.training.ranks import max_over_ranks
from swath.training.state import State, optimiser

Trained = DistributedDataParallel | Net


class TrainingSetup:
    """What stays the same through a run: data, plan, loss, lengths; and how its network is built."""

    def __init__(self, prepared: Prepared, context: Context) -> None:
        config, store = self.config, self.store = prepared.config, prepared.store
        self.prepared, self.context = prepared, context
        self.classes = len(store.classes)
        self.card = ModelCard.of(store)
        self.split, self.plan, self.val_plan = prepared.split, prepared.plan, prepared.val_plan
        self.precision = inference.precision(config.train.precision, context.device)
        weights_K = losses.class_weights(division.class_pixels(store, self.split, "train"), config.loss.class_weights)
        self.loss = losses.Loss(config.loss, self.classes, store.ignore, weights_K)
        self.loader = Loader(store=store, plan=self.plan, batch=config.train.batch, seed=config.train.seed,
                             rank=context.rank, world_size=context.world_size,
                             augment=Augment(config.augment, size=config.patches.size, bands=store.bands,
                                             dtype=store.dtype, ignore=store.ignore,
                                             scales=config.patches.scales[:config.patches.scales_per_sample]),
                             readers=config.cluster.readers,
                             device=context.device, stuck_s=config.cluster.stuck_s)
        self.micro = micro_batches(config, context.world_size)
        self.step_megapixels = step_megapixels(config)
        self.steps = step_count(config, self.plan)
        self.unfreeze_step = round(config.train.freeze * self.steps)
        """The step from which on the encoder is trained."""
        self.report_megapixels = counting.report_megapixels(store, self.split, config)
        self.sample = counting.sample(store, self.split, "val", config)
        self.val_present_K = division.class_pixels(store, self.split, "val") > 0

    def start(self) -> State:
        """The state to begin with: fresh from the seed, or the context's checkpoint's."""
        torch.manual_seed(self.config.train.seed)
        mean_B, std_B = division.band_statistics(self.store, self.split)
        traits = network.DataTraits(bands=self.store.bands, classes=self.classes, dtype=self.store.dtype,
                                    mean_B=mean_B, std_B=std_B)
        net = network.build(self.config.model, traits, combine=self.config.patches.combine,
                            scales=self.config.patches.scales)
        if self.config.model.init_from and self.context.resume is None:
            self.context.note(transfer.begin(net, self.config, self.card))
        device = self.context.device
        net = net.to(device)
        if device.type == "cuda":
            net = net.to(memory_format=torch.channels_last) if self.config.train.channels_last else net
            if self.config.train.micro_batch == "auto":
                self._find_micro_batch(net)
            net = norms.synchronised(net) if self.context.world_size > 1 else net
        average = deepcopy(net).eval() if self.config.train.ema else None
        state = State(net=net, average=average, optimiser=optimiser(self.config.train, net),
                      scaler=torch.amp.GradScaler(device.type, enabled=self.precision == "fp16"),
                      numerics=self.numerics)
        if self.context.resume is not None and (
                changes := state.restore(self.context.resume, self.config, self.card, device)):
            self.context.note(changes)
        net.train()
        return state

    def network(self, state: State) -> Trained:
        """The network to train from the state's step on: its encoder frozen or not, compiled, and shared with the other
        workers, as the configuration has it."""
        state.net.freeze(state.step < self.unfreeze_step)
        if self.config.train.compile:
            state.net.compile()
        return DistributedDataParallel(state.net) if self.context.world_size > 1 else state.net

    def _find_micro_batch(self, net: Net) -> None:
        """Find by trial how many patches fit the device: the fewest that do on any rank. Ranks try on their own, so a
        normalisation that waits for the others must not be there yet."""
        buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
        self.micro.find(partial(self._attempt, net))
        self.micro.parts = max_over_ranks(self.context, self.micro.parts)
        for name, buffer in net.named_buffers():  # of batch normalisation
            buffer.copy_(buffers[name])
        torch.cuda.reset_peak_memory_stats(self.context.device)

    def _attempt(self, net: Net, count: int) -> None:
        """A pass forward and backward over black patches, with room for what the rest of a run takes besides: two
        moments, a copy of the gradients where there are several workers, and the moving average."""
        size, device = self.config.patches.size, self.context.device
        dtype = torch.from_numpy(np.empty(0, self.store.dtype)).dtype
        images_NSBHW = torch.zeros(count, net.scales, self.store.bands, size, size, dtype=dtype, device=device)
        labels_NHW = torch.zeros(count, size, size, dtype=torch.uint8, device=device)
        room = [torch.empty_like(parameter) for parameter in net.parameters() for _ in range(4)]
        try:
            with self.autocast():
                logits_NKHW = net(images_NSBHW)
            torch.autograd.backward(self.loss(logits_NKHW.float(), labels_NHW, self.loss.totals(labels_NHW)))
        finally:
            net.zero_grad(set_to_none=True)
            room.clear()

    @property
    def numerics(self) -> dict[str, Any]:
        """The numeric settings of a step now; see `State.numerics`."""
        return {"precision": self.precision, "micro_batch": self.micro.most, "workers": self.context.world_size}

    def autocast(self) -> torch.autocast:
        """Arithmetic of the forward pass."""
        return inference.autocast(self.context.device, self.precision)

    def is_due(self, step: int) -> bool:
        """Whether a report follows a step: at every multiple of the interval, and at the end."""
        intervals = (int(s * self.step_megapixels / self.report_megapixels + 1e-9) for s in (step - 1, step))
        return step == self.steps or len(set(intervals)) > 1

    def trained_cells(self) -> dict[str, torch.Tensor]:
        """The cells that are trained on: by a scene's fingerprint, bool (cell row, cell col). Of a scene that is stored
        under several names those of all."""
        trained: dict[str, NDArray[np.bool_]] = {}
        for name, cells in self.split.scenes("train"):
            content = self.store.scenes[name].fingerprint
            trained[content] = trained.get(content, False) | cells
        return {content: torch.from_numpy(cells) for content, cells in trained.items()}


def micro_batches(config: Config, workers: int) -> MicroBatch:
    """How the share of each of so many workers is cut. Raises ConfigError for one that is too small for the network."""
    # Of a patch at several scales a batch normalisation sees several images.
    least = 1 if config.patches.scales_per_sample > 1 else network.least_batch(config.model, config.patches.size)
    return MicroBatch(config.train.micro_batch, share=config.train.batch // workers, size=config.patches.size,
                      least=least)


def length(config: Config, plan: PatchPlan) -> float:
    """The length of a run over a plan, in megapixels seen."""
    return config.train.megapixels or config.train.epochs * plan.megapixels


def step_megapixels(config: Config) -> float:
    """Patch pixels of one optimiser step over all workers, of all scales that are seen, in millions."""
    return config.train.batch * config.patches.scales_per_sample * config.patches.size**2 / 1e6


def step_count(config: Config, plan: PatchPlan) -> int:
    """Optimiser steps of a run over a plan: the last one may go past the run's length."""
    return max(1, math.ceil(length(config, plan) / step_megapixels(config) - 1e-9))
