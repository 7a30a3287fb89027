"""The state of a run: what a checkpoint holds, and how it is restored."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from swath.config import Config, TrainConfig
from swath.errors import CheckpointError
from swath.models import checkpoint, norms
from swath.models.checkpoint import ModelCard
from swath.models.network import Net
from swath.models.run_state import RunState


@dataclass(kw_only=True)
class State:
    """All that changes while a run goes on. R scenes of the validation split, K classes, Q = K + 4 columns."""

    net: Net
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    """Scales the loss where the arithmetic is fp16, lest small gradients vanish; elsewhere it does nothing."""
    average: Net | None = None
    """The moving average of the network, where the run keeps one."""
    step: int = 0
    """Optimiser steps done: the place in the order, and the clock that the schedule and the random draws follow."""
    megapixels: float = 0.0
    """Patch pixels seen in completed steps, over all workers, in millions."""
    device_seconds: float = 0.0
    """Seconds of training and scoring so far, times workers."""
    history: list[dict[str, float]] = field(default_factory=list)
    """The metrics of every report."""
    numerics: dict[str, Any] = field(default_factory=dict)
    """Numeric settings of a step, which may differ from one attempt of a run to the next: `precision`, the largest
    `micro_batch`, and the number of `workers`."""
    tally: dict[str, Any] | None = None
    """What was trained since the last report, as tally.Tally saves it, in a state that is saved between two reports."""
    counts_RKQ: NDArray[np.int64] | None = None
    """The final score's counts, once there are any."""

    @property
    def best(self) -> Net:
        """The network to score and to use: the average, where there is one."""
        return self.average or self.net

    @torch.no_grad()
    def follow(self, average: Net, decay: float) -> None:
        """Let the average follow the network: weights and buffers, a share `decay` of the old being kept."""
        for old, new in zip(average.state_dict().values(), self.net.state_dict().values(), strict=True):
            if old.is_floating_point():
                old.lerp_(new, 1 - decay)
            else:  # a counter
                old.copy_(new)

    def save(self, config: Config, card: ModelCard, trained: dict[str, torch.Tensor]
             ) -> tempfile.TemporaryDirectory[str]:
        """Write a checkpoint to a temporary folder, which the caller removes when it has been copied.

        `trained`: the cells that are trained on, by their scene's fingerprint, so that they are known in any store.
        """
        folder = tempfile.TemporaryDirectory(prefix="swath-checkpoint-")
        state = RunState(
            net=self.net.state_dict(), average=self.average.state_dict() if self.average else None,
            optimiser=self.optimiser.state_dict(), scaler=self.scaler.state_dict(), step=self.step,
            megapixels=self.megapixels, device_seconds=self.device_seconds, history=self.history, tally=self.tally,
            numerics=self.numerics, trained=trained,
            counts=None if self.counts_RKQ is None else torch.from_numpy(self.counts_RKQ))
        checkpoint.save(Path(folder.name), state, config, card)
        return folder

    def restore(self, folder: Path, config: Config, card: ModelCard, device: torch.device) -> str:
        """Go on from a checkpoint of the same run. Returns a note on the numeric settings that have changed
        and affect the result, or an empty text.

        Random draws need no state of their own: augmentation is seeded by a patch's place in the run, the network's
        draws by the step. Raises CheckpointError when the checkpoint is of another experiment.
        """
        saved = checkpoint.load(folder, device)
        changed = [name for name, value in config.fixed_fields().items()
                       if saved.config.fixed_fields()[name] != value]
        if changed:
            raise CheckpointError(f"{folder}: a checkpoint of another configuration ({', '.join(changed)} differ); "
                                  "start a new run")
        if saved.card.classes != card.classes or saved.card.fingerprint != card.fingerprint:
            raise CheckpointError(f"{folder}: a checkpoint of other data ({saved.card.store}); start a new run")
        state = saved.state
        if not state.optimiser:
            raise CheckpointError(f"{folder}: a checkpoint of weights alone; begin with them by model.init_from")
        self.net.load_state_dict(state.net)
        if self.average is not None:
            self.average.load_state_dict(state.average or {})
        self.optimiser.load_state_dict(state.optimiser)
        if state.scaler:  # empty where the arithmetic was not fp16
            self.scaler.load_state_dict(state.scaler)
        self.step, self.megapixels = state.step, state.megapixels
        self.device_seconds, self.history = state.device_seconds, state.history
        self.tally = state.tally
        self.counts_RKQ = None if state.counts is None else state.counts.cpu().numpy()
        return self._changes(state.numerics)

    def _changes(self, before: dict[str, Any]) -> str:
        matter = ["precision", *(["micro_batch", "workers"] if norms.depend_on_batch(self.net) else [])]
        changes = ", ".join(f"{name} is {self.numerics[name]}, not {before[name]}" for name in matter
                            if before[name] != self.numerics[name])
        return changes and f"from step {self.step} on {changes}; the run is not the same as one in which it stays"


def optimiser(config: TrainConfig, net: Net) -> torch.optim.Optimizer:
    """The configured optimiser over all parameters that are trained: a group for the encoder and one for the rest, each
    with its share of the learning rate. Raises ConfigError for a share of its own where the network has no encoder."""
    apart = net.has_encoder or config.encoder_lr != 1
    encoder = {id(parameter) for parameter in net.encoder.parameters()} if apart else set()
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    groups = [{"params": [p for p in trained if (id(p) in encoder) == inside], "share": share}
              for inside, share in ((True, config.encoder_lr), (False, 1.0))]
    match config.optimiser:
        case "adamw":
            return torch.optim.AdamW(groups, config.lr, weight_decay=config.weight_decay)
        case "adam":
            return torch.optim.Adam(groups, config.lr, weight_decay=config.weight_decay)
        case "sgd":
            return torch.optim.SGD(groups, config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
