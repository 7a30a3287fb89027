"""Networks: an architecture of segmentation-models-pytorch (smp), or our own (swath.aspp_unet), over an encoder of smp
or timm, with the normalisation of the input and the padding to the network's stride inside, so that a trained network
takes pixels as they are stored; several scales of one place are fused by swath.concentric.

Legend: N samples, S scales, B bands, H rows, W columns, K classes, C channels.
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, DTypeLike
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from swath import extensions
from swath.config import Combine, ModelConfig
from swath.errors import ConfigError
from swath.models import encoders, norms
from swath.models.architectures import concentric, registry

_SMALLEST = 32
"""Least side that a network is given: below it the kernels of some encoders (efficientnet-b0, mit_b0) are larger than
their maps; from it on 13 encoders under 8 architectures took 33, 48 and 144 pixels, but for PAN below 128 (tried)."""


class Net(nn.Module):
    """A network that takes raw pixels of any size, at one scale or at several concentric ones."""

    mean_B11: Tensor
    std_B11: Tensor

    def __init__(self, net: Any, mean_B: ArrayLike, std_B: ArrayLike, *, stride: int,
                 fusion: concentric.ScaleAttention | None = None) -> None:
        """Sides that `net` takes are multiples of `stride`; with `fusion` several scales are seen at once."""
        super().__init__()
        self.net = net
        self.stride = stride
        self.fusion = fusion
        self.scales = len(fusion.shares) if fusion else 1
        mean, std = (torch.tensor(np.asarray(x), dtype=torch.float32)[:, None, None] for x in (mean_B, std_B))
        if not (torch.isfinite(mean).all() and torch.isfinite(std).all() and (std >= 0).all()):
            raise ValueError(f"band statistics must be finite, deviations 0 or more, got {mean_B!r} and {std_B!r}")
        self._frozen = False
        self._resting: list[nn.Parameter] = []
        self.register_buffer("mean_B11", mean)
        self.register_buffer("std_B11", torch.where(std > 0, std, 1))  # a band of one value becomes 0, not 0/0

    def forward(self, images_NSBHW: Tensor) -> Tensor:
        """Class scores before softmax or sigmoid: float32 (N, K, H, W). Pixels of any type.

        S is `scales`: 1, or that of concentric patches, the finest first, on whose grid the scores are. Sides that are
        no multiple of the network's stride are padded by reflection at the bottom and the right, and the scores are
        cropped.
        """
        if images_NSBHW.ndim != 5 or images_NSBHW.shape[1] != self.scales:
            raise ValueError(f"images must be (N, {self.scales}, B, H, W), got {tuple(images_NSBHW.shape)}")
        height, width = images_NSBHW.shape[3:]
        # All scales in one batch: batch normalisation then sees in training what its running statistics are made of.
        x_NBHW = (images_NSBHW.flatten(0, 1).to(torch.float32) - self.mean_B11) / self.std_B11
        x_NBHW = self._padded(self._padded(x_NBHW, 2), 3)
        maps_NCHW: Tensor = self.net(x_NBHW)[..., :height, :width].float()
        if self.fusion is None:
            return maps_NCHW
        logits_NKHW: Tensor = self.fusion(maps_NCHW.reshape(-1, self.scales, *maps_NCHW.shape[1:]))
        return logits_NKHW

    @property
    def has_encoder(self) -> bool:
        """Whether a part of the network is known as its encoder: of a network of one's own its attribute `encoder`."""
        return isinstance(getattr(self.net, "encoder", None), nn.Module)

    @property
    def encoder(self) -> nn.Module:
        """The part that makes features of pixels. Raises ConfigError for a network that has no such part."""
        if not self.has_encoder:
            raise ConfigError(f"train.freeze, train.encoder_lr: {type(self.net).__name__}, a network of your own, has "
                              "no attribute `encoder`; add it, or leave train.freeze at 0 and train.encoder_lr at 1")
        encoder: nn.Module = self.net.encoder
        return encoder

    def freeze(self, frozen: bool) -> None:
        """Leave the encoder as it is, its dropout off and its normalisation's statistics still; or train it again."""
        if frozen:
            self._resting = [parameter for parameter in self.encoder.parameters() if parameter.requires_grad]
        for parameter in self._resting:
            parameter.requires_grad_(not frozen)
        self._frozen = frozen
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a frozen encoder is never in training mode."""
        super().train(mode)
        if self._frozen:
            self.encoder.eval()
        return self

    def _padded(self, x: Tensor, axis: int) -> Tensor:
        """Lengthened by reflection, half-sample symmetric, however short it is."""
        length = x.shape[axis]
        padded = _padded_side(length, self.stride)
        if padded == length:
            return x
        index = torch.arange(padded, device=x.device) % (2 * length)
        return x.index_select(axis, torch.where(index < length, index, 2 * length - 1 - index))


def check(config: ModelConfig, size: int | None = None) -> None:
    """Raise ConfigError for an architecture, an encoder or weights that do not exist, before anything is built.

    With a size also for what cannot be built, and for patches of size x size pixels that the network does not take: the
    network is made and run without memory for its tensors, in about a second, and nothing is downloaded. A network of
    one's own is made and run on the CPU.
    """
    registry.check(config)
    if size is not None:
        with torch.no_grad():
            _rehearse(config, size)


@dataclass(frozen=True, kw_only=True, eq=False)
class DataTraits:
    """What a network has to know of the data that it is made for."""

    bands: int
    classes: int
    dtype: DTypeLike = np.uint8
    """Type of the stored pixels."""
    mean_B: ArrayLike
    """Mean of each band, in the unit of the stored pixels."""
    std_B: ArrayLike
    """Standard deviation of each band."""

    def __post_init__(self) -> None:
        if np.shape(self.mean_B) != (self.bands,) or np.shape(self.std_B) != (self.bands,):
            raise ValueError(f"band statistics must be of {self.bands} bands, got {np.shape(self.mean_B)} and "
                             f"{np.shape(self.std_B)}")


def build(config: ModelConfig, data: DataTraits, *, combine: Combine = "single", scales: Sequence[float] = (1.0,)
          ) -> Net:
    """Build a network for images of a kind. Its random weights follow `torch.manual_seed`.

    Pixels are normalised by the data's band statistics; but with named weights, three bands and a dtype of uint8 by the
    statistics that the encoder was trained with (theirs are of 0..1, ours of 0..255). Other numbers of bands keep the
    data's, and smp and timm repeat the first convolution's weights over them.

    norm `group` puts group normalisation in the place of every batch normalisation, `none` an affine map; both begin
    with its scale and shift. Weights of a batch-normalised encoder are loaded before that, others after it.

    Parameters that the scores do not depend on require no gradient (smp's efficientnet-b0 has a classifier's first
    layer, PSPNet's encoders have stages that it does not read).

    combine `concentric` fuses `scales`, the finest first, by learned attention: the network then takes as many.

    Raises ConfigError where a name is unknown, smp refuses the combination, weights cannot be had or do not fit, or a
    layer cannot be replaced.
    """
    check(config)
    fused = combine == "concentric"
    net = registry.create(config, data.bands, data.classes + (concentric.FEATURES if fused else 0))
    named = config.weights == "none" or config.weights in encoders.weights(config.encoder)
    rgb = config.weights != "none" and data.bands == 3 and np.dtype(data.dtype) == np.uint8
    known = encoders.statistics(config) if rgb else None
    state = {} if named else encoders.read(Path(config.weights))
    batch_normed = any(key.endswith("running_mean") for key in state)
    if state and batch_normed:
        encoders.load(net.encoder, state, config)
    if config.norm != "batch":
        norms.replace(net, config.norm, registry.described(config))
    if state and not batch_normed:
        encoders.load(net.encoder, state, config)
    for name in _idle(replace(config, weights="none")):  # DistributedDataParallel would wait for their gradients
        net.get_parameter(name).requires_grad_(False)
    return Net(net, *(known or (data.mean_B, data.std_B)), stride=registry.stride(config, net),
               fusion=concentric.ScaleAttention(scales, data.classes) if fused else None)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a network costs."""

    parameters: int
    gmacs_per_mpx: float
    """Multiply-adds of a forward pass in 10⁹, for each 10⁶ pixels that it predicts; of all scales together."""


def cost(net: Net, size: int, bands: int) -> Cost:
    """Count a network's parameters, and the multiply-adds of a patch of size x size pixels, by a forward pass.

    Raises ConfigError where the network takes no patch of that size.
    """
    device, training = net.mean_B11.device, net.training
    net.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter, _refused_size(size, "the network"):
            net(torch.zeros(1, net.scales, bands, size, size, device=device))
    finally:
        net.train(training)
    gmacs = counter.get_total_flops() / 2 / 1e9
    return Cost(parameters=sum(p.numel() for p in net.parameters()), gmacs_per_mpx=gmacs / (size**2 / 1e6))


def _rehearse(config: ModelConfig, size: int) -> tuple[nn.Module, Tensor]:
    """A network and the logits (N, K, H, W) of a patch that it has seen: without memory for its tensors, but for a
    network of one's own, whose code may need their values."""
    own = extensions.is_path(config.arch)
    # The MiT encoders of smp read values while they are built, which tensors without memory have not.
    place = "cpu" if own or config.encoder.startswith("mit_") else "meta"
    with torch.random.fork_rng(devices=[]):
        with torch.device(place):
            net = registry.create(replace(config, weights="none"), 3, 2).to("cpu" if own else "meta").eval()
        if config.norm != "batch":
            norms.replace(net, config.norm, registry.described(config))
        with _refused_size(size, registry.described(config)):
            image_NBHW = _blank(config, net, size)
            logits_NKHW = net(image_NBHW)
    wanted = (1, 2, *image_NBHW.shape[2:])
    if own and (not isinstance(logits_NKHW, Tensor) or logits_NKHW.shape != wanted):
        got = tuple(logits_NKHW.shape) if isinstance(logits_NKHW, Tensor) else type(logits_NKHW).__name__
        raise ConfigError(f"model.arch: {config.arch} must return scores of shape (N, classes, H, W), here {wanted} "
                          f"for an image of {tuple(image_NBHW.shape)}, got {got}")
    return net, logits_NKHW


def _blank(config: ModelConfig, net: nn.Module, size: int) -> Tensor:
    """A black patch (1, 3, H, W) as a rehearsed network is given it."""
    side = _padded_side(size, registry.stride(config, net))
    return torch.zeros(1, 3, side, side, device="cpu" if extensions.is_path(config.arch) else "meta")


@functools.lru_cache(maxsize=64)
def least_batch(config: ModelConfig, size: int) -> int:
    """The fewest patches of size x size pixels that a network is trained on: 1, or 2 where batch normalisation meets a
    map of a single pixel (DeepLabV3+). Raises ConfigError as `check`."""
    net, _ = _rehearse(replace(config, weights="none"), size)
    try:
        with torch.random.fork_rng(devices=[]):
            net.train()(_blank(config, net, size))
    except ValueError:  # of torch's batch normalisation: "Expected more than 1 value per channel when training"
        return 2
    return 1


@functools.lru_cache(maxsize=64)
def _idle(config: ModelConfig) -> tuple[str, ...]:
    """Names of the parameters that the logits do not depend on."""
    net, logits_NKHW = _rehearse(config, encoders.made_for(config.encoder) or 256)
    logits_NKHW.sum().backward()  # type: ignore[no-untyped-call]
    return tuple(name for name, parameter in net.named_parameters() if parameter.grad is None)


@contextmanager
def _refused_size(size: int, who: str) -> Iterator[None]:
    """Turn what a network raises for a patch of a size into a ConfigError; running out of memory is no such thing."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except registry.REFUSALS as error:
        reason = f" ({str(error).rstrip('.')})" if str(error) else ""
        raise ConfigError(f"patches.size: {who} takes no patches of {size} pixels{reason}; choose another size or "
                          "encoder") from error


def _padded_side(length: int, stride: int) -> int:
    return -(-max(length, _SMALLEST) // stride) * stride
