"""Encoders: which there are, what their makers trained them with, and weights from a file.

A name is segmentation-models-pytorch's (smp), or tu-NAME or tu-NAME.TAG for one of timm's: vision transformers and
satellite imagery's own among them (tu-vit_large_patch16_dinov3.sat493m).
"""

import functools
import inspect
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import segmentation_models_pytorch as smp
import timm
import torch
from numpy.typing import ArrayLike
from timm.models import adapt_input_conv
from torch import Tensor, nn

from swath.config import ModelConfig
from swath.errors import ConfigError
from swath.extensions import nearest

_UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, LookupError, pickle.UnpicklingError,
               safetensors.SafetensorError)
"""What reading a damaged or malicious file of weights raises (collected from random bytes)."""


def check(config: ModelConfig) -> None:
    """Raise ConfigError for an encoder or weights that do not exist."""
    names, encoder = smp.encoders.get_encoder_names(), config.encoder
    if not (timm.is_model(encoder[3:]) if _is_timm(encoder) else encoder in names):
        near = nearest(encoder, [*names, *(f"tu-{name}" for name in timm.list_models())])
        raise ConfigError(f"model.encoder: there is no {encoder!r}{near}; "
                          "smp.encoders.get_encoder_names() lists them, and tu-NAME takes one of timm.list_models()")
    if config.weights in ("none", *weights(encoder)) or Path(config.weights).is_file():
        return
    known = ", ".join(weights(encoder)) or "none, or those of a file"
    if config.weights == "imagenet":
        raise ConfigError(f"model.weights: {encoder} has no imagenet weights; it has {known}")
    raise ConfigError(f"model.weights: {config.weights} is no file, and no weights of {encoder}, which has {known}")


@functools.lru_cache(maxsize=64)
def weights(encoder: str) -> tuple[str, ...]:
    """Names of the weights that can be downloaded for an encoder that exists. timm's default goes by `imagenet`."""
    if not _is_timm(encoder):
        return tuple(smp.encoders.encoders[encoder]["pretrained_settings"])
    name, _, tag = encoder[3:].partition(".")
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")]
    if tag:
        tags = [known for known in tags if known == tag]
    return ("imagenet", *tags) if timm.models.is_model_pretrained(encoder[3:]) else tuple(tags)


def settings(config: ModelConfig, *, tokens: bool) -> dict[str, Any]:
    """What smp is told of an encoder: its name, whether it loads weights itself, and what timm's class is made with.

    tokens: the architecture takes a vision transformer's tokens (smp's DPT).
    """
    if not _is_timm(config.encoder):
        own = config.weights in weights(config.encoder)
        return {"encoder_name": config.encoder, "encoder_weights": config.weights if own else None}
    bare = bare_timm(config.encoder)
    # smp warns of a name for the weights of timm's encoders: True is what loads those that the encoder's name says.
    made: dict[str, Any] = {"encoder_name": _timm_name(config),
                            "encoder_weights": True if config.weights in weights(config.encoder) else None}
    if any("dynamic_img_size" in inspect.signature(kind).parameters for kind in inspect.getmro(type(bare))[:-1]):
        made["dynamic_img_size"] = True  # position embeddings and window masks follow the patch: any size is taken
    if tokens:
        made["num_classes"] = 0  # no classifier, which smp's DPT would keep, and a file of an encoder does not have
        if not getattr(bare, "num_prefix_tokens", 0):
            made["decoder_readout"] = "ignore"  # there is no class token to read; smp warns where it is told to
    return made


@functools.lru_cache(maxsize=8)
def bare_timm(encoder: str) -> nn.Module:
    """timm's whole network of a name, whatever its tag, without memory for its tensors."""
    with torch.device("meta"):
        net: nn.Module = timm.create_model(encoder[3:].partition(".")[0])
    return net


def made_for(encoder: str) -> int | None:
    """Side in pixels of the only images that one of timm's encoders is said to take (some take others all the same)."""
    known = timm.models.get_pretrained_cfg(encoder[3:].partition(".")[0]) if _is_timm(encoder) else None
    return int(known.input_size[1]) if known and known.fixed_input_size else None


def statistics(config: ModelConfig) -> tuple[ArrayLike, ArrayLike] | None:
    """Mean and deviation by band, in 0..255, of the pixels that an encoder's weights were trained with.

    None where that is not known: weights `none`, or a file, unless the encoder's name has the tag (tu-NAME.TAG) of the
    weights that the file holds.
    """
    named = config.weights in weights(config.encoder)
    if not named and (config.weights == "none" or not (_is_timm(config.encoder) and "." in config.encoder)):
        return None
    pretrained = config.weights if named else "imagenet"
    try:
        known = smp.encoders.get_preprocessing_params(_timm_name(config) or config.encoder, pretrained)
    except OSError as error:
        raise no_download(config, error) from error
    if known["input_space"] != "RGB":
        raise ConfigError(f"model.weights: {config.encoder} was trained on {known['input_space']}, not on RGB; take "
                          "another encoder")
    factor = 255 / known["input_range"][1]
    return np.array(known["mean"]) * factor, np.array(known["std"]) * factor


def no_download(config: ModelConfig, error: OSError) -> ConfigError:
    """What is said where weights cannot be had."""
    return ConfigError(f"model.weights: the {config.weights} weights of {config.encoder} could not be downloaded "
                       f"({error}); try again with a connection, put them into the Hugging Face cache ($HF_HOME), or "
                       "set model.weights to a file or to none")


def read(path: Path) -> dict[str, Tensor]:
    """An encoder's tensors from a file (safetensors, or a state dict). No code in the file is run.

    Of a whole network's file the encoder's part is taken, under the encoder's own names. Raises ConfigError.
    """
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


def load(encoder: nn.Module, state: dict[str, Tensor], config: ModelConfig) -> None:
    """Load a file's tensors into an encoder, strictly. Raises ConfigError where they do not fit.

    The names are smp's or, for timm's encoders, timm's. A first convolution of three bands is adapted to another number
    as timm does it: its weights repeated over the bands, times 3 / bands. What smp and timm leave out of an encoder
    (the classifier, a last norm) is left out of the file.
    """
    own = encoder.state_dict()
    state = _adapted(_renamed(state, own, config), own)
    try:
        encoder.load_state_dict(state)  # smp's encoders drop a classifier's keys from `state` first
    except RuntimeError as error:
        shapes = [f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}" for key in own
                  if key in state and state[key].shape != own[key].shape]
        problems = [f"{what}: {', '.join(keys[:3])}{' …' if len(keys) > 3 else ''}" for what, keys in
                    (("missing", [key for key in own if key not in state]),
                     ("unexpected", [key for key in state if key not in own]), ("of another shape", shapes)) if keys]
        raise ConfigError(f"model.weights: {config.weights} does not fit {config.encoder} with this number of bands; "
                          + "; ".join(problems)) from error


def _is_timm(encoder: str) -> bool:
    return encoder.startswith("tu-")


def _timm_name(config: ModelConfig) -> str:
    """A timm encoder's name with the tag of its weights, where these have one; empty for smp's encoders."""
    if not _is_timm(config.encoder):
        return ""
    tagged = config.weights in weights(config.encoder) and config.weights != "imagenet"
    return f"{config.encoder.partition('.')[0]}.{config.weights}" if tagged else config.encoder


def _renamed(state: dict[str, Tensor], own: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """timm's names as smp has them: behind `model.`, and with stages_0 for timm's own stages.0."""
    if not _is_timm(config.encoder):
        return state
    names = {_plain(key): key for key in own}
    whole = {_plain(key) for key in bare_timm(config.encoder).state_dict()}
    return {names.get(_plain(key), key): value for key, value in state.items()
            if _plain(key) in names or _plain(key) not in whole}


def _plain(key: str) -> str:
    while key.startswith("model."):
        key = key.removeprefix("model.")
    return key.replace("_", ".")


def _adapted(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    def adapt(key: str, value: Tensor) -> Tensor:
        shape = own[key].shape if key in own else value.shape
        bands = len(shape) == 4 and value.ndim == 4 and value.shape[1] == 3 and shape[1] != 3
        fits = bands and value.shape[0] == shape[0] and value.shape[2:] == shape[2:]
        return adapt_input_conv(shape[1], value) if fits else value

    return {key: adapt(key, value) for key, value in state.items()}
