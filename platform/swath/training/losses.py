"""Losses that do not depend on how a batch is cut: each part gives its share of the global batch's loss.

A mean over a part's own pixels weighs a patch with few labels as much as one with many, so that the gradient changes
with the micro-batch and the number of workers. Here the sums are divided by the whole batch's totals, which are
gathered first: parts add up, in value and in gradient.

Legend: N samples, K classes, H rows, W columns; R regions (classes of one sample), P pixels of a sample.
"""

from typing import Any, assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from swath import extensions
from swath.config import ClassWeights, LossConfig
from swath.errors import ConfigError


class Loss:
    """The weighted sum of losses that a configuration names, over labelled pixels.

    Pixel losses (cross-entropy; focal: Lin et al. 2017) are weighted by the pixel's class and divided by the weight of
    all labelled pixels of the global batch. Region losses (soft Dice: Milletari et al. 2016; soft Jaccard: Rahman and
    Wang 2016; Tversky: Salehi et al. 2017; Lovász: Berman et al. 2018) are taken for each sample over its labelled
    pixels, averaged over the classes that its labels have, and then over the global batch's samples that have a
    labelled pixel; each lies between 0 and 1.

    A loss of one's own is averaged over the same samples as region losses. It is given the scores as they are, whatever
    the target, in the parts that a batch is cut into, and of these the samples that have a labelled pixel alone.

    With `softmax` as the target the probabilities of a pixel's classes sum to 1. With `one_vs_rest` each class has a
    sigmoid and is a binary problem over all labelled pixels, and a loss is the mean of that over all classes. A pixel
    weighs as much in each of them: by its own class. Of a class that a sample lacks, region losses see the rest, which
    is then the one region there is: else no patch without a class would ever tell its channel to be silent. (For
    Jaccard and Lovász that is the mean probability of the class.)
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
        self._own = extensions.resolve(config.custom, "loss.custom") if config.custom else None

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
        if self.config.has("pixel"):
            share = share + self._pixel_losses(logits_NKHW, labels_NHW).sum() / weight
        if self.config.has("region"):
            share = share + self._region_losses(logits_NKHW, labels_NHW).sum() / samples
        if self._own and self.config.custom_weight:
            share = share + self.config.custom_weight * self._own_losses(logits_NKHW, labels_NHW).sum() / samples
        return share

    def _own_losses(self, logits_NKHW: Tensor, labels_NHW: Tensor) -> Tensor:
        """The loss of one's own of each sample that has a labelled pixel; empty, with a graph, where there is none.

        Raises ConfigError where the function does not return one number for each sample.
        """
        assert self._own is not None
        labelled_N = (labels_NHW != self.ignore).flatten(1).any(dim=1)
        logits_NKHW, labels_NHW = logits_NKHW[labelled_N], labels_NHW[labelled_N]
        if len(labels_NHW) == 0:
            return logits_NKHW.flatten(1).sum(dim=1)
        loss_N = self._own(logits_NKHW, labels_NHW, self.ignore)
        if not isinstance(loss_N, Tensor) or loss_N.shape != labels_NHW.shape[:1]:
            got = f"shape {tuple(loss_N.shape)}" if isinstance(loss_N, Tensor) else type(loss_N).__name__
            raise ConfigError(f"loss.custom: {self.config.custom} must return one loss for each sample, a tensor of "
                              f"shape ({len(labels_NHW)},), got {got}")
        return loss_N

    def _pixel_losses(self, logits_NKHW: Tensor, labels_NHW: Tensor) -> Tensor:
        """Each pixel's weighted sum of cross-entropy and focal loss: (N, H, W); 0 for one without a label."""
        valid_NHW = labels_NHW != self.ignore
        weights_NHW = self.weights_K.to(logits_NKHW)[torch.where(valid_NHW, labels_NHW, 0)] * valid_NHW
        # C channels: one of the softmax, or that of each class
        if self.config.target == "softmax":
            ce_NCHW = functional.cross_entropy(logits_NKHW, labels_NHW, ignore_index=self.ignore,
                                               reduction="none")[:, None]
        elif self.config.target == "one_vs_rest":
            ce_NCHW = -functional.logsigmoid(torch.where(self._is_class(labels_NHW), logits_NKHW, -logits_NKHW))
        else:
            assert_never(self.config.target)
        value_NCHW = self.config.cross_entropy * ce_NCHW
        if self.config.focal:
            # 1 - p of the truth is 1 - exp(-ce). Kept off 0, where the power has an infinite slope for gamma < 1.
            doubt_NCHW = (-torch.expm1(-ce_NCHW)).clamp_min(torch.finfo(torch.float32).tiny)
            value_NCHW = value_NCHW + self.config.focal * doubt_NCHW**self.config.gamma * ce_NCHW
        return weights_NHW * value_NCHW.mean(dim=1)

    def _region_losses(self, logits_NKHW: Tensor, labels_NHW: Tensor) -> Tensor:
        """Each sample's weighted sum of Dice, Jaccard, Tversky and Lovász loss: (N,); 0 where nothing is labelled."""
        valid_N1HW = (labels_NHW != self.ignore)[:, None]
        region_NKHW = self._is_class(labels_NHW)
        present_NK = region_NKHW.any(dim=(2, 3))
        # Of each pixel and class: how far its probability is from the truth
        if self.config.target == "softmax":
            p_NKHW = torch.softmax(logits_NKHW, dim=1)
            errors_NKHW = torch.where(region_NKHW, 1 - p_NKHW, p_NKHW) * valid_N1HW
        else:
            errors_NKHW = torch.sigmoid(torch.where(region_NKHW, -logits_NKHW, logits_NKHW)) * valid_N1HW
            region_NKHW = torch.where(present_NK[..., None, None], region_NKHW, valid_N1HW)
        size_NK = region_NKHW.sum(dim=(2, 3))
        missed_NK = (errors_NKHW * region_NKHW).sum(dim=(2, 3))
        claimed_NK = errors_NKHW.sum(dim=(2, 3)) - missed_NK

        def tversky(alpha: float, beta: float) -> Tensor:
            # Where a sample has the rest alone, what that misses is what the class claims
            wrong_NK = alpha * claimed_NK + torch.where(present_NK, beta * missed_NK, alpha * missed_NK)
            held_NK = torch.where(size_NK > 0, size_NK - missed_NK, 1)  # so no denominator needs smoothing
            return wrong_NK / (held_NK + wrong_NK)

        config = self.config
        loss_NK = (config.dice * tversky(0.5, 0.5) + config.jaccard * tversky(1, 1)
                   + config.tversky * tversky(config.alpha, config.beta))
        if config.lovasz:
            slopes_NKHW = _jaccard_slopes(errors_NKHW.detach(), region_NKHW)
            loss_NK = loss_NK + config.lovasz * (errors_NKHW * slopes_NKHW).sum(dim=(2, 3))
        counted_NK = size_NK > 0
        return (loss_NK * counted_NK).sum(dim=1) / counted_NK.sum(dim=1).clamp_min(1)

    def _is_class(self, labels_NHW: Tensor) -> Tensor:
        """Where a label is each class: bool (N, K, H, W); nowhere for an ignored one."""
        index_K11 = torch.arange(self.classes, device=labels_NHW.device)[:, None, None]
        return (labels_NHW[:, None] == index_K11) & (labels_NHW != self.ignore)[:, None]


@torch.no_grad()
def _jaccard_slopes(errors_NKHW: Tensor, region_NKHW: Tensor) -> Tensor:
    """What each pixel's error counts for in the Lovász extension of its region's Jaccard loss (Berman et al. 2018,
    algorithm 1): float (N, K, H, W); 0 for a region without pixels.

    A pixel's slope is what the Jaccard loss grows by when the pixel turns wrong after all that have larger errors:
    1 / union inside of the region, and overlap / (union (union - 1)) outside. In this form nothing cancels; differences
    of successive losses would lose their digits in a large patch. Pixels without an error come last, ignored ones among
    them: they change no other's slope.
    """
    slopes_NKP = torch.zeros_like(errors_NKHW).flatten(2)
    for slopes_KP, errors_KP, region_KP in zip(  # a sample at a time: sorting needs some 50 bytes for each value
            slopes_NKP, errors_NKHW.flatten(2), region_NKHW.flatten(2), strict=True):
        present_K = region_KP.any(dim=1)
        region_RP = region_KP[present_K]
        # Stable, so that ties fall alike however the batch is cut
        order_RP = errors_KP[present_K].argsort(dim=1, descending=True, stable=True)
        inside_RP = region_RP.gather(1, order_RP)
        size_R1 = region_RP.sum(dim=1, keepdim=True)
        overlap_RP = size_R1 - inside_RP.cumsum(dim=1)
        union_RP = size_R1 + (~inside_RP).cumsum(dim=1)
        growth_RP = torch.where(inside_RP, 1, overlap_RP).to(errors_KP) / torch.where(
            inside_RP, union_RP, union_RP * (union_RP - 1)).to(errors_KP)
        slopes_KP[present_K] = torch.empty_like(growth_RP).scatter_(1, order_RP, growth_RP)
    return slopes_NKP.view_as(errors_NKHW)


def class_weights(counts_K: NDArray[Any], scheme: ClassWeights) -> NDArray[np.float64]:
    """Weight of each class from its labelled pixels: float64 (K,), with a mean of 1 over those pixels.

    none: 1 for each; inverse: in proportion to 1/share; sqrt: to 1/sqrt(share); log: to 1/ln(1.02 + share), no class
    more than 36 times another (Paszke et al. 2016, ENet). A class without pixels gets 0 from all but the first. Raises
    ValueError where nothing is labelled.

    Median frequency (Eigen and Fergus 2015) is `inverse` here: the median is a factor that the scaling takes out, and a
    share of the images that have a class would depend on how ground was cut into scenes. The effective number (Cui et
    al. 2019) of so many pixels is either the same for all classes or their count, by its parameter.
    """
    total = np.sum(counts_K)
    if scheme == "none":
        return np.ones(len(counts_K))
    if total <= 0:
        raise ValueError(f"class weights {scheme!r} need labelled pixels, and there are none")
    share_K = np.asarray(counts_K, np.float64) / total
    some_K = np.where(share_K > 0, share_K, 1)
    if scheme == "inverse":
        weights_K = 1 / some_K
    elif scheme == "sqrt":
        weights_K = some_K**-0.5
    elif scheme == "log":
        weights_K = 1 / np.log(1.02 + some_K)
    else:
        assert_never(scheme)
    return np.asarray(weights_K * (share_K > 0) / (weights_K * share_K).sum())
