"""Networks: an architecture of segmentation-models-pytorch (smp) over one of its encoders, with the normalisation of
the input and the padding to the network's stride inside, so that a trained network takes pixels as they are stored.

Legend: N samples, S scales, B bands, H rows, W columns, K classes.
"""

import difflib
import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.torch
import segmentation_models_pytorch as smp
import timm
import torch
from numpy.typing import ArrayLike, DTypeLike
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from swath.config import ModelConfig
from swath.errors import ConfigError

_SMALLEST = 32
"""Least side that a network is given: below it the kernels of some encoders (efficientnet-b0, mit_b0) are larger than
their maps; from it on 13 encoders under 8 architectures took 33, 48 and 144 pixels, but for PAN below 128 (tried)."""
_REFUSALS = (ValueError, KeyError, TypeError, AssertionError, RuntimeError)
"""How smp and timm say that an architecture and an encoder do not go together (collected over all of smp's encoders and
24 of timm's)."""
_UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, LookupError, pickle.UnpicklingError,
               safetensors.SafetensorError)
"""What reading a damaged or malicious file of weights raises (collected from random bytes)."""


class Net(nn.Module):
    """A network that takes raw pixels of any size."""

    mean_B11: Tensor
    std_B11: Tensor

    def __init__(self, net: nn.Module, mean_B: ArrayLike, std_B: ArrayLike) -> None:
        super().__init__()
        self.net = net
        self.stride = int(net.encoder.output_stride)  # type: ignore[arg-type, union-attr]
        mean, std = (torch.tensor(np.asarray(x), dtype=torch.float32)[:, None, None] for x in (mean_B, std_B))
        if not (torch.isfinite(mean).all() and torch.isfinite(std).all() and (std >= 0).all()):
            raise ValueError(f"band statistics must be finite, deviations 0 or more, got {mean_B!r} and {std_B!r}")
        self.register_buffer("mean_B11", mean)
        self.register_buffer("std_B11", torch.where(std > 0, std, 1))  # a band of one value becomes 0, not 0/0

    def forward(self, images_NSBHW: Tensor) -> Tensor:
        """Class scores before the softmax: float32 (N, K, H, W). Pixels of any type, S being 1 for now.

        Sides that are no multiple of the network's stride are padded by reflection at the bottom and the right, and the
        scores are cropped.
        """
        if images_NSBHW.ndim != 5 or images_NSBHW.shape[1] != 1:
            raise ValueError(f"images must be (N, 1, B, H, W), got {tuple(images_NSBHW.shape)}")
        height, width = images_NSBHW.shape[3:]
        x_NBHW = (images_NSBHW[:, 0].to(torch.float32) - self.mean_B11) / self.std_B11
        x_NBHW = self._padded(self._padded(x_NBHW, 2), 3)
        if x_NBHW.is_cuda:  # the layout that cuDNN's tensor-core kernels take (NVIDIA's advice; not measured here)
            x_NBHW = x_NBHW.contiguous(memory_format=torch.channels_last)
        logits_NKHW: Tensor = self.net(x_NBHW)
        return logits_NKHW[..., :height, :width].float()

    def _padded(self, x: Tensor, axis: int) -> Tensor:
        """Lengthened by reflection, half-sample symmetric, however short it is."""
        length = x.shape[axis]
        padded = -(-max(length, _SMALLEST) // self.stride) * self.stride
        if padded == length:
            return x
        index = torch.arange(padded, device=x.device) % (2 * length)
        return x.index_select(axis, torch.where(index < length, index, 2 * length - 1 - index))


def check(config: ModelConfig) -> None:
    """Raise ConfigError for an architecture, an encoder or weights that do not exist, before anything is built."""
    architectures = list(smp.MODEL_ARCHITECTURES_MAPPING)
    if config.arch not in architectures:
        raise ConfigError(f"model.arch: there is no {config.arch!r}{_nearest(config.arch, architectures)}; "
                          f"there are {', '.join(architectures)}")
    names = smp.encoders.get_encoder_names()
    timms = config.encoder.startswith("tu-")
    if not (timm.is_model(config.encoder[3:]) if timms else config.encoder in names):
        near = _nearest(config.encoder, [*names, *(f"tu-{name}" for name in timm.list_models())])
        raise ConfigError(f"model.encoder: there is no {config.encoder!r}{near}; "
                          "smp.encoders.get_encoder_names() lists them, and tu-NAME takes one of timm.list_models()")
    if config.weights == "imagenet":
        has = (timm.models.is_model_pretrained(config.encoder[3:]) if timms
               else "imagenet" in smp.encoders.encoders[config.encoder]["pretrained_settings"])
        if not has:
            raise ConfigError(f"model.weights: {config.encoder} has no imagenet weights; take none, a file, or another "
                              "encoder")
    elif config.weights != "none" and not Path(config.weights).is_file():
        raise ConfigError(f"model.weights: {config.weights} is no file; give none, imagenet, or a file of weights")


def build(config: ModelConfig, *, bands: int, classes: int, mean_B: ArrayLike, std_B: ArrayLike,
          dtype: DTypeLike = np.uint8) -> Net:
    """Build a network for images of so many bands. Its random weights follow `torch.manual_seed`.

    mean_B, std_B: the data's band statistics, by which pixels are normalised; but with weights `imagenet`, three bands
    and a `dtype` of uint8 the statistics that the encoder was trained with (theirs are of 0..1, ours of 0..255). Other
    numbers of bands keep the data's, and smp repeats the first convolution's weights over them.

    norm `group` puts group normalisation in the place of every batch normalisation, `none` an affine map; both begin
    with its scale and shift. Weights of a batch-normalised encoder are loaded before that, others after it.

    Raises ConfigError where a name is unknown, smp refuses the combination, weights cannot be had or do not fit, or a
    layer cannot be replaced.
    """
    check(config)
    if np.shape(mean_B) != (bands,) or np.shape(std_B) != (bands,):
        raise ValueError(f"band statistics must be of {bands} bands, got {np.shape(mean_B)} and {np.shape(std_B)}")
    net = _create(config, bands, classes)
    if config.weights == "imagenet" and bands == 3 and np.dtype(dtype) == np.uint8:
        mean_B, std_B = _pretrained_statistics(config.encoder)
    state = {} if config.weights in ("none", "imagenet") else _encoder_state(Path(config.weights))
    batch_normed = any(key.endswith("running_mean") for key in state)
    if state and batch_normed:
        _load(net.encoder, state, config)
    if config.norm != "batch":
        _replace_norms(net, config.norm, config.encoder)
    if state and not batch_normed:
        _load(net.encoder, state, config)
    return Net(net, mean_B, std_B)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a network costs."""

    parameters: int
    gmacs_per_mpx: float
    """Multiply-adds of a forward pass in 10⁹, for each 10⁶ pixels of a patch."""


def cost(net: Net, size: int, bands: int) -> Cost:
    """Count a network's parameters, and the multiply-adds of a patch of size x size pixels, by a forward pass.

    Raises ConfigError where the network takes no patch of that size.
    """
    device, training = net.mean_B11.device, net.training
    net.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            net(torch.zeros(1, 1, bands, size, size, device=device))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(f"patches.size: the network takes no patches of {size} pixels: {error}") from error
    finally:
        net.train(training)
    gmacs = counter.get_total_flops() / 2 / 1e9
    return Cost(parameters=sum(p.numel() for p in net.parameters()), gmacs_per_mpx=gmacs / (size**2 / 1e6))


def _nearest(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; the nearest name is {close[0]}" if close else ""


def _create(config: ModelConfig, bands: int, classes: int) -> Any:
    """smp's network; what it refuses, and a download that fails, as a ConfigError."""
    weights: str | bool | None = None
    if config.weights == "imagenet":
        weights = True if config.encoder.startswith("tu-") else "imagenet"  # smp warns of a name for timm's
    try:
        return smp.create_model(config.arch, encoder_name=config.encoder, encoder_weights=weights, in_channels=bands,
                                classes=classes)
    except OSError as error:
        raise _no_download(config.encoder, error) from error
    except _REFUSALS as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise ConfigError(f"model: {config.arch} over {config.encoder} cannot be built: {reason}; choose another "
                          "encoder or architecture") from error


def _pretrained_statistics(encoder: str) -> tuple[ArrayLike, ArrayLike]:
    """Mean and deviation of the pixels that an encoder was trained with, in 0..255."""
    try:
        known = smp.encoders.get_preprocessing_params(encoder, "imagenet")
    except OSError as error:
        raise _no_download(encoder, error) from error
    if known["input_space"] != "RGB":
        raise ConfigError(f"model.weights: {encoder} was trained on {known['input_space']}, not on RGB; take another "
                          "encoder")
    factor = 255 / known["input_range"][1]
    return np.array(known["mean"]) * factor, np.array(known["std"]) * factor


def _no_download(encoder: str, error: OSError) -> ConfigError:
    return ConfigError(f"model.weights: the imagenet weights of {encoder} could not be downloaded ({error}); try again "
                       "with a connection, put them into the Hugging Face cache ($HF_HOME), or set model.weights to "
                       "a file or to none")


def _encoder_state(path: Path) -> dict[str, Tensor]:
    """An encoder's tensors from a file, under the encoder's own names. No code in the file is run."""
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise ConfigError(f"model.weights: {path} is neither a safetensors file nor a plain state dict "
                          f"({type(error).__name__}); save the encoder's state_dict() by itself") from error
    if not isinstance(state, dict) or not state or not all(isinstance(x, Tensor) for x in state.values()):
        raise ConfigError(f"model.weights: {path} holds no state dict of names and tensors; save the encoder's "
                          "state_dict() by itself")
    for prefix in ("net.encoder.", "encoder."):
        inner = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if inner:
            return inner
    return dict(state)


def _load(encoder: nn.Module, state: dict[str, Tensor], config: ModelConfig) -> None:
    """Strictly. smp's encoders drop a classifier's keys from `state`, and rename some of timm's."""
    try:
        encoder.load_state_dict(state)
    except RuntimeError as error:
        own = encoder.state_dict()
        shapes = [f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}" for key in own
                  if key in state and state[key].shape != own[key].shape]
        problems = [f"{what}: {', '.join(keys[:3])}{' …' if len(keys) > 3 else ''}" for what, keys in
                    (("missing", [key for key in own if key not in state]),
                     ("unexpected", [key for key in state if key not in own]), ("of another shape", shapes)) if keys]
        raise ConfigError(f"model.weights: {config.weights} does not fit {config.encoder} with this number of bands; "
                          + "; ".join(problems)) from error


class _Affine(nn.Module):
    """A scale and a shift for each channel: what batch normalisation is in evaluation."""

    def __init__(self, scale_C: Tensor, shift_C: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(scale_C)
        self.bias = nn.Parameter(shift_C)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW * self.weight[:, None, None] + self.bias[:, None, None]


def _replace_norms(net: nn.Module, kind: Literal["group", "none"], encoder: str) -> None:
    """Put other layers in the place of all batch normalisations. Raises ConfigError where one is of an unknown kind."""
    for parent in list(net.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.BatchNorm2d:
                setattr(parent, name, _norm(layer, kind))
            elif type(layer) is BatchNormAct2d:  # timm's, with the activation inside
                setattr(parent, name, nn.Sequential(_norm(layer, kind), layer.drop, layer.act))
    for layer in net.modules():
        if any(name in ("running_mean", "running_var") for name, _ in layer.named_buffers(recurse=False)):
            raise ConfigError(f"model.norm: {kind} cannot replace the {type(layer).__name__} of {encoder}; take batch, "
                              "or another encoder")


def _norm(layer: nn.BatchNorm2d, kind: Literal["group", "none"]) -> nn.Module:
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
    group.load_state_dict({"weight": scale_C, "bias": shift_C})
    return group
