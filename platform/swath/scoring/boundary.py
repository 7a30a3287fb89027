"""Boundary IoU: how well the borders of classes are met, whatever the size of what they enclose.

After Cheng et al. 2021, Boundary IoU (arXiv:2103.16562): of each class's labels and predictions only the pixels within
a distance d of their contour are compared. As in the authors' code the distance is that of a square neighbourhood
(their mask eroded d times by 3 x 3): a pixel is at the contour when one of the (2d + 1) x (2d + 1) around it is not of
its class. Unlike there, what is not known makes no contour: the frame of a scene or region, and pixels without a label.

Since every pixel has one label and one prediction, one maximum and one minimum over the neighbourhood serve all
classes at once. Shapes: h rows of one piece, W columns of a region, K classes.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from swath.scoring.metrics import BOUNDARY, NO_PREDICTION

Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]


def near_another(values_hW: Bytes, counted_hW: Bools, distance: int) -> Bools:
    """Pixels that have a counted pixel of another value within `distance` pixels (in a square): bool (h, W).

    Those that do not count themselves are never among them.
    """
    square = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    # What does not count takes the value that changes no maximum, or minimum; nor does what lies past the frame.
    highest = cv2.dilate(np.where(counted_hW, values_hW, np.uint8(0)), square)
    lowest = cv2.erode(np.where(counted_hW, values_hW, np.uint8(255)), square)
    return np.asarray(counted_hW & ((highest > values_hW) | (lowest < values_hW)))


class BoundaryCounts:
    """Counts the boundary pixels of one region that comes in pieces, from top to bottom.

    Only the rows that later ones can change are kept, 2 x `distance` of them, and the counts do not depend on how the
    rows are cut.
    """

    def __init__(self, *, classes: int, ignore: int, distance: int, width: int) -> None:
        self.counts_K3 = np.zeros((classes, BOUNDARY), np.int64)
        """Pixels of each class that are at the contour of: both its labels and its predictions, labels, predictions."""
        self._ignore, self._distance = ignore, distance
        self._labels_hW = self._predictions_hW = np.empty((0, width), np.uint8)
        self._counted = 0  # the first rows that are kept: they are done, and wanted by those below

    def add(self, labels_hW: Bytes, predictions_hW: Bytes, *, last: bool) -> None:
        """Take the next rows. A prediction may be NO_PREDICTION, which is no class's; `last`: the region ends here."""
        labels_hW = np.concatenate([self._labels_hW, labels_hW])
        predictions_hW = np.concatenate([self._predictions_hW, predictions_hW])
        past = len(labels_hW) if last else max(self._counted, len(labels_hW) - self._distance)
        self._count(labels_hW, predictions_hW, slice(self._counted, past))
        kept = max(0, past - self._distance)
        self._labels_hW, self._predictions_hW = labels_hW[kept:], predictions_hW[kept:]
        self._counted = past - kept

    def _count(self, labels_hW: Bytes, predictions_hW: Bytes, rows: slice) -> None:
        """Count the given ones of the rows."""
        if rows.start == rows.stop:
            return
        valid_hW = labels_hW != self._ignore
        of_label = near_another(labels_hW, valid_hW, self._distance)[rows]
        of_prediction = near_another(predictions_hW, valid_hW, self._distance)[rows]
        of_prediction &= predictions_hW[rows] != NO_PREDICTION
        labels_hW, predictions_hW = labels_hW[rows], predictions_hW[rows]
        both = of_label & of_prediction & (labels_hW == predictions_hW)
        classes = len(self.counts_K3)
        for column, values in enumerate((labels_hW[both], labels_hW[of_label], predictions_hW[of_prediction])):
            self.counts_K3[:, column] += np.bincount(values, minlength=classes)
