"""Augmentation of training patches by named pipelines, each patch from a seed of its own.

    none          patches as they are stored
    flips         the eight symmetries of the square, each as likely: ground seen from above has no right way up
    aerial        for nadir imagery: symmetries, mild zoom, any rotation, small shifts, light, colour, blur or noise
    landcover_ai  rotation to 90 degrees, flips, shifts of up to 0.9 of the patch, as LandCover.ai's users train
    drone         the longest, for photographs from low flights: aerial's and more of it, distortions, shadows
    MODULE:NAME   one's own: a function of the patch's size in pixels and of augment.rgb that returns a transform of
                  albumentations, for images (row, col, band) of all bands and their masks

What a geometry leaves empty is filled by reflection, of labels too. Labels follow geometry and never colour; their
pixels are moved and never mixed, so none gets a class that was not there. The scales of a concentric patch are varied
alike: the ground is turned, zoomed and shifted about their common centre, a shift being a share of the finest. Where
that is reflected then, the coarser scales show the true ground, so there labels are ignored (most, under
`landcover_ai`). `drone` is not for them: what its distortions do to one scale they do not do to another.
Colour, shadow, blur and noise change the bands `augment.rgb` of uint8 imagery; other bands pass through.

A patch's variation follows from its seed alone, whatever the process, the thread or the cut into batches. The
symmetries are ours (OpenCV on each plane, in place), the rest is albumentations, which is imported at the first
patch that needs it. OpenCV's own threads change no result; how many it may use (cv2.setNumThreads, for a whole
process) is for the process to say that runs several of these at once.

N patches, S scales of each (1, but for concentric ones), B bands, H and W the patch's sides, C the bands of colour.
"""

import random
import sys
import threading
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from swath import extensions
from swath.config import AugmentConfig
from swath.errors import ConfigError

Transforms = list[Any]
"""Transforms of albumentations, which ships no types."""

_FLIPS = {1: 1, 2: 0, 3: -1}
"""OpenCV's code of a flip: left to right, upside down, both."""
_IMPORT = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class _Pipeline:
    """What a named pipeline consists of; each step is a function of the patch's size."""

    symmetries: int = 1
    """Of how many symmetries of the square one is drawn: 1 (none), 4 (flips) or 8."""
    geometry: Callable[[int], Transforms] | None = None
    """Transforms of all bands and of the labels."""
    colour: Callable[[int, bool], Transforms] | None = None
    """Transforms of the bands of colour; the second argument says whether they are three, or one grey band."""
    affine: bool = True
    """Whether the geometry consists of affine maps alone, which mean the same ground at every scale."""


class Augment:
    """Varies patches by one of the pipelines. Several threads may share it; it pickles as its arguments."""

    def __init__(self, config: AugmentConfig, *, size: int, bands: int, dtype: np.dtype[np.generic],
                 scales: Sequence[float] = (1.0,), ignore: int = 255) -> None:
        """For patches of size x size pixels with so many bands of this type, one that a store may have; `scales`: at
        which each is seen at once, the finest, whose labels there are, first. `ignore`: the label of no class.

        Raises ConfigError when the pipeline cannot take such bands, such a type or several scales, with what to choose.
        """
        self._pipeline = _pipeline(config)
        if self._pipeline.colour:
            _check_colour(config, bands, dtype)
        if len(scales) > 1 and not self._pipeline.affine:
            able = [name for name, pipeline in PIPELINES.items() if pipeline.affine]
            raise ConfigError(f"augment.pipeline {config.pipeline} may distort a patch by shares of its side, which is "
                              f"other ground at each scale of patches.combine concentric; choose {', '.join(able)}")
        self._arguments = (config, size, bands, dtype)
        self._ignore = ignore
        self._scales = tuple(scales)
        self._planes = [band - 1 for band in dict.fromkeys(config.rgb)]
        self._local = threading.local()  # a pipeline keeps its random state, so each thread has its own

    def __reduce__(self) -> tuple[Callable[..., "Augment"], tuple[AugmentConfig]]:
        config, size, bands, dtype = self._arguments
        return partial(Augment, size=size, bands=bands, dtype=dtype, scales=self._scales,
                       ignore=self._ignore), (config,)

    def __call__(self, image_BHW: NDArray[Any], label_HW: NDArray[np.uint8], seed: int
                 ) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """A varied copy of one patch, of the same shapes and dtypes."""
        images_NBHW, labels_NHW = image_BHW[None].copy(), label_HW[None].copy()
        self.vary(images_NBHW, labels_NHW, [seed])
        return images_NBHW[0], labels_NHW[0]

    def vary(self, images: NDArray[Any], labels_NHW: NDArray[np.uint8], seeds_N: Sequence[int] | NDArray[Any]
             ) -> None:
        """Vary a batch in place: each patch from its own seed (0 or more).

        `images` are (N, S, B, H, W), or (N, B, H, W) where there is one scale. The arrays may lie anywhere, in shared
        memory too. Raises ValueError when they are not what the constructor was told, or when a patch's rows are not
        contiguous.
        """
        images_NSBHW = images[:, None] if images.ndim == 4 else images
        self._check(images_NSBHW, labels_NHW, len(seeds_N))
        if self._pipeline.symmetries == 1 and self._pipeline.geometry is None:
            return
        for image_SBHW, label_HW, seed in zip(images_NSBHW, labels_NHW, seeds_N, strict=True):
            draws = random.Random(int(seed))
            symmetry = int(draws.random() * self._pipeline.symmetries)
            for plane_HW in (*(plane for image_BHW in image_SBHW for plane in image_BHW), label_HW):
                _turn(plane_HW, symmetry)
            if self._pipeline.geometry or self._pipeline.colour:
                self._resample(image_SBHW, label_HW, np.random.default_rng(int(seed)), draws)

    def _resample(self, image_SBHW: NDArray[Any], label_HW: NDArray[np.uint8], generator: np.random.Generator,
                  draws: random.Random) -> None:
        """The steps that are albumentations'. One random state serves all transforms: its own set_random_seed gives
        each the same seed, and their draws would be the same numbers."""
        if not hasattr(self._local, "steps"):
            self._local.steps = self._steps()
        geometry, colour = self._local.steps
        if geometry:
            geometry.set_random_state(generator, draws)
            if len(image_SBHW) > 1:
                self._move_together(image_SBHW, label_HW, geometry.transforms, draws)
            else:
                moved = geometry(image=_merge(list(image_SBHW[0])), mask=label_HW)
                self._check_moved(moved["image"], moved["mask"], image_SBHW[0], label_HW)
                _split(moved["image"], list(image_SBHW[0]))
                np.copyto(label_HW, moved["mask"])
        if colour:
            copies = [deepcopy((generator, draws)) for _ in image_SBHW[1:]]  # each scale is given the same draws
            for image_BHW, state in zip(image_SBHW, [*copies, (generator, draws)], strict=True):
                colour.set_random_state(*state)
                planes = [image_BHW[plane] for plane in self._planes]
                _split(colour(image=_merge(planes))["image"], planes)

    def _move_together(self, image_SBHW: NDArray[Any], label_HW: NDArray[np.uint8], affines: Transforms,
                       draws: random.Random) -> None:
        """Geometry of several scales: affine maps of the ground about the common centre, drawn for the finest patch. At
        a coarser scale the same map has the same linear part, and a shift of as many fewer pixels."""
        size = len(label_HW)
        middle_2 = np.full(2, (size - 1) / 2)
        for affine in affines:
            if draws.random() >= affine.p:
                continue
            matrix_23 = affine.get_params_dependent_on_data({"shape": label_HW.shape}, {})["matrix"][:2]
            linear_22 = matrix_23[:, :2]
            shift_2 = linear_22 @ middle_2 + matrix_23[:, 2] - middle_2
            np.copyto(label_HW, cv2.warpAffine(label_HW, matrix_23, (size, size), flags=cv2.INTER_NEAREST,
                                               borderMode=cv2.BORDER_CONSTANT, borderValue=self._ignore))
            for scale, image_BHW in zip(self._scales, image_SBHW, strict=True):
                own_2 = middle_2 + shift_2 * self._scales[0] / scale - linear_22 @ middle_2
                own_23 = np.column_stack([linear_22, own_2])
                for plane_HW in image_BHW:
                    np.copyto(plane_HW, cv2.warpAffine(plane_HW, own_23, (size, size), flags=cv2.INTER_LINEAR,
                                                       borderMode=cv2.BORDER_REFLECT_101))

    def _steps(self) -> tuple[Any, Any]:
        """Geometry and colour, ready to be called; None for a step that the pipeline does not have."""
        A = _albumentations()
        geometry, colour = self._pipeline.geometry, self._pipeline.colour
        size = self._arguments[1]
        return (A.Compose(geometry(size)) if geometry else None,
                A.Compose(colour(size, len(self._planes) == 3)) if colour else None)

    def _check_moved(self, image_HWB: NDArray[Any], mask_HW: NDArray[Any], image_BHW: NDArray[Any],
                     label_HW: NDArray[np.uint8]) -> None:
        """Raise ConfigError where a pipeline of one's own returns another size, or another type, than it was given."""
        got = (image_HWB.shape, image_HWB.dtype, mask_HW.shape, mask_HW.dtype)
        bands, *sides = image_BHW.shape
        wanted = ((*sides, bands), image_BHW.dtype, label_HW.shape, label_HW.dtype)
        if got != wanted:
            raise ConfigError(f"augment.pipeline {self._arguments[0].pipeline}: it must keep size and type, here image "
                              f"{wanted[0]} {wanted[1]} and mask {wanted[2]} {wanted[3]}, got image {got[0]} {got[1]} "
                              f"and mask {got[2]} {got[3]}")

    def _check(self, images_NSBHW: NDArray[Any], labels_NHW: NDArray[np.uint8], seeds: int) -> None:
        _, size, bands, dtype = self._arguments
        patch = (len(self._scales), bands, size, size)
        if images_NSBHW.shape != (seeds, *patch) or labels_NHW.shape != (seeds, size, size):
            raise ValueError(f"augment: images {images_NSBHW.shape}, labels {labels_NHW.shape} and {seeds} seeds, "
                             f"for patches of {' x '.join(map(str, patch))}")
        if images_NSBHW.dtype != dtype or labels_NHW.dtype != np.uint8:
            raise ValueError(f"augment: images of {images_NSBHW.dtype} and labels of {labels_NHW.dtype}, for {dtype} "
                             "and uint8")
        for array in (images_NSBHW, labels_NHW):  # OpenCV would write to a copy
            if array.strides[-2:] != (size * array.itemsize, array.itemsize):
                raise ValueError(f"augment: rows that are not contiguous, of strides {array.strides}")


def _pipeline(config: AugmentConfig) -> _Pipeline:
    """The pipeline of a name or of a dotted path. Raises ConfigError where there is none."""
    if extensions.is_path(config.pipeline):
        _albumentations()  # first, so that the import in the user's module does not bring torch along
        make = extensions.resolve(config.pipeline, "augment.pipeline")
        return _Pipeline(geometry=lambda size: [make(size, config.rgb)], affine=False)
    if config.pipeline not in PIPELINES:
        raise ConfigError(f"augment.pipeline: there is no {config.pipeline!r}"
                          f"{extensions.nearest(config.pipeline, PIPELINES)}; there are {', '.join(PIPELINES)}, or "
                          "MODULE:NAME for a pipeline of your own")
    return PIPELINES[config.pipeline]


def _check_colour(config: AugmentConfig, bands: int, dtype: np.dtype[np.generic]) -> None:
    if dtype != np.uint8:
        raise ConfigError(f"augment.pipeline {config.pipeline} changes colours of uint8 imagery alone, and the store "
                          f"has {dtype}; choose flips, landcover_ai or none")
    beyond = sorted({band for band in config.rgb if band > bands})
    if beyond:
        raise ConfigError(f"augment.rgb names band {', '.join(map(str, beyond))}, and the store has {bands}; name "
                          "three of its bands, or a grey one three times (1,1,1), or choose augment.pipeline flips")


def _turn(plane_HW: NDArray[Any], symmetry: int) -> None:
    """Apply one of the eight symmetries in place: 1 flips left and right, 2 up and down, 4 transposes first."""
    if symmetry & 4:
        cv2.transpose(plane_HW, dst=plane_HW)
    if symmetry & 3:  # OpenCV has no code for no flip
        cv2.flip(plane_HW, _FLIPS[symmetry & 3], dst=plane_HW)


def _merge(planes: list[NDArray[Any]]) -> NDArray[Any]:
    """(row, col, band), as albumentations has it."""
    merged = cv2.merge(planes)
    return merged if merged.ndim == 3 else merged[..., None]


def _split(image_HWB: NDArray[Any], planes: list[NDArray[Any]]) -> None:
    """Write each band to its plane."""
    for plane_HW, band_HW in zip(planes, cv2.split(image_HWB), strict=True):
        np.copyto(plane_HW, band_HW)


def _albumentations() -> Any:
    """The library, without the conversions to torch that it imports along: 5 s and 500 MB for a process that has no
    other use for torch. It bears their absence, as where torch is not installed."""
    with _IMPORT:
        if "albumentations" not in sys.modules:
            sys.modules["albumentations.pytorch"] = None  # type: ignore[assignment]  # what import takes for absent
            try:
                import albumentations  # noqa: F401
            finally:
                del sys.modules["albumentations.pytorch"]
    return sys.modules["albumentations"]


def _affine(*, zoom: tuple[float, float], rotate: float, shift: float, p: float) -> Any:
    """Zoom, rotation (degrees) and shift (share of the size) about the patch's centre."""
    return _albumentations().Affine(
        scale=zoom, keep_ratio=True, balanced_scale=True, rotate=(-rotate, rotate), translate_percent=(-shift, shift),
        interpolation=cv2.INTER_LINEAR, mask_interpolation=cv2.INTER_NEAREST, border_mode=cv2.BORDER_REFLECT_101, p=p)


def _aerial_geometry(size: int) -> Transforms:
    """Half of the patches are resampled, half stay as sharp as the scenes that are scored. At one ground resolution
    things have nearly one size, so zoom is mild (patches.scales is for more); 45 degrees and a symmetry are any angle.
    """
    return [_affine(zoom=(0.8, 1.25), rotate=45, shift=0.1, p=0.5)]


def _aerial_colour(size: int, rgb: bool) -> Transforms:
    """Each change by itself, mild and on a share of the patches, as nnU-Net has it (Isensee et al. 2021); the numbers
    are assumed. Brightness goes by the patch's mean: a share of 255 would blacken dark ground. Hue tells soil from
    plants, so it turns by 12 degrees at most. No dropout of squares: the network would have to name what is hidden, and
    its gain is shown where labels lack (French et al. 2020).
    """
    A = _albumentations()
    hue = [A.HueSaturationValue(hue_shift_limit=6, sat_shift_limit=20, val_shift_limit=0, p=0.3)] if rgb else []
    return [A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, brightness_by_max=False, p=0.5), *hue,
            A.RandomGamma(gamma_limit=(80, 125), p=0.2),
            A.OneOf([A.GaussianBlur(blur_limit=0, sigma_limit=(0.4, 1.0)),
                     A.GaussNoise(std_range=(0.01, 0.03))], p=0.2)]


def _landcover_ai_geometry(size: int) -> Transforms:
    """Keras' rotation_range 90, width_shift_range and height_shift_range 0.9; its flips are the pipeline's."""
    return [_affine(zoom=(1, 1), rotate=90, shift=0.9, p=1)]


def _drone_geometry(size: int) -> Transforms:
    """Heights of flight differ, so zoom is wider; cells of a grid are stretched by up to 15 %, and lenses bend straight
    lines. No ElasticTransform: it blurs noise with a replicated edge, so corners move ten times as far as the rest (60
    of 512 px were seen), at four times the cost.
    """
    A = _albumentations()
    filled = {"interpolation": cv2.INTER_LINEAR, "mask_interpolation": cv2.INTER_NEAREST,
              "border_mode": cv2.BORDER_REFLECT_101}
    return [_affine(zoom=(0.67, 1.5), rotate=45, shift=0.1, p=0.7),
            A.OneOf([A.GridDistortion(num_steps=5, distort_limit=0.15, **filled),
                     A.OpticalDistortion(distort_limit=0.2, **filled)], p=0.2)]


def _drone_colour(size: int, rgb: bool) -> Transforms:
    """Hard shadows, changing light, motion and a camera's JPEG. A motion blur off its centre would move the image from
    its labels."""
    A = _albumentations()
    hue = [A.HueSaturationValue(hue_shift_limit=10, sat_shift_limit=30, val_shift_limit=0, p=0.4)] if rgb else []
    return [A.RandomShadow(shadow_roi=(0, 0, 1, 1), num_shadows_limit=(1, 2), shadow_dimension=3,
                           shadow_intensity_range=(0.3, 0.6), p=0.2),
            A.RandomBrightnessContrast(brightness_limit=0.25, contrast_limit=0.25, brightness_by_max=False, p=0.6),
            *hue, A.RandomGamma(gamma_limit=(70, 140), p=0.3),
            A.OneOf([A.GaussianBlur(blur_limit=0, sigma_limit=(0.4, 1.5)),
                     A.MotionBlur(blur_limit=(3, 7), allow_shifted=False), A.GaussNoise(std_range=(0.01, 0.05)),
                     A.ImageCompression(quality_range=(60, 95))], p=0.3)]


PIPELINES = {
    "none": _Pipeline(),
    "flips": _Pipeline(symmetries=8),
    "aerial": _Pipeline(symmetries=8, geometry=_aerial_geometry, colour=_aerial_colour),
    "landcover_ai": _Pipeline(symmetries=4, geometry=_landcover_ai_geometry),
    "drone": _Pipeline(symmetries=8, geometry=_drone_geometry, colour=_drone_colour, affine=False),
}
"""Every pipeline that has a name; `augment.pipeline` takes these."""
