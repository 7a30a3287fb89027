"""Metrics: additive counts, summed over batches, regions and ranks, and ratios that are taken once at the end.

Legend: K classes, b blocks of a sample, h strata. A count matrix is K x K, row: label, column: prediction; where pixels
may lack a prediction it has one column more, and they are in its last. Q = K + 4 columns: all that is counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

NO_PREDICTION = 255
"""What stands for a class where there is no prediction. A store has at most 255 classes, 0 to 254."""
BOUNDARY = 3
"""Columns of boundary pixels: of labels and predictions alike, of labels, of predictions."""
EXTRA = 1 + BOUNDARY
"""Columns of counts beside those of the predicted classes."""
Uncovered = Literal["wrong", "out"]
"""What becomes of labelled pixels without a prediction: they count as wrong, or are left out."""
UNCOVERED: tuple[Uncovered, ...] = get_args(Uncovered)


@dataclass(frozen=True, eq=False)
class Counts:
    """All that is counted of pixels: one array, so that ranks sum it at once, checkpoints keep it, and regions add up.

    Row: label. Columns: the K predicted classes; no prediction; and, of the pixels at a contour of the row's class
    (`swath.boundary`), those of labels and predictions alike, of the labels, of the predictions.
    """

    array: NDArray[Any]
    """int64 (…, K, K + 4), with any axes of regions before; float64 where regions were weighted."""

    def __post_init__(self) -> None:
        *_, classes, columns = np.shape(self.array)
        if columns != classes + EXTRA:
            raise ValueError(f"counts must be (…, K, K + {EXTRA}), got {np.shape(self.array)}")

    @property
    def classes(self) -> int:
        """K."""
        return int(self.array.shape[-2])

    @property
    def confusion(self) -> NDArray[Any]:
        """Pixels by label and prediction: (…, K, K)."""
        return self.array[..., : self.classes]

    @property
    def uncovered(self) -> NDArray[Any]:
        """Labelled pixels without a prediction: (…, K)."""
        return self.array[..., self.classes]

    @property
    def boundary(self) -> NDArray[Any]:
        """Boundary pixels of each class: (…, K, 3), of labels and predictions alike, of labels, of predictions."""
        return self.array[..., self.classes + 1 :]

    def scored(self, uncovered: Uncovered) -> NDArray[Any]:
        """What IoU and its like are taken of: (…, K, K + 1), or (…, K, K) where uncovered pixels are left out."""
        return self.array[..., : self.classes + (uncovered == "wrong")]

    def sum(self) -> "Counts":
        """The counts of all regions together: (K, K + 4)."""
        return Counts(self.array.reshape(-1, *self.array.shape[-2:]).sum(axis=0))

    def weighted(self, weights_R: NDArray[np.float64]) -> "Counts":
        """The counts of regions, (R, K, K + 4), each times its weight."""
        return Counts(self.array * weights_R[:, None, None])


def tally(labels_hW: NDArray[np.uint8], predictions_hW: NDArray[np.uint8], classes: int, ignore: int
          ) -> NDArray[np.int64]:
    """Count pixels as `confusion` does, those that are predicted as NO_PREDICTION in a column of their own: (K, K + 1).

    Bytes are counted by all 256 x 256 pairs at once, without a mask: 6 ms a megapixel and core where `confusion`, which
    takes any integers on any device, needs 92 (measured).
    """
    pairs = np.bincount((labels_hW.astype(np.uint16) << 8 | predictions_hW).ravel(), minlength=1 << 16)
    pairs = pairs.reshape(256, 256)
    pairs[ignore] = 0
    counts_KP = np.column_stack([pairs[:classes, :classes], pairs[:classes, NO_PREDICTION]])
    if counts_KP.sum() != pairs.sum():
        pairs[:classes, [*range(classes), NO_PREDICTION]] = 0
        label, prediction = np.argwhere(pairs)[0]
        what = f"label {label}" if label >= classes else f"prediction {prediction}"
        raise ValueError(f"{what} is none of the {classes} classes 0 to {classes - 1} ({pairs.sum()} such pixels)")
    return counts_KP


def confusion(labels: ArrayLike | torch.Tensor, predictions: ArrayLike | torch.Tensor, classes: int, ignore: int
              ) -> NDArray[np.int64]:
    """Count pixels by label and prediction: int64 (K, K), row label, column prediction.

    Both are integers of one shape, NumPy arrays or tensors on any device; the counting is done where the labels are.
    Pixels whose label is `ignore` are left out, whatever is predicted there. Raises ValueError, naming the value, for a
    counted label or prediction that is no class.
    """
    label, prediction = _integers(labels, "labels"), _integers(predictions, "predictions")
    if label.shape != prediction.shape:
        raise ValueError(f"labels {tuple(label.shape)} and predictions {tuple(prediction.shape)} differ in shape")
    prediction = prediction.to(label.device)
    counted = label != ignore
    label, prediction = label[counted], prediction[counted]
    _check_range(label, classes, "label")
    _check_range(prediction, classes, "prediction")
    counts = torch.bincount(label * classes + prediction, minlength=classes**2)
    return counts.reshape(classes, classes).cpu().numpy()


def iou(counts_KK: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union of each class: float64 (K,), nan where a class has neither labels nor predictions.

    With a column for pixels without a prediction, (K, K + 1), those enlarge the union of their label; so in all below.
    """
    intersection_K, union_K = _overlaps(counts_KK)
    return ratio(intersection_K, union_K)


def precision(counts_KK: NDArray[Any]) -> NDArray[np.float64]:
    """Share of each class's predictions that are right: float64 (K,), nan where it is never predicted."""
    right_K, _, predicted_K = totals(counts_KK)
    return ratio(right_K, predicted_K)


def recall(counts_KK: NDArray[Any]) -> NDArray[np.float64]:
    """Share of each class's labels that are found: float64 (K,), nan where it has none."""
    right_K, labels_K, _ = totals(counts_KK)
    return ratio(right_K, labels_K)


def f1(counts_KK: NDArray[Any]) -> NDArray[np.float64]:
    """Harmonic mean of precision and recall (Dice): float64 (K,), nan where a class has neither labels nor
    predictions."""
    right_K, labels_K, predicted_K = totals(counts_KK)
    return ratio(2 * right_K, labels_K + predicted_K)


def boundary_iou(boundary_K3: NDArray[Any]) -> NDArray[np.float64]:
    """IoU of each class's boundary pixels, (K, 3) as Counts has them: float64 (K,), nan where neither its labels nor
    its predictions have a contour."""
    both_K, labels_K, predictions_K = np.moveaxis(boundary_K3, -1, 0)
    return ratio(both_K, labels_K + predictions_K - both_K)


def ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """part / whole, nan where the whole is 0: float64 of their shape."""
    result = np.full(np.shape(whole), np.nan)
    np.divide(part, whole, out=result, where=whole > 0)
    return result


def mean_iou(counts_KK: NDArray[Any], present_K: NDArray[np.bool_]) -> float:
    """Mean IoU over the classes that have labelled pixels in the whole split.

    A present class that is never predicted has an IoU of 0. One that these counts do not meet at all, which can be
    only where they cover a part of the split, is left out. nan where nothing is left.
    """
    iou_K = iou(counts_KK)
    met_K = np.asarray(present_K, bool) & ~np.isnan(iou_K)
    return float(iou_K[met_K].mean()) if met_K.any() else float("nan")


def pixel_accuracy(counts_KK: NDArray[Any]) -> float:
    """Share of the counted pixels whose prediction is their label; nan where none is counted."""
    total = counts_KK.sum()
    return float(np.trace(counts_KK) / total) if total else float("nan")


@dataclass(frozen=True, kw_only=True, eq=False)
class PartScore:
    """What a sample of blocks says about a whole split."""

    miou: float
    """Estimated mean IoU of the split."""
    iou_K: NDArray[np.float64]
    """Estimated IoU of each class; nan where the sample has neither its labels nor its predictions."""
    se: float
    """Standard error of miou: 0 where the sample is the split, nan where a lone block says nothing of the spread."""


def part_score(counts_bKK: NDArray[np.int64], stratum_b: NDArray[np.integer[Any]],
               population_h: Mapping[int, int] | NDArray[np.integer[Any]], present_K: NDArray[np.bool_]) -> PartScore:
    """Estimate the mean IoU of a split from a stratified random sample of its blocks, with its standard error.

    counts_bKK: int64 (blocks, K, K); stratum_b: each block's stratum; population_h: number of blocks that each stratum
    has in the whole split; present_K: classes with labelled pixels in the whole split.

    The combined ratio estimator (Cochran, Sampling Techniques, 3rd ed. 1977, ch. 5 and 6): the counts' totals are
    estimated as T = sum_h N_h/n_h sum_b, each IoU is the ratio of two of them, I_k/U_k, and the variance of the mean is
    that of the estimated total of the linearised residuals d_b = mean_k (I_bk - IoU_k U_bk) / U_k:
    sum_h N_h^2 (1 - n_h/N_h) s_h^2 / n_h. A stratum with a single one of its blocks in the sample has no spread of its
    own: it takes that of all blocks. The ratio's bias falls as 1/n and is not in the error.

    Raises ValueError when a stratum of the split has no block in the sample, or more than it has in the split.
    """
    strata, sampled_h, blocks_h = _strata(stratum_b, population_h)
    weight_b = (blocks_h / sampled_h)[np.searchsorted(strata, stratum_b)]
    total_KK = np.tensordot(weight_b, counts_bKK, axes=1)
    iou_K = iou(total_KK)
    met_K = np.asarray(present_K, bool) & ~np.isnan(iou_K)
    residual_b = _residuals(counts_bKK, total_KK, met_K)
    variance = sum(_stratum_variance(residual_b, np.asarray(stratum_b) == h, int(n))
                   for h, n in zip(strata, blocks_h, strict=True))
    return PartScore(miou=mean_iou(total_KK, present_K), iou_K=iou_K, se=float(np.sqrt(variance)))


def _strata(stratum_b: NDArray[np.integer[Any]], population_h: Mapping[int, int] | NDArray[np.integer[Any]]
            ) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
    """The strata in order, the number of their blocks in the sample, and in the split."""
    pairs = population_h.items() if isinstance(population_h, Mapping) else enumerate(population_h)
    population = {int(h): int(n) for h, n in pairs if n > 0}
    strata, sampled_h = np.unique(np.asarray(stratum_b), return_counts=True)
    sampled = {int(h): int(n) for h, n in zip(strata, sampled_h, strict=True)}
    for h in sorted(population.keys() | sampled.keys()):
        if not 0 < sampled.get(h, 0) <= population.get(h, 0):
            raise ValueError(f"stratum {h} has {sampled.get(h, 0)} blocks in the sample and {population.get(h, 0)} in "
                             "the split: each needs at least one in the sample, and at most all")
    return strata, sampled_h, np.array([population[int(h)] for h in strata])


def _residuals(counts_bKK: NDArray[np.int64], total_KK: NDArray[np.float64], met_K: NDArray[np.bool_]
               ) -> NDArray[np.float64]:
    """Each block's linearised residual of the mean IoU: float64 (blocks,)."""
    if not met_K.any():
        return np.full(len(counts_bKK), np.nan)
    intersection_K, union_K = (part[met_K] for part in _overlaps(total_KK))
    intersection_bK, union_bK = (part[:, met_K] for part in _overlaps(counts_bKK))
    return np.asarray(np.mean((intersection_bK - intersection_K / union_K * union_bK) / union_K, axis=1))


def _stratum_variance(residual_b: NDArray[np.float64], mine_b: NDArray[np.bool_], population: int) -> float:
    """Variance of a stratum's estimated total of the residuals, of which `mine_b` were sampled."""
    sampled = int(mine_b.sum())
    if sampled == population:  # nothing was left to chance
        return 0.0
    spread_b = residual_b[mine_b] if sampled > 1 else residual_b
    spread = float(spread_b.var(ddof=1)) if len(spread_b) > 1 else float("nan")
    return population**2 * (1 - sampled / population) * spread / sampled


def _overlaps(counts_KK: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Intersections and unions by class, over the last two axes."""
    right_K, labels_K, predicted_K = totals(counts_KK)
    return right_K, labels_K + predicted_K - right_K


def totals(counts_KK: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Right pixels, labels and predictions by class, over the last two axes."""
    classes = counts_KK.shape[-2]
    return (np.diagonal(counts_KK, axis1=-2, axis2=-1), counts_KK.sum(axis=-1),
            counts_KK[..., :classes].sum(axis=-2))


def _integers(values: ArrayLike | torch.Tensor, what: str) -> torch.Tensor:
    """As int64 where they are: small types would overflow, and a fraction is no class."""
    tensor = values if isinstance(values, torch.Tensor) else np.asarray(values)
    if isinstance(tensor, torch.Tensor):
        if tensor.is_floating_point() or tensor.is_complex():
            raise ValueError(f"{what} must be integers, got {tensor.dtype}; take the argmax of scores first")
        return tensor.to(torch.int64)
    if tensor.dtype.kind not in "iub":
        raise ValueError(f"{what} must be integers, got {tensor.dtype}; take the argmax of scores first")
    return torch.from_numpy(np.array(tensor, np.int64))


def _check_range(values: torch.Tensor, classes: int, what: str) -> None:
    wrong = values[(values < 0) | (values >= classes)]
    if len(wrong):
        raise ValueError(f"{what} {int(wrong[0])} is none of the {classes} classes 0 to {classes - 1} "
                         f"({len(wrong)} such pixels)")
