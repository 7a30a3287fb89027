"""The same place at several scales at once: each scale's scores, weighed pixel by pixel by learned scale attention.

After Chen, Yang, Wang, Xu and Yuille, "Attention to Scale" (CVPR 2016, arXiv:1511.03339): one network, its weights
shared, sees every scale; a small second one looks at what it found at all of them and gives each scale a weight in each
pixel, which sum to 1; the scores are summed with these. There the scales show one image, enlarged; here a coarser scale
shows more ground around the same centre, so of its maps the part is taken that the finest patch covers, enlarged. It is
scores that are fused, not features: a coarser scale's scores there have seen the ground around, and every architecture
has them. Left out is the paper's loss for each scale alone, which would have to know the labels at every scale.

Legend: N samples, S scales, C channels, H rows, W columns, K classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

FEATURES = 8
"""Channels that the shared network gives besides its scores, for the attention to look at (the paper takes those before
the scores, which are other ones in every architecture)."""
_INNER = 16


class ScaleAttention(nn.Module):
    """Scores from those of several concentric scales.

    The weights begin equal: every scale is then learned from, and none is favoured.
    """

    def __init__(self, scales: Sequence[float], classes: int) -> None:
        """Scales from the finest, which is predicted, to the coarsest."""
        super().__init__()
        self.shares = [scales[0] / scale for scale in scales]
        self.classes = classes
        last = nn.Conv2d(_INNER, len(scales), 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.weigh = nn.Sequential(nn.Conv2d(len(scales) * FEATURES, _INNER, 3, padding=1), nn.ReLU(), last)

    def forward(self, maps_NSCHW: Tensor) -> Tensor:
        """Scores (N, K, H, W) on the finest scale's grid, from K scores and FEATURES others in the channels."""
        aligned = torch.stack([centre(maps_NSCHW[:, i], share) for i, share in enumerate(self.shares)], 1)
        logits_NSKHW, features_NSCHW = aligned[:, :, :self.classes], aligned[:, :, self.classes:]
        weights_NSHW: Tensor = self.weigh(features_NSCHW.flatten(1, 2)).float().softmax(1)
        return (weights_NSHW[:, :, None] * logits_NSKHW).sum(1)


def centre(x_NCHW: Tensor, share: float) -> Tensor:
    """The middle of a map, `share` of either side, enlarged to the map's own size: bilinear, at the pixels' centres.

    A pixel of the result is at its very place on the ground, also where the part's edge cuts through a pixel.
    """
    if share == 1:
        return x_NCHW
    rows, cols = (share * (torch.arange(n, device=x_NCHW.device) + 0.5) * 2 / n - share for n in x_NCHW.shape[2:])
    grid_HW2 = torch.stack(torch.meshgrid(cols, rows, indexing="xy"), 2)
    return functional.grid_sample(x_NCHW, grid_HW2.expand(len(x_NCHW), -1, -1, -1), padding_mode="border",
                                  align_corners=False)
