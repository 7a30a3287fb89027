"""Augmentation of training patches by albumentations, each patch from a seed of its own.

The seed follows from the patch's place in the run, so the same run sees the same pixels however many workers and
threads share the work, and after a resume.
"""

import threading

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from swath.config import AugmentConfig
from swath.errors import ConfigError


class Augment:
    """Varies one patch at a time; safe to call from several threads."""

    def __init__(self, config: AugmentConfig, dtype: np.dtype[np.generic]) -> None:
        """Raises ConfigError when brightness, contrast or blur is asked of data that is not uint8: albumentations
        takes other pixels for values from 0 to 1, or refuses them."""
        if dtype != np.uint8 and (config.brightness > 0 or config.contrast > 0 or config.blur > 0):
            raise ConfigError("augment.brightness, augment.contrast and augment.blur need uint8 imagery, the store "
                              f"has {dtype}; set them to 0")
        self._config = config
        self._local = threading.local()  # a pipeline keeps its random state, so each thread has its own

    def __call__(self, image_BHW: NDArray[np.generic], label_HW: NDArray[np.uint8], seed: int
                 ) -> tuple[NDArray[np.generic], NDArray[np.uint8]]:
        """The varied patch, of the same shapes and dtypes."""
        if not hasattr(self._local, "pipeline"):
            self._local.pipeline = A.Compose(_transforms(self._config))
        self._local.pipeline.set_random_seed(seed)
        result = self._local.pipeline(image=np.ascontiguousarray(image_BHW.transpose(1, 2, 0)), mask=label_HW)
        return np.ascontiguousarray(result["image"].transpose(2, 0, 1)), np.ascontiguousarray(result["mask"])


def _transforms(config: AugmentConfig) -> list[A.BasicTransform]:
    """The parts of the pipeline that the configuration switches on. Filling is by reflection, of labels too."""
    parts: list[A.BasicTransform] = []
    if config.flip:
        parts += [A.HorizontalFlip(p=config.flip), A.VerticalFlip(p=config.flip)]
    if config.turn:
        parts.append(A.RandomRotate90(p=config.turn))
    if config.rotate or config.shift or config.zoom:
        parts.append(A.Affine(rotate=(-config.rotate, config.rotate),
                              translate_percent=(-config.shift, config.shift),
                              scale=(1 - config.zoom, 1 + config.zoom), interpolation=cv2.INTER_LINEAR,
                              mask_interpolation=cv2.INTER_NEAREST, border_mode=cv2.BORDER_REFLECT_101, p=1.0))
    if config.brightness or config.contrast:
        parts.append(A.RandomBrightnessContrast(brightness_limit=config.brightness, contrast_limit=config.contrast,
                                                p=1.0))
    if config.blur:
        parts.append(A.GaussianBlur(p=config.blur))
    return parts
