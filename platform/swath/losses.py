"""Losses that do not depend on how a batch is cut: each part gives its share of the global batch's loss.

A mean over a part's own pixels weighs a patch with few labels as much as one with many, so that the gradient changes
with the micro-batch and the number of workers. Here the sums are divided by the whole batch's totals, which are
gathered first: parts add up, in value and in gradient.

Legend: N samples, K classes, H rows, W columns.
"""

from typing import Any, Literal, assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from swath.config_run import LossConfig, LossName


class Loss:
    """The weighted sum of losses that a configuration names, over labelled pixels.

    Pixel losses (cross-entropy; focal: Lin et al. 2017, with softmax) are weighted by class and divided by the weight
    of all labelled pixels of the global batch. Region losses (soft Dice: Milletari et al. 2016; soft Jaccard: Rahman
    and Wang 2016) are taken for each sample over its labelled pixels, averaged over the classes that its labels have,
    and then over the global batch's samples that have a labelled pixel.
    """

    def __init__(self, config: LossConfig, classes: int, ignore: int, class_weights_K: NDArray[Any] | None = None
                 ) -> None:
        weights_K = np.ones(classes) if class_weights_K is None else np.asarray(class_weights_K, np.float64)
        if weights_K.shape != (classes,) or not np.isfinite(weights_K).all() or (weights_K < 0).any():
            raise ValueError(f"class weights must be {classes} finite numbers of 0 or more, got {weights_K}")
        self.config = config
        self.classes = classes
        self.ignore = ignore
        self.weights_K = torch.from_numpy(weights_K.copy())

    def totals(self, labels_NHW: Tensor) -> Tensor:
        """What the losses are divided by: float64 [weight of the labelled pixels, samples with a labelled pixel].

        Additive: sum it over micro-batches and ranks before any of them asks for its loss. Raises ValueError for a
        label that is neither a class nor ignored.
        """
        valid_NHW = labels_NHW != self.ignore
        counts_K = torch.bincount(labels_NHW[valid_NHW].long(), minlength=self.classes)
        if len(counts_K) > self.classes:
            raise ValueError(f"label {len(counts_K) - 1} is neither one of the {self.classes} classes nor the ignore "
                             f"index {self.ignore}")
        weight = (counts_K * self.weights_K.to(counts_K.device)).sum()
        return torch.stack([weight, valid_NHW.flatten(1).any(dim=1).sum().double()])

    def __call__(self, logits_NKHW: Tensor, labels_NHW: Tensor, totals: Tensor) -> Tensor:
        """This part's share of the global loss: a scalar; the shares of all parts sum to the loss of the whole batch.

        Computes in float32 for logits of a smaller type. `totals` are those of the global batch. Where the gradients
        of ranks are averaged and not summed, the share is to be multiplied by their number. 0, with a graph, where
        nothing is labelled.
        """
        logits_NKHW = logits_NKHW.to(torch.promote_types(logits_NKHW.dtype, torch.float32))
        labels_NHW = labels_NHW.long()
        weight, samples = torch.where(totals > 0, totals, 1).to(logits_NKHW.device, logits_NKHW.dtype)
        share = logits_NKHW.new_zeros(())
        for name, factor in self.config.terms.items():
            if name in ("dice", "jaccard"):
                value = _region_losses(name, logits_NKHW, labels_NHW, labels_NHW != self.ignore).sum() / samples
            else:
                value = self._pixel_losses(name, logits_NKHW, labels_NHW).sum() / weight
            share = share + factor * value
        return share

    def _pixel_losses(self, name: LossName, logits_NKHW: Tensor, labels_NHW: Tensor) -> Tensor:
        """Each pixel's weighted cross-entropy or focal loss: (N, H, W); 0 for one without a label."""
        valid_NHW = labels_NHW != self.ignore
        weights_NHW = self.weights_K.to(logits_NKHW)[torch.where(valid_NHW, labels_NHW, 0)] * valid_NHW
        ce_NHW = functional.cross_entropy(logits_NKHW, labels_NHW, ignore_index=self.ignore, reduction="none")
        if name == "cross_entropy":
            return weights_NHW * ce_NHW
        # 1 - p of the labelled class is 1 - exp(-ce). Kept off 0, where the power has an infinite slope for gamma < 1.
        doubt_NHW = (-torch.expm1(-ce_NHW)).clamp_min(torch.finfo(torch.float32).tiny)
        return weights_NHW * doubt_NHW**self.config.gamma * ce_NHW


def _region_losses(name: LossName, logits_NKHW: Tensor, labels_NHW: Tensor, valid_NHW: Tensor) -> Tensor:
    """Each sample's soft Dice or Jaccard loss: (N,); 0 for one without a labelled pixel."""
    valid_N1HW = valid_NHW[:, None]
    index_K11 = torch.arange(logits_NKHW.shape[1], device=logits_NKHW.device)[:, None, None]
    is_class_NKHW = (labels_NHW[:, None] == index_K11) & valid_N1HW
    p_NKHW = torch.softmax(logits_NKHW, dim=1) * valid_N1HW
    overlap_NK = (p_NKHW * is_class_NKHW).sum(dim=(2, 3))
    labelled_NK = is_class_NKHW.sum(dim=(2, 3))
    sizes_NK = p_NKHW.sum(dim=(2, 3)) + labelled_NK
    present_NK = labelled_NK > 0  # so no denominator needs smoothing: it is 1 at least
    if name == "dice":
        ratio_NK = 2 * overlap_NK / torch.where(present_NK, sizes_NK, 1)
    else:
        ratio_NK = overlap_NK / torch.where(present_NK, sizes_NK - overlap_NK, 1)
    return ((1 - ratio_NK) * present_NK).sum(dim=1) / present_NK.sum(dim=1).clamp_min(1)


def class_weights(counts_K: NDArray[Any], scheme: Literal["none", "inverse", "sqrt"]) -> NDArray[np.float64]:
    """Weight of each class from its labelled pixels: float64 (K,), with a mean of 1 over those pixels.

    none: 1 for each; inverse: in proportion to 1/share; sqrt: to 1/sqrt(share). A class without pixels gets 0 from the
    latter two. Raises ValueError where nothing is labelled.
    """
    total = np.sum(counts_K)
    if scheme == "none":
        return np.ones(len(counts_K))
    if total <= 0:
        raise ValueError(f"class weights {scheme!r} need labelled pixels, and there are none")
    share_K = np.asarray(counts_K, np.float64) / total
    met_K = share_K > 0
    if scheme == "inverse":
        exponent = -1.0
    elif scheme == "sqrt":
        exponent = -0.5
    else:
        assert_never(scheme)
    weights_K = np.power(share_K, exponent, out=np.zeros(len(share_K)), where=met_K)
    return np.asarray(weights_K / (weights_K * share_K).sum())
