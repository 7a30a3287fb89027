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
from swath.runtime import keep_memory
from swath.scoring import counting, metrics
from swath.training.context import Context
from swath.training.micro_batch import fits
from swath.training.schedule import ema_decay, learning_rate
from swath.training.setup import Job, Trained
from swath.training.state import State


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
    """Train one model, score it, and report on the way.

    Raises DataError when the store cannot serve the configuration, TrainingError when the loss is not finite, and
    CheckpointError when the context's checkpoint is not of this run.
    """
    if context.device.type == "cpu":
        keep_memory()
    job = Job(config, store, context)
    state = job.start()
    resumed = kept = state.step
    train = job.network(state)
    stop = False
    job.tally.clear()  # its clock begins here
    if state.tally is not None:
        job.tally.restore(state.tally, job)
        state.tally = None
    elif state.history:  # the report may have been lost that the checkpoint came with
        context.report(state.history[-1], None)
    for batch in job.loader.batches(state.step, job.steps):
        stop, due = job.any_rank(context.stop(state.megapixels), context.save_due())
        if (stop or due) and state.step > kept:
            save(job, state)
            kept = state.step
        if stop:
            break
        if state.step == job.thaw > resumed:
            train = job.network(state)
        loss, counts_KK = train_step(job, state, train, batch)
        job.tally.add(loss, counts_KK)
        job.samples.note(batch, loss)
        if job.is_due(state.step) and state.step < job.steps:
            report(job, state, final=False)
            kept = state.step
    if not stop and state.counts_RKQ is None:
        if state.step > kept:
            save(job, state)  # to score a whole split takes its time
        report(job, state, final=True)
    return Run(metrics=state.history[-1] if state.history else {}, checkpoint=context.newest,
               megapixels=state.megapixels, history=state.history, counts_RKQ=state.counts_RKQ)


def train_step(job: Job, state: State, train: Trained, batch: Batch) -> tuple[float, NDArray[np.int64]]:
    """One optimiser step over this rank's share of a global batch: its share of the loss, and its K x K counts.

    Raises TrainingError when the loss is not finite, and when the device's memory does not hold as little as the
    network can be trained on.
    """
    totals = job.sum_over_ranks(job.loss.totals(batch.labels_NHW))
    done: list[tuple[float, NDArray[np.int64]]] = []
    while not fits(lambda: done.append(gradients(job, state, train, batch, totals))):
        _shrink(job, state)
    loss, counts_KK = done[0]
    if not math.isfinite(loss):
        raise TrainingError(f"the loss is {loss} at step {state.step} ({state.megapixels:.3f} Mpx) on "
                            f"{_culprits(job, state, batch)}; lower train.lr, or look for pixels that are not finite")
    _update(job, state)
    if state.average is not None:
        state.follow(state.average, ema_decay(job.config.train, state.step, job.step_megapixels))
    state.step += 1
    state.megapixels = state.step * job.step_megapixels
    return loss, counts_KK


def gradients(job: Job, state: State, train: Trained, batch: Batch, totals: torch.Tensor
              ) -> tuple[float, NDArray[np.int64]]:
    """Add up the gradients of a share's micro-batches. All of them, over all ranks, sum to the loss of the whole batch,
    which `totals` are of."""
    torch.manual_seed(hash((job.config.train.seed, state.step, job.context.rank)) % 2**63)  # for dropout
    loss, counts_KK = torch.zeros((), device=job.context.device), np.zeros((job.classes, job.classes), np.int64)
    sizes = job.micro.sizes
    for number, (images_NSBHW, labels_NHW) in enumerate(batch.parts(sizes), start=1):
        last = number == len(sizes)  # gradients cross the network once a step
        with train.no_sync() if isinstance(train, DistributedDataParallel) and not last else nullcontext():
            with job.autocast():
                logits_NKHW = train(images_NSBHW)
            piece = job.loss(logits_NKHW.float(), labels_NHW, totals)
            # DDP averages over ranks; the pieces are to be summed.
            torch.autograd.backward(state.scaler.scale(piece * job.context.world_size))
        loss += piece.detach()
        counts_KK += metrics.confusion(labels_NHW, logits_NKHW.detach().argmax(1), job.classes, job.store.ignore)
    return float(loss), counts_KK


def _update(job: Job, state: State) -> None:
    """Take a step with the gradients that are there. Raises TrainingError for some that are not finite, but where the
    scaler leaves such a step out."""
    config = job.config.train
    for group in state.optimiser.param_groups:
        group["lr"] = group["share"] * learning_rate(config, state.step, job.steps)
    state.scaler.unscale_(state.optimiser)
    norm = torch.nn.utils.clip_grad_norm_(state.net.parameters(), config.clip or math.inf)
    if not state.scaler.is_enabled() and not torch.isfinite(norm):  # the next loss would be, but it may be saved first
        raise TrainingError(f"the gradient is not finite at step {state.step} ({state.megapixels:.3f} Mpx); lower "
                            "train.lr, or set train.clip")
    state.scaler.step(state.optimiser)
    state.scaler.update()
    state.optimiser.zero_grad(set_to_none=True)


def _shrink(job: Job, state: State) -> None:
    """Go on with micro-batches of half the size after the device ran out of memory, and say so.

    Raises TrainingError where that is not possible, and DeviceMemoryError where there are several workers: the others
    wait for this one's gradients, and all have to begin again.
    """
    before = job.micro.most
    state.optimiser.zero_grad(set_to_none=True)
    job.micro.halve()
    text = (f"out of memory at step {state.step} with {before} patches at once: {job.micro.most} from there on"
            + ("; batch normalisation sees as many, so the run is not the same as one with more memory"
               if norms.depend_on_batch(state.net) else ""))
    if job.context.world_size > 1:
        raise DeviceMemoryError(text, job.micro.most)
    job.context.note(text)


@torch.no_grad()
def _culprits(job: Job, state: State, batch: Batch) -> str:
    """Where the patches lie that the network by itself gives no finite scores for; where each is finite, all."""
    state.net.eval()
    with job.autocast():
        finite = [bool(torch.isfinite(state.net(images_NSBHW)).all()) for images_NSBHW in batch.images_NSBHW[:, None]]
    windows = [window for window, fine in zip(batch.windows, finite, strict=True) if not fine] or list(batch.windows)
    places = [f"{w.scene} row {w.row} col {w.col} side {w.side}" for w in windows]
    return ", ".join(places[:4]) + (f" and {len(places) - 4} more" if len(places) > 4 else "")


def save(job: Job, state: State) -> None:
    """Save between two reports, without a score. Every rank calls it."""
    state.tally, state.manner = job.tally.save(job), job.manner
    if job.context.rank == 0:
        with state.save(job.config, job.card, job.trained_cells()) as folder:
            job.context.save(Path(folder), state.megapixels)
    state.tally = None


def report(job: Job, state: State, *, final: bool) -> None:
    """Score the validation sample (at the end the whole split), save, and tell the context."""
    numbers = job.tally.numbers(job)
    began = time.perf_counter()
    net = state.best
    job.share_buffers(net)
    net.eval()
    forward = inference.network_forward(net, job.precision, job.config.score.symmetries)
    numbers |= job.score_sample(forward)
    numbers["val/loss"] = job.validation_loss(net)
    if not math.isfinite(numbers["val/loss"]):  # a network of NaN would score as one that sees one class everywhere
        raise TrainingError(f"the validation loss is {numbers['val/loss']} at {state.megapixels:.3f} Mpx; "
                            "lower train.lr")
    if final:
        state.counts_RKQ = job.score_whole(forward)
        whole = counting.score_of(job.store, job.split, "val", job.config, state.counts_RKQ)
        numbers |= {name: value for name, value in whole.numbers().items() if value is not None}
    state.net.train()
    scoring = time.perf_counter() - began
    state.device_seconds += (job.tally.seconds + scoring) * job.context.world_size
    numbers |= {"time/scoring_share": scoring / max(job.tally.seconds, 1e-9), "megapixels": state.megapixels,
                "step": state.step, "device_seconds": state.device_seconds, "peak_memory_mb": peak_memory_mb(job),
                "train/micro_batch": job.micro.most}
    state.history.append(numbers)
    state.manner = job.manner
    job.tally.clear()
    if job.context.rank == 0:
        with state.save(job.config, job.card, job.trained_cells()) as folder:
            job.context.report(numbers, Path(folder))
    else:
        job.context.report(numbers, None)


def peak_memory_mb(job: Job) -> float:
    """Most memory that was in use: the device's on a GPU, this process's otherwise."""
    if job.context.device.type == "cuda":
        return torch.cuda.max_memory_allocated(job.context.device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
