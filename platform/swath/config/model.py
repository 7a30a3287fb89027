"""Section `model` of a configuration: the network and its initial weights."""

from dataclasses import dataclass, field
from typing import Literal

from swath.config.rules import MAY_CHANGE, Section, check


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Section):
    """The network: an architecture over an encoder, from segmentation-models-pytorch (smp), timm or this project."""

    arch: str = "unet"
    """Architecture, by its name in segmentation-models-pytorch: unet, fpn, deeplabv3plus, segformer, dpt (for vision
    transformers), …; or `aspp_unet`, a U-Net with an ASPP module at the bottleneck and attention gates on the
    skip connections."""
    encoder: str = "resnet18"
    """Encoder, by its name in segmentation-models-pytorch. Write tu-NAME or tu-NAME.TAG for an encoder of timm."""
    weights: str = "none"
    """Initial weights of the encoder.
    - `none`: random weights.
    - `imagenet`: ImageNet weights; for a timm encoder, the weights that belong to its name.
    - another name that the encoder's authors published; for a timm encoder, the tag, such as sat493m.
    - a path to a file: safetensors or a PyTorch state dict."""
    init_from: str = field(default="", metadata=MAY_CHANGE)
    """Checkpoint to start from: an MLflow run id or a checkpoint folder of the same network. Data, bands and classes
    may differ; classes are matched by name. Empty: start as `model.weights` says."""
    aspp: bool = True
    """ASPP module of arch `aspp_unet`. Without it and without attention gates, the network is the plain U-Net."""
    attention: bool = True
    """Attention gates of arch `aspp_unet`."""
    norm: Literal["batch", "group", "none"] = "batch"
    """Normalisation layers: batch normalisation, group normalisation or none. With `group` and `none` the result
    does not depend on how a batch is cut into micro-batches."""

    def __post_init__(self) -> None:
        for name in ("arch", "encoder", "weights"):
            check(bool(getattr(self, name)), f"model.{name}", "a name that is not empty", getattr(self, name))
