"""The training loop, in plain PyTorch: no Ray, no MLflow. All lengths are counted in megapixels seen."""

import math
import resource
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.parallel import DistributedDataParallel

from patchstore import Store
from swath.config import Config
from swath.errors import DeviceMemoryError, TrainingError
from swath.loading.loader import Batch
from swath.models import inference, norms
from swath.names import DEVICE_SECONDS, MEGAPIXELS, VAL_LOSS
from swath.runtime import keep_memory
from swath.scoring import counting, metrics
from swath.training import validation
from swath.training.context import Context
from swath.training.micro_batch import fits
from swath.training.prepared import Prepared
from swath.training.ranks import any_rank, share_buffers, sum_over_ranks
from swath.training.schedule import ema_decay, learning_rate
from swath.training.setup import Trained, TrainingSetup
from swath.training.state import State
from swath.training.tally import Samples, Tally


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """What came of a training."""

    metrics: dict[str, float]
    """The last report's; empty for a run that was stopped before its first."""
    checkpoint: Path | None
    """Folder of the last checkpoint."""
    megapixels: float
    history: list[dict[str, float]]
    """Every report's metrics."""
    counts_RKQ: NDArray[np.int64] | None
    """Counts over each scene of the validation split, as metrics.Counts has them; none for a run that was stopped
    early."""


def fit(config: Config, store: Store, context: Context) -> Run:
    """Train one model of a store, score it, and report on the way.

    Raises DataError when the store cannot serve the configuration, and what `train` raises.
    """
    return train(Prepared.of(config, store), context)


def train(prepared: Prepared, context: Context) -> Run:
    """Train one model, score it, and report on the way.

    Raises TrainingError when the loss is not finite, and CheckpointError when the context's checkpoint is not of this
    run.
    """
    if context.device.type == "cpu":
        keep_memory()
    setup = TrainingSetup(prepared, context)
    state = setup.start()
    resumed = kept = state.step
    net = setup.network(state)
    stop = False
    samples = Samples(prepared.config.track.samples, context.rank)
    tally = Tally(context, classes=setup.classes, costs=setup.loader.costs, batch=prepared.config.train.batch,
                  step_megapixels=setup.step_megapixels)
    if state.tally is not None:
        tally.restore(state.tally)
        state.tally = None
    elif state.history:  # the report may have been lost that the checkpoint came with
        context.report(state.history[-1], None)
    for batch in setup.loader.batches(state.step, setup.steps):
        stop, due = any_rank(context, context.stop(state.megapixels), context.save_due())
        if (stop or due) and state.step > kept:
            save(setup, state, tally)
            kept = state.step
        if stop:
            break
        if state.step == setup.unfreeze_step > resumed:
            net = setup.network(state)
        loss, counts_KK = train_step(setup, state, net, batch)
        tally.add(loss, counts_KK)
        samples.note(batch, loss)
        if setup.is_due(state.step) and state.step < setup.steps:
            report(setup, state, tally, final=False)
            kept = state.step
    if not stop and state.counts_RKQ is None:
        if state.step > kept:
            save(setup, state, tally)  # to score a whole split takes its time
        report(setup, state, tally, final=True)
    return Run(metrics=state.history[-1] if state.history else {}, checkpoint=context.newest,
               megapixels=state.megapixels, history=state.history, counts_RKQ=state.counts_RKQ)


def train_step(setup: TrainingSetup, state: State, train: Trained, batch: Batch) -> tuple[float, NDArray[np.int64]]:
    """One optimiser step over this rank's share of a global batch: its share of the loss, and its K x K counts.

    Raises TrainingError when the loss is not finite, and when the device's memory does not hold as little as the
    network can be trained on.
    """
    totals = sum_over_ranks(setup.context, setup.loss.totals(batch.labels_NHW))
    done: list[tuple[float, NDArray[np.int64]]] = []
    while not fits(lambda: done.append(gradients(setup, state, train, batch, totals))):
        _shrink(setup, state)
    loss, counts_KK = done[0]
    if not math.isfinite(loss):
        raise TrainingError(f"the loss is {loss} at step {state.step} ({state.megapixels:.3f} Mpx) on "
                            f"{_culprits(setup, state, batch)}; lower train.lr, or look for pixels that are not finite")
    _update(setup, state)
    if state.average is not None:
        state.follow(state.average, ema_decay(setup.config.train, state.step, setup.step_megapixels))
    state.step += 1
    state.megapixels = state.step * setup.step_megapixels
    return loss, counts_KK


def gradients(setup: TrainingSetup, state: State, train: Trained, batch: Batch, totals: torch.Tensor
              ) -> tuple[float, NDArray[np.int64]]:
    """Add up the gradients of a share's micro-batches. All of them, over all ranks, sum to the loss of the whole batch,
    which `totals` are of."""
    torch.manual_seed(hash((setup.config.train.seed, state.step, setup.context.rank)) % 2**63)  # for dropout
    loss, counts_KK = torch.zeros((), device=setup.context.device), np.zeros((setup.classes, setup.classes), np.int64)
    sizes = setup.micro.sizes
    for number, (images_NSBHW, labels_NHW) in enumerate(batch.parts(sizes), start=1):
        last = number == len(sizes)  # gradients cross the network once a step
        with train.no_sync() if isinstance(train, DistributedDataParallel) and not last else nullcontext():
            with setup.autocast():
                logits_NKHW = train(images_NSBHW)
            piece = setup.loss(logits_NKHW.float(), labels_NHW, totals)
            # DDP averages over ranks; the pieces are to be summed.
            torch.autograd.backward(state.scaler.scale(piece * setup.context.world_size))
        loss += piece.detach()
        counts_KK += metrics.confusion(labels_NHW, logits_NKHW.detach().argmax(1), setup.classes, setup.store.ignore)
    return float(loss), counts_KK


def _update(setup: TrainingSetup, state: State) -> None:
    """Take a step with the gradients that are there. Raises TrainingError for some that are not finite, but where the
    scaler leaves such a step out."""
    config = setup.config.train
    for group in state.optimiser.param_groups:
        group["lr"] = group["share"] * learning_rate(config, state.step, setup.steps)
    state.scaler.unscale_(state.optimiser)
    norm = torch.nn.utils.clip_grad_norm_(state.net.parameters(), config.clip or math.inf)
    if not state.scaler.is_enabled() and not torch.isfinite(norm):  # the next loss would be, but it may be saved first
        raise TrainingError(f"the gradient is not finite at step {state.step} ({state.megapixels:.3f} Mpx); lower "
                            "train.lr, or set train.clip")
    state.scaler.step(state.optimiser)
    state.scaler.update()
    state.optimiser.zero_grad(set_to_none=True)


def _shrink(setup: TrainingSetup, state: State) -> None:
    """Go on with micro-batches of half the size after the device ran out of memory, and say so.

    Raises TrainingError where that is not possible, and DeviceMemoryError where there are several workers: the others
    wait for this one's gradients, and all have to begin again.
    """
    before = setup.micro.most
    state.optimiser.zero_grad(set_to_none=True)
    setup.micro.halve()
    text = (f"out of memory at step {state.step} with {before} patches at once: {setup.micro.most} from there on"
            + ("; batch normalisation sees as many, so the run is not the same as one with more memory"
               if norms.depend_on_batch(state.net) else ""))
    if setup.context.world_size > 1:
        raise DeviceMemoryError(text, setup.micro.most)
    setup.context.note(text)


@torch.no_grad()
def _culprits(setup: TrainingSetup, state: State, batch: Batch) -> str:
    """Where the patches lie that the network by itself gives no finite scores for; where each is finite, all."""
    state.net.eval()
    with setup.autocast():
        finite = [bool(torch.isfinite(state.net(images_NSBHW)).all()) for images_NSBHW in batch.images_NSBHW[:, None]]
    windows = [window for window, fine in zip(batch.windows, finite, strict=True) if not fine] or list(batch.windows)
    places = [f"{w.scene} row {w.row} col {w.col} side {w.side}" for w in windows]
    return ", ".join(places[:4]) + (f" and {len(places) - 4} more" if len(places) > 4 else "")


def save(setup: TrainingSetup, state: State, tally: Tally) -> None:
    """Save between two reports, without a score. Every rank calls it."""
    state.tally, state.numerics = tally.save(), setup.numerics
    if setup.context.rank == 0:
        with state.save(setup.config, setup.card, setup.trained_cells()) as folder:
            setup.context.save(Path(folder), state.megapixels)
    state.tally = None


def report(setup: TrainingSetup, state: State, tally: Tally, *, final: bool) -> None:
    """Score the validation sample (at the end the whole split), save, and tell the context."""
    numbers = tally.numbers()
    began = time.perf_counter()
    net = state.best
    share_buffers(setup.context, net)
    net.eval()
    forward = inference.network_forward(net, setup.precision, setup.config.score.symmetries)
    numbers |= validation.score_sample(setup, forward)
    numbers[VAL_LOSS] = validation.validation_loss(setup, net)
    if not math.isfinite(numbers[VAL_LOSS]):  # a network of NaN would score as one that sees one class everywhere
        raise TrainingError(f"the validation loss is {numbers['val/loss']} at {state.megapixels:.3f} Mpx; "
                            "lower train.lr")
    if final:
        state.counts_RKQ = validation.score_whole(setup, forward)
        whole = counting.score_of(setup.store, setup.split, "val", setup.config, state.counts_RKQ)
        numbers |= {name: value for name, value in whole.numbers().items() if value is not None}
    state.net.train()
    scoring = time.perf_counter() - began
    state.device_seconds += (tally.seconds + scoring) * setup.context.world_size
    numbers |= {"time/scoring_share": scoring / max(tally.seconds, 1e-9), MEGAPIXELS: state.megapixels,
                "step": state.step, DEVICE_SECONDS: state.device_seconds, "peak_memory_mb": peak_memory_mb(setup),
                "train/micro_batch": setup.micro.most}
    state.history.append(numbers)
    state.numerics = setup.numerics
    tally.clear()
    if setup.context.rank == 0:
        with state.save(setup.config, setup.card, setup.trained_cells()) as folder:
            setup.context.report(numbers, Path(folder))
    else:
        setup.context.report(numbers, None)


def peak_memory_mb(setup: TrainingSetup) -> float:
    """Most memory that was in use: the device's on a GPU, this process's otherwise."""
    if setup.context.device.type == "cuda":
        return torch.cuda.max_memory_allocated(setup.context.device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
