"""What a training loop works with: everything that stays the same through a run, and the running totals.

The order in which a run starts: the split and the plan from the store's counts; the network from the seed; then, where
the context names a checkpoint, everything that changes from it.
"""

import json
import math
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from patchstore import Store
from swath.config import Config
from swath.loading import reader
from swath.loading.augment import Augment
from swath.loading.loader import Batch, Costs, Loader
from swath.models import inference, network, norms, transfer
from swath.models.checkpoint import Card
from swath.models.network import Net
from swath.patches import planning
from swath.patches.planning import PatchPlan
from swath.scoring import counting, metrics
from swath.splits import division
from swath.splits.division import Split
from swath.training import losses
from swath.training.context import Context
from swath.training.micro_batch import MicroBatch
from swath.training.state import State, optimiser

Trained = DistributedDataParallel | Net


class Job:
    """What stays the same through a run: data, plan, loss, lengths."""

    def __init__(self, config: Config, store: Store, context: Context) -> None:
        self.config, self.store, self.context = config, store, context
        self.classes = len(store.classes)
        self.card = Card.of(store)
        self.split = division.divide(store, config.split)
        self.plan = planning.plan(store, config, "train", labels=self.split)
        self.val_plan = planning.plan(store, config, "val", labels=self.split)
        self.precision = inference.precision(config.train.precision, context.device)
        weights_K = losses.class_weights(division.class_pixels(store, self.split, "train"), config.loss.class_weights)
        self.loss = losses.Loss(config.loss, self.classes, store.ignore, weights_K)
        self.loader = Loader(store=store, plan=self.plan, batch=config.train.batch, seed=config.train.seed,
                             rank=context.rank, world_size=context.world_size,
                             augment=Augment(config.augment, size=config.patches.size, bands=store.bands,
                                             dtype=store.dtype, ignore=store.ignore,
                                             scales=config.patches.scales[:config.patches.at_once]),
                             readers=config.cluster.readers,
                             device=context.device, stuck_s=config.cluster.stuck_s)
        self.micro = micro_batches(config, context.world_size)
        self.step_megapixels = step_megapixels(config)
        self.steps = step_count(config, self.plan)
        self.thaw = round(config.train.freeze * self.steps)
        """The step from which on the encoder is trained."""
        self.report_megapixels = counting.report_megapixels(store, self.split, config)
        self.sample = counting.sample(store, self.split, "val", config)
        self.val_present_K = division.class_pixels(store, self.split, "val") > 0
        self.tally = Tally(self.classes, self.loader.costs)
        self.samples = Samples(config.track.samples, context.rank)

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
                      scaler=torch.amp.GradScaler(device.type, enabled=self.precision == "fp16"), manner=self.manner)
        if self.context.resume is not None and (
                changes := state.restore(self.context.resume, self.config, self.card, device)):
            self.context.note(changes)
        net.train()
        return state

    def network(self, state: State) -> Trained:
        """The network to train from the state's step on: its encoder frozen or not, compiled, and shared with the other
        workers, as the configuration has it."""
        state.net.freeze(state.step < self.thaw)
        if self.config.train.compile:
            state.net.compile()
        return DistributedDataParallel(state.net) if self.context.world_size > 1 else state.net

    def _find_micro_batch(self, net: Net) -> None:
        """Find by trial how many patches fit the device: the fewest that do on any rank. Ranks try on their own, so a
        normalisation that waits for the others must not be there yet."""
        buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
        self.micro.find(partial(self._attempt, net))
        if self.context.world_size > 1:
            parts = torch.tensor(self.micro.parts, device=self.context.device)
            distributed.all_reduce(parts, distributed.ReduceOp.MAX)
            self.micro.parts = int(parts)
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
    def manner(self) -> dict[str, Any]:
        """How steps are computed now; see `State`."""
        return {"precision": self.precision, "micro_batch": self.micro.most, "workers": self.context.world_size}

    def autocast(self) -> torch.autocast:
        """Arithmetic of the forward pass."""
        return inference.autocast(self.context.device, self.precision)

    def is_due(self, step: int) -> bool:
        """Whether a report follows a step: at every multiple of the interval, and at the end."""
        intervals = (int(s * self.step_megapixels / self.report_megapixels + 1e-9) for s in (step - 1, step))
        return step == self.steps or len(set(intervals)) > 1

    def any_rank(self, *flags: bool) -> list[bool]:
        """For each flag whether it is up on some rank: all of them then do the same."""
        return [count > 0 for count in self.sum_over_ranks(torch.tensor(flags, dtype=torch.float32)).tolist()]

    def share_buffers(self, net: torch.nn.Module) -> None:
        """Give every rank the buffers of rank 0, which are those that a checkpoint holds.

        Each rank's batch normalisation has seen its own patches since the last forward pass shared them; scored with
        these, ranks would score different networks.
        """
        if self.context.world_size > 1:
            for buffer in net.buffers():
                distributed.broadcast(buffer, 0)

    def trained_cells(self) -> dict[str, torch.Tensor]:
        """The cells that are trained on: by a scene's fingerprint, bool (cell row, cell col). Of a scene that is stored
        under several names those of all."""
        trained: dict[str, NDArray[np.bool_]] = {}
        for name, cells in self.split.scenes("train"):
            content = self.store.scenes[name].fingerprint
            trained[content] = trained.get(content, False) | cells
        return {content: torch.from_numpy(cells) for content, cells in trained.items()}

    def sum_over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all ranks, on the CPU."""
        if self.context.world_size > 1:
            values = values.to(self.context.device)
            distributed.all_reduce(values)
        return values.cpu()

    def score_sample(self, forward: inference.Forward) -> dict[str, float]:
        """The score of the validation sample: mean IoU and its standard error."""
        counts = self._count(self.sample.regions, forward)
        strata = np.array([region.stratum for region in self.sample.regions])
        part = metrics.part_score(metrics.Counts(counts).scored("wrong"), strata, self.sample.population_h,
                                  self.val_present_K)
        return {"val_part/miou": part.miou, "val_part/miou_se": part.se}

    def score_whole(self, forward: inference.Forward) -> NDArray[np.int64]:
        """Counts over the whole validation split, by scene: int64 (R, K, K + 4), see metrics.Counts."""
        return self._count(counting.whole(self.store, self.split, "val"), forward, self.config.score.boundary_px)

    def _count(self, regions: list[counting.Region], forward: inference.Forward, boundary_px: int = 0
               ) -> NDArray[np.int64]:
        source = counting.network_source(self.store, forward, self.config, self.context.device)
        mine = counting.count(self.store, self.split, "val", regions, source, boundary_px=boundary_px,
                           rank=self.context.rank, world_size=self.context.world_size)
        return self.sum_over_ranks(torch.from_numpy(mine)).numpy()

    @torch.inference_mode()
    def validation_loss(self, net: torch.nn.Module) -> float:
        """The loss over validation patches spread evenly over the plan, as many pixels as the sample has."""
        count = loss_patches(self.store, self.split, self.config, self.val_plan)
        ids = np.linspace(0, len(self.val_plan) - 1, count).round().astype(np.int64)
        mine = ids[self.context.rank :: self.context.world_size]
        nothing = self.loss.totals(torch.empty(0, 1, 1, dtype=torch.uint8))  # a rank may have no patch
        totals = self.sum_over_ranks(sum((self.loss.totals(labels) for _, labels in self._validation(mine)), nothing))
        loss = torch.zeros(1, dtype=torch.float64)
        for images_NSBHW, labels_NHW in self._validation(mine):
            with self.autocast():
                logits_NKHW = net(images_NSBHW.to(self.context.device))
            loss += self.loss(logits_NKHW.float(), labels_NHW.to(self.context.device), totals).double().cpu()
        return float(self.sum_over_ranks(loss))

    def _validation(self, ids: NDArray[np.int64]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for first in range(0, len(ids), self.micro.most):
            images_NSBHW, labels_NHW = reader.read(self.store, self.val_plan, ids[first : first + self.micro.most])
            yield torch.from_numpy(images_NSBHW), torch.from_numpy(labels_NHW)


def micro_batches(config: Config, workers: int) -> MicroBatch:
    """How the share of each of so many workers is cut. Raises ConfigError for one that is too small for the network."""
    # Of a patch at several scales a batch normalisation sees several images.
    least = 1 if config.patches.at_once > 1 else network.least_batch(config.model, config.patches.size)
    return MicroBatch(config.train.micro_batch, share=config.train.batch // workers, size=config.patches.size,
                      least=least)


def length(config: Config, plan: PatchPlan) -> float:
    """The length of a run over a plan, in megapixels seen."""
    return config.train.megapixels or config.train.epochs * plan.megapixels


def step_megapixels(config: Config) -> float:
    """Patch pixels of one optimiser step over all workers, of all scales that are seen, in millions."""
    return config.train.batch * config.patches.at_once * config.patches.size**2 / 1e6


def step_count(config: Config, plan: PatchPlan) -> int:
    """Optimiser steps of a run over a plan: the last one may go past the run's length."""
    return max(1, math.ceil(length(config, plan) / step_megapixels(config) - 1e-9))


def loss_patches(store: Store, split: Split, config: Config, val_plan: PatchPlan) -> int:
    """Validation patches that the validation loss is taken over: as many pixels as the sample has."""
    wanted = counting.sample_megapixels(store, split, config) * 1e6 / config.patches.size**2
    return min(len(val_plan), max(1, round(wanted)))


class Samples:
    """What a rank is trained on: a line of JSON a step in FOLDER/rank-R.jsonl, or nothing where no folder is named."""

    def __init__(self, folder: str, rank: int) -> None:
        self._path = Path(folder, f"rank-{rank}.jsonl") if folder else None
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)

    def note(self, batch: Batch, loss: float) -> None:
        """Write a completed step's line, with this rank's share of its loss. A run that goes on adds to the file: the
        last line of a step holds."""
        if self._path:
            with self._path.open("a") as file:
                file.write(json.dumps({"step": batch.index, "ids": batch.ids.tolist(), "loss": loss}) + "\n")


class Tally:
    """What was trained since the last report, and what loading it has cost."""

    def __init__(self, classes: int, costs: Costs) -> None:
        self._classes, self._costs = classes, costs
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.steps, self.loss, self._began = 0, 0.0, time.perf_counter()
        self.counts_KK = np.zeros((self._classes, self._classes), np.int64)
        self._before = replace(self._costs)
        self._earlier: torch.Tensor | float = 0.0

    def add(self, loss: float, counts_KK: NDArray[np.int64]) -> None:
        """Take one step's results."""
        self.steps, self.loss, self.counts_KK = self.steps + 1, self.loss + loss, self.counts_KK + counts_KK
        self.seconds = time.perf_counter() - self._began

    def save(self, job: Job) -> dict[str, Any]:
        """What `restore` takes, on any number of ranks; every rank calls it."""
        return {"steps": self.steps, "device_seconds": self.seconds * job.context.world_size, "sums": self._sums(job)}

    def restore(self, saved: dict[str, Any], job: Job) -> None:
        """Go on, after `clear`, from what was saved in the middle of an interval."""
        self.steps, self._earlier = saved["steps"], saved["sums"].cpu()
        self.seconds = saved["device_seconds"] / job.context.world_size
        self._began -= self.seconds

    def numbers(self, job: Job) -> dict[str, float]:
        """The metrics of training, over all ranks."""
        sums = self._sums(job).numpy()
        counts_KK = sums[3:].reshape(self.counts_KK.shape).astype(np.int64)
        pixels = self.steps * job.step_megapixels
        return {"train/loss": float(sums[0]) / self.steps,
                "train/miou": metrics.mean_iou(counts_KK, counts_KK.sum(axis=1) > 0),
                "speed/megapixels_per_s": pixels / self.seconds,
                "speed/patches_per_s": self.steps * job.config.train.batch / self.seconds,
                "speed/waiting_share": float(sums[1]) / job.context.world_size / self.seconds,
                "speed/read_megabytes": float(sums[2]) / 1e6}

    def _sums(self, job: Job) -> torch.Tensor:
        """Sums over all ranks, float64 (3 + K * K): the loss, seconds waited for batches, bytes read, counts."""
        waited_s = self._costs.waiting_s - self._before.waiting_s
        read = self._costs.bytes_read - self._before.bytes_read
        mine = torch.tensor([self.loss, waited_s, read, *self.counts_KK.ravel()], dtype=torch.float64)
        return job.sum_over_ranks(mine) + self._earlier
