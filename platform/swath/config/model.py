"""The network's section of a configuration."""

from dataclasses import dataclass, field
from typing import Literal

from swath.config.rules import MAY_CHANGE, Section, check


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Section):
    """The network: an architecture of segmentation-models-pytorch, or our own, over an encoder of it or timm."""

    arch: str = "unet"
    """Architecture, as segmentation-models-pytorch names it: unet, fpn, deeplabv3plus, segformer, dpt (for vision
    transformers), …; or `aspp_unet`, a U-Net with an ASPP module at the bottleneck and attention gates on the skips."""
    encoder: str = "resnet18"
    """Encoder, as segmentation-models-pytorch names it; tu-NAME or tu-NAME.TAG for one of timm's."""
    weights: str = "none"
    """Encoder weights: `none`; `imagenet` (of timm's: those that come with its name); another name that the encoder's
    makers gave (of timm's: the tag, such as sat493m); or a file (safetensors or a state dict)."""
    init_from: str = field(default="", metadata=MAY_CHANGE)
    """MLflow run id or checkpoint folder of the same network: begin with its weights, also on other data, bands and
    classes (which are known by their names); empty: as `weights` says."""
    aspp: bool = True
    """Arch `aspp_unet`: with the ASPP module. Without it and the gates that is the plain U-Net."""
    attention: bool = True
    """Arch `aspp_unet`: with the attention gates."""
    norm: Literal["batch", "group", "none"] = "batch"
    """Normalisation layers: `group` and `none` make the result independent of how a batch is cut."""

    def __post_init__(self) -> None:
        for name in ("arch", "encoder", "weights"):
            check(bool(getattr(self, name)), f"model.{name}", "given", getattr(self, name))
