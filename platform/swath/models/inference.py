"""The forward pass of a network as prediction takes it: its logits, in which arithmetic, over how many symmetries.

Scores and maps of a checkpoint both come from `load_for_inference`, so that they are of the same bytes.

Shapes: N windows of a batch, S scales at once, B bands, K classes, s the side of a patch.
"""

from collections.abc import Callable
from typing import Literal

import torch

from swath.models.checkpoint import Checkpoint
from swath.runtime import deterministic_convolutions

Forward = Callable[[torch.Tensor], torch.Tensor]
"""images_NSBss, of the scene's dtype and on the device, to float32 scores_NKss; scores are logits, which are blended as
they are."""
Precision = Literal["fp32", "bf16", "fp16"]


def precision(wanted: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device) -> Precision:
    """The arithmetic of a network on a device: `auto` is bf16 on a GPU that has it, fp16 on another, fp32 on a CPU."""
    if wanted != "auto":
        return wanted
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Where a forward pass has an arithmetic."""
    return torch.autocast(device.type, torch.float16 if precision == "fp16" else torch.bfloat16, precision != "fp32")


def load_for_inference(checkpoint: Checkpoint, device: torch.device, symmetries: Literal[1, 8] | None = None
                       ) -> Forward:
    """The forward pass of a checkpoint's network on a device, in the arithmetic and the memory layout of its training;
    symmetries: None takes those of its own score."""
    config = checkpoint.config
    return network_forward(checkpoint.network(device), precision(config.train.precision, device),
                           symmetries or config.score.symmetries)


def network_forward(net: torch.nn.Module, precision: Precision = "fp32", symmetries: Literal[1, 8] = 1) -> Forward:
    """Logits of a network that takes images_NSBHW and gives logits_NKHW; with 8 symmetries their mean over the patch as
    it lies, mirrored, and each of both turned by quarters.

    On a GPU it is deterministic. The forward raises ValueError while the network is in training mode: batch
    normalisation and dropout would make a score depend on its neighbours in the batch, or on chance.
    """
    def forward(images_NSBss: torch.Tensor) -> torch.Tensor:
        if net.training:
            raise ValueError("the network is in training mode: call net.eval() before predicting with it")
        with torch.inference_mode(), deterministic_convolutions(), autocast(images_NSBss.device, precision):
            logits_NKss: torch.Tensor = net(images_NSBss)
        return logits_NKss.float()

    return symmetric(forward) if symmetries == 8 else forward


def symmetric(forward: Forward) -> Forward:
    """The mean of a forward pass over the eight symmetries of the square, each brought back: what it gives turns and
    mirrors with its input."""
    def mean(images_NSBss: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor | float = 0.0
        for turns in range(4):
            turned = images_NSBss.rot90(turns, (-2, -1))
            scores = forward(turned) + forward(turned.flip(-1)).flip(-1)
            total = total + scores.rot90(-turns, (-2, -1))
        return torch.as_tensor(total) / 8

    return mean
