"""A network of our own: a U-Net (Ronneberger et al. 2015, arXiv:1505.04597) with an ASPP module at the bottleneck
(Chen et al. 2017, arXiv:1706.05587) and attention gates on the skips (Oktay et al. 2018, arXiv:1804.03999), over any
encoder of smp or timm whose maps halve from one to the next. Without module and gates it is smp's U-Net.

Legend: N samples, B bands, C channels, H rows, W columns, K classes; h, w those of a smaller map.
"""

from typing import Any

import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.base import SegmentationHead, initialization
from segmentation_models_pytorch.base.modules import Conv2dReLU
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoderBlock
from torch import Tensor, nn
from torch.nn import functional

_BOTTLENECK = 256
"""Channels of the ASPP module, of each branch and of what leaves it, as in DeepLabV3."""
_RATES = (3, 6, 9)
"""Dilations of its branches: half of DeepLabV3's 6, 12, 18, whose map is twice as fine (stride 16, here 32), so that
they reach as far on the ground."""
_DECODER = (256, 128, 64, 32, 16)
"""Channels of the decoder's blocks, from the bottleneck up: smp's, so that the plain network is the known one."""


class AsppUnet(nn.Module):
    """Scores of K classes from an encoder of five stages."""

    def __init__(self, *, encoder_name: str, encoder_weights: str | bool | None, in_channels: int, classes: int,
                 aspp: bool, attention: bool, **settings: Any) -> None:
        super().__init__()
        self.encoder = smp.encoders.get_encoder(encoder_name, in_channels=in_channels, weights=encoder_weights,
                                                **settings)
        self.decoder = Decoder(self.encoder.out_channels, aspp=aspp, attention=attention)
        self.segmentation_head = SegmentationHead(_DECODER[-1], classes)
        initialization.initialize_decoder(self.decoder)
        initialization.initialize_head(self.segmentation_head)

    def forward(self, x_NBHW: Tensor) -> Tensor:
        """Logits (N, K, H, W); H and W are multiples of the encoder's stride."""
        logits_NKHW: Tensor = self.segmentation_head(self.decoder(self.encoder(x_NBHW)))
        return logits_NKHW


class Decoder(nn.Module):
    """From an encoder's maps, finest first, back to the finest: twice the sides at each block, beside a skip."""

    def __init__(self, channels: list[int], *, aspp: bool, attention: bool) -> None:
        super().__init__()
        self.bottleneck = Aspp(channels[-1], _BOTTLENECK) if aspp else nn.Identity()
        self.gates, self.blocks = nn.ModuleList(), nn.ModuleList()
        below = _BOTTLENECK if aspp else channels[-1]
        for skip, own in zip((*channels[-2:0:-1], 0), _DECODER, strict=True):  # the pixels themselves are no skip
            # Encoders that begin at a quarter of the size have a skip of no channels at a half.
            self.gates.append(Gate(skip, below) if attention and skip else First())
            self.blocks.append(UnetDecoderBlock(below, skip, own))
            below = own

    def forward(self, maps: list[Tensor]) -> Tensor:
        """The decoder's finest map (N, 16, H, W), from an encoder's, of which the first are the pixels (N, B, H, W)."""
        x_NChw: Tensor = self.bottleneck(maps[-1])
        for gate, block, skip_NCHW in zip(self.gates, self.blocks, maps[-2::-1], strict=True):
            pixels = skip_NCHW is maps[0]
            x_NChw = block(x_NChw, *skip_NCHW.shape[2:], None if pixels else gate(skip_NCHW, x_NChw))
        return x_NChw


class First(nn.Module):
    """A skip as it is."""

    def forward(self, skip_NCHW: Tensor, _: Tensor) -> Tensor:
        """What it is given."""
        return skip_NCHW


class Gate(nn.Module):
    """An additive attention gate: what the coarser map knows of a place decides how much of the skip passes there.

    Weights of 0..1 are made on the coarser grid, as in the paper, and resampled to the skip's.
    """

    def __init__(self, skip: int, below: int) -> None:
        super().__init__()
        inner = max(1, skip // 2)
        self.of_skip = nn.Conv2d(skip, inner, 2, stride=2, bias=False)
        self.of_below = nn.Conv2d(below, inner, 1)
        self.weight = nn.Conv2d(inner, 1, 1)

    def forward(self, skip_NCHW: Tensor, below_NChw: Tensor) -> Tensor:
        """The skip, weighted: (N, C, H, W), from it and the map of half its sides."""
        both = functional.relu(self.of_skip(skip_NCHW) + self.of_below(below_NChw))
        weight_N1hw = torch.sigmoid(self.weight(both))
        return skip_NCHW * functional.interpolate(weight_N1hw, skip_NCHW.shape[2:], mode="bilinear")


class Aspp(nn.Module):
    """Atrous spatial pyramid pooling: one map seen at several reaches at once, the whole of it among them."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.near = Conv2dReLU(channels, inner, 1)
        self.far = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, inner, 3, padding=rate, dilation=rate, bias=False),
                          nn.BatchNorm2d(inner), nn.ReLU(inplace=True)) for rate in _RATES)
        # Not batch-normalised, unlike DeepLabV3's: of a single sample it is one value a channel, which has no variance.
        self.whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, inner, 1), nn.ReLU(inplace=True))
        self.joined = nn.Sequential(Conv2dReLU((2 + len(_RATES)) * inner, inner, 1), nn.Dropout2d(0.1))

    def forward(self, x_NChw: Tensor) -> Tensor:
        """A map of as many rows and columns: (N, inner, h, w)."""
        whole_NChw = self.whole(x_NChw).expand(-1, -1, *x_NChw.shape[2:])
        joined: Tensor = self.joined(torch.cat([self.near(x_NChw), *(far(x_NChw) for far in self.far), whole_NChw], 1))
        return joined
