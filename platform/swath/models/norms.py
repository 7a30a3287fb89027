"""Normalisation layers: group normalisation, or none, in the place of a network's batch normalisations."""

from typing import Literal, TypeVar

import torch
from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn

from swath.errors import ConfigError

Net = TypeVar("Net", bound=nn.Module)


def replace(net: nn.Module, kind: Literal["group", "none"], who: str) -> None:
    """Put other layers in the place of all batch normalisations. Raises ConfigError where one is of an unknown kind;
    `who` is the network as the message names it."""
    for parent in list(net.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.BatchNorm2d:
                setattr(parent, name, instead(layer, kind))
            elif type(layer) is BatchNormAct2d:  # timm's, with the activation inside
                setattr(parent, name, nn.Sequential(instead(layer, kind), layer.drop, layer.act))
    for layer in net.modules():
        if any(name in ("running_mean", "running_var") for name, _ in layer.named_buffers(recurse=False)):
            raise ConfigError(f"model.norm: {kind} cannot replace the {type(layer).__name__} of {who}; take batch, "
                              "or another network")


def instead(layer: nn.BatchNorm2d, kind: Literal["group", "none"]) -> nn.Module:
    """What takes the place of one batch normalisation, beginning with its scale and shift."""
    channels = layer.num_features
    scale_C = layer.weight.detach().clone() if layer.affine else torch.ones(channels)
    shift_C = layer.bias.detach().clone() if layer.affine else torch.zeros(channels)
    if kind == "none":  # with the pretrained statistics folded in, as in evaluation
        assert layer.running_mean is not None
        assert layer.running_var is not None
        scale_C = scale_C / torch.sqrt(layer.running_var + layer.eps)
        return _Affine(scale_C, shift_C - layer.running_mean * scale_C)
    # As many groups as can be had up to 32 (Wu and He 2018), but of two channels: one channel alone has no variance on
    # a map of 1 x 1. A layer of a single channel (PAN has some) is not normalised.
    groups = next((g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0 and channels >= 2 * g), None)
    if groups is None:
        return _Affine(scale_C, shift_C)
    group = nn.GroupNorm(groups, channels, eps=layer.eps)
    group.weight, group.bias = nn.Parameter(scale_C), nn.Parameter(shift_C)
    return group


class _Affine(nn.Module):
    """A scale and a shift for each channel: what batch normalisation is in evaluation."""

    def __init__(self, scale_C: Tensor, shift_C: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(scale_C)
        self.bias = nn.Parameter(shift_C)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW * self.weight[:, None, None] + self.bias[:, None, None]


def synchronised(net: Net) -> Net:
    """The network with batch normalisations that take their statistics over all workers' micro-batches, on GPUs."""
    converted: Net = convert_sync_batchnorm(net)  # type: ignore[no-untyped-call]  # timm's: it knows the layers with an activation inside
    return converted


def depend_on_batch(net: nn.Module) -> bool:
    """Whether what a network gives in training depends on what else is in the batch."""
    return any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in net.modules())
