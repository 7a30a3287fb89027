"""A picture of a scene with its labels over it. matplotlib is imported when the first one is drawn."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchstore.format.schema import ClassInfo

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OPACITY = 0.4
"""Of the labels over the image."""


def draw(image_BHW: NDArray[Any], labels_HW: NDArray[np.uint8] | None, valid_HW: NDArray[np.bool_],
         classes: Sequence[ClassInfo], title: str) -> "Axes":
    """Draw an image (its first three bands, else its first) and its labels; the legend has the classes that occur.

    Labels that are no class, and pixels that are not valid, stay without colour.
    """
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    _, axes = pyplot.subplots(layout="constrained")
    axes.imshow(_rgb(image_BHW, valid_HW), interpolation="nearest")
    if labels_HW is not None:
        overlay_HW4 = np.zeros((*labels_HW.shape, 4))
        seen = [k for k in range(len(classes)) if (labels_HW == k).any()]
        for k in seen:
            overlay_HW4[labels_HW == k] = (*(band / 255 for band in classes[k].colour), _OPACITY)
        axes.imshow(overlay_HW4, interpolation="nearest")
        if seen:
            axes.legend(handles=[Patch(color=classes[k].code, label=classes[k].name) for k in seen],
                        loc="upper left", bbox_to_anchor=(1, 1))
    axes.set_title(title)
    axes.set_axis_off()
    return axes


def _rgb(image_BHW: NDArray[Any], valid_HW: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Red, green, blue and opacity (H, W, 4) from 0 to 1."""
    bands_BHW = image_BHW[:3] if len(image_BHW) >= 3 else np.repeat(image_BHW[:1], 3, axis=0)
    low, high = (0.0, 255.0) if image_BHW.dtype == np.uint8 or not valid_HW.any() else np.percentile(
        bands_BHW[:, valid_HW], (2, 98))
    scaled_HWB = ((bands_BHW.astype(np.float64) - low) / max(high - low, 1e-12)).clip(0, 1).transpose(1, 2, 0)
    return np.dstack([scaled_HWB, valid_HW.astype(np.float64)])
