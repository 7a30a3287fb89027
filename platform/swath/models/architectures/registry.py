"""Architectures by name: segmentation-models-pytorch's (smp), our own, and those of a user's own by dotted path.

A network of one's own is made by a function or a class that is called with two keyword arguments:

    maker(bands=B, classes=K) -> nn.Module, which maps float32 (N, B, H, W) to scores (N, K, H, W)

Its pixels are normalised, and H and W are multiples of 32, or of its attribute `stride` where it has one.
"""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import segmentation_models_pytorch as smp
from torch import nn

from swath import extensions
from swath.config import ModelConfig
from swath.errors import ConfigError
from swath.models import encoders
from swath.models.architectures.aspp_unet import AsppUnet

REFUSALS = (ValueError, KeyError, TypeError, AssertionError, RuntimeError, AttributeError)
"""How smp and timm say that an architecture and an encoder do not go together (collected over all of smp's encoders and
24 of timm's), and what networks raise for a patch of a size that they do not take."""
_DPT_STRIDE = 32
"""Divides the sides of what DPT is given: its coarsest map is of 32 pixels, whatever the encoder's tokens span."""
_OWN_STRIDE = 32
"""Divides the sides of what a network of one's own is given, unless it has an attribute `stride`."""


def _smp(name: str, config: ModelConfig, bands: int, classes: int) -> Any:
    """An architecture of smp."""
    net = smp.create_model(name, in_channels=bands, classes=classes,
                           **encoders.settings(config, tokens=name == "dpt"))
    if name == "dpt" and net.encoder.output_stride not in (8, 16, 32):
        raise ValueError(f"DPT takes tokens of 8, 16 or 32 pixels, not of {net.encoder.output_stride}")
    return net


def _aspp_unet(config: ModelConfig, bands: int, classes: int) -> Any:
    return AsppUnet(in_channels=bands, classes=classes, aspp=config.aspp, attention=config.attention,
                    **encoders.settings(config, tokens=False))


ARCHITECTURES: dict[str, Callable[[ModelConfig, int, int], Any]] = {
    **{name: functools.partial(_smp, name) for name in smp.MODEL_ARCHITECTURES_MAPPING}, "aspp_unet": _aspp_unet}
"""What `model.arch` may name: smp's architectures, and our own. Each makes a network of bands and classes."""


def check(config: ModelConfig) -> None:
    """Raise ConfigError for an architecture, an encoder or weights that do not exist."""
    if not extensions.is_path(config.arch):
        if config.arch not in ARCHITECTURES:
            raise ConfigError(f"model.arch: there is no {config.arch!r}"
                              f"{extensions.nearest(config.arch, ARCHITECTURES)}; there are "
                              f"{', '.join(ARCHITECTURES)}, or MODULE:NAME for a network of your own")
        encoders.check(config)
        return
    maker = extensions.resolve(config.arch, "model.arch")
    try:
        inspect.signature(maker).bind(bands=3, classes=2)
    except TypeError as error:
        raise ConfigError(f"model.arch: {config.arch} must take the keyword arguments bands and classes, and need no "
                          f"other: {error}") from None
    if config.weights != "none":
        raise ConfigError(f"model.weights: {config.weights} is for a known encoder, and {config.arch} is a network of "
                          "your own; take none, and load weights where the network is made")


def create(config: ModelConfig, bands: int, classes: int) -> Any:
    """The bare network. Raises ConfigError for what smp or timm refuse and for a download that fails."""
    if extensions.is_path(config.arch):
        net = extensions.resolve(config.arch, "model.arch")(bands=bands, classes=classes)
        if not isinstance(net, nn.Module):
            raise ConfigError(f"model.arch: {config.arch} must return a torch.nn.Module, got {type(net).__name__}")
        return net
    try:
        return ARCHITECTURES[config.arch](config, bands, classes)
    except OSError as error:
        raise encoders.no_download(config, error) from error
    except REFUSALS as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise ConfigError(f"model: {config.arch} over {config.encoder} cannot be built: {reason}; choose another "
                          "encoder or architecture") from error


def stride(config: ModelConfig, net: Any) -> int:
    """The number of pixels that divides the sides of what a network is given."""
    if extensions.is_path(config.arch):
        return int(getattr(net, "stride", _OWN_STRIDE))
    own = int(net.encoder.output_stride)
    return math.lcm(own, _DPT_STRIDE) if config.arch == "dpt" else own


def described(config: ModelConfig) -> str:
    """A network as messages name it."""
    if extensions.is_path(config.arch):
        return config.arch
    made_for = encoders.made_for(config.encoder)
    return f"{config.arch} over {config.encoder}" + (f" (made for {made_for})" if made_for else "")
