"""Augmentation: the same variation from the same seed wherever it is done, labels that stay on their pixels, and what
a pipeline cannot take refused before a run begins."""

import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from swath.config import AugmentConfig, Config
from swath.errors import ConfigError
from swath.loading.augment import PIPELINES, Augment
from swath.tuning import space

SIZE, CLASSES, IGNORE = 48, 5, 255
COLOURED = ("aerial", "drone")
Batch = tuple[NDArray[Any], NDArray[np.uint8]]


def make(pipeline: str, *, bands: int = 3, dtype: str = "uint8", size: int = SIZE,
         rgb: tuple[int, int, int] = (1, 2, 3)) -> Augment:
    return Augment(AugmentConfig(pipeline=pipeline, rgb=rgb), size=size, bands=bands,  # type: ignore[arg-type]
                   dtype=np.dtype(dtype))


def batch(number: int = 6, *, bands: int = 3, dtype: str = "uint8", size: int = SIZE) -> Batch:
    """Smooth images, and labels of large fields with some ignored ground; each patch another."""
    rng = np.random.default_rng(7)
    coarse = rng.integers(0, 256, (number, bands, size // 8, size // 8))
    images_NBHW = coarse.repeat(8, axis=2).repeat(8, axis=3).astype(dtype)
    labels = rng.choice(np.array([0, 2, 4, IGNORE], np.uint8), (number, size // 8, size // 8))
    return images_NBHW, labels.repeat(8, axis=1).repeat(8, axis=2)


def varied(augment: Augment, arrays: Batch, seeds: NDArray[np.int64]) -> Batch:
    images_NBHW, labels_NHW = arrays[0].copy(), arrays[1].copy()
    augment.vary(images_NBHW, labels_NHW, seeds)
    return images_NBHW, labels_NHW


def same(one: Batch, other: Batch) -> bool:
    return np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])


def elsewhere(augment: Augment, number: int) -> Batch:
    return varied(augment, batch(number), np.arange(number))


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_patch_varies_by_its_seed_alone(pipeline: str) -> None:
    """Whatever was varied before, however the batch is cut, and whichever thread does it."""
    number = 24
    augment, arrays, seeds = make(pipeline), batch(number), np.arange(number)
    whole = varied(augment, arrays, seeds)
    assert same(whole, varied(augment, arrays, seeds))
    for cut in (1, 5):
        parts = [varied(make(pipeline), (arrays[0][i : i + cut], arrays[1][i : i + cut]), seeds[i : i + cut])
                 for i in reversed(range(0, number, cut))]
        assert same(whole, tuple(np.concatenate(part[::-1]) for part in zip(*parts)))  # type: ignore[arg-type]
    alone = augment(arrays[0][3], arrays[1][3], 3)
    assert same(alone, (whole[0][3], whole[1][3]))
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: varied(augment, arrays, seeds), range(8)):
            assert same(whole, result)
    assert same(whole, arrays) == (pipeline == "none")
    assert same(whole, varied(augment, arrays, seeds + number)) == (pipeline == "none")


def test_another_process_varies_alike() -> None:
    """`drone` has every kind of transform, noise among them, which OpenCV draws from a state of its own."""
    augments = [make(pipeline) for pipeline in PIPELINES]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        results = pool.starmap(elsewhere, [(augment, 24) for augment in augments])
    for augment, result in zip(augments, results, strict=True):
        assert same(result, elsewhere(pickle.loads(pickle.dumps(augment)), 24))  # noqa: S301 (our own bytes)


def symmetries(image_BHW: NDArray[Any]) -> list[NDArray[Any]]:
    turned = [np.rot90(image_BHW, k, axes=(-2, -1)) for k in range(4)]
    return turned + [one[..., ::-1] for one in turned]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("bands", [1, 3, 7])
def test_flips_are_the_eight_symmetries_each_as_likely(dtype: str, bands: int) -> None:
    size, number = 9, 400
    rng = np.random.default_rng(0)
    image_BHW = rng.integers(0, 200, (bands, size, size)).astype(dtype)
    label_HW = rng.integers(0, CLASSES, (size, size), np.uint8)
    images_NBHW, labels_NHW = image_BHW[None].repeat(number, 0), label_HW[None].repeat(number, 0)
    make("flips", bands=bands, dtype=dtype, size=size).vary(images_NBHW, labels_NHW, np.arange(number))
    found = np.zeros(8, int)
    expected = list(zip(symmetries(image_BHW), symmetries(label_HW), strict=True))
    for image, label in zip(images_NBHW, labels_NHW, strict=True):
        hits = [np.array_equal(image, one) and np.array_equal(label, other) for one, other in expected]
        assert sum(hits) == 1
        found[hits.index(True)] += 1
    assert np.abs(found - number / 8).max() < 25  # 3.8 standard deviations


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**63 - 1), size=st.integers(8, 80), bands=st.integers(1, 6),
       pipeline=st.sampled_from(["flips", "landcover_ai"]))
def test_labels_stay_on_their_pixels(seed: int, size: int, bands: int, pipeline: str) -> None:
    """Each band of the image is its label's index. A pixel is a blend of four, of which the label's own has a quarter
    or more, so one that is further off than three quarters was moved otherwise than its label."""
    rng = np.random.default_rng(seed)
    label_HW = rng.integers(0, 2, (-(-size // 8), -(-size // 8)), np.uint8).repeat(8, 0).repeat(8, 1)[:size, :size]
    label_HW = np.ascontiguousarray(label_HW)
    image_BHW = (label_HW * np.uint8(200))[None].repeat(bands, 0)
    image, label = make(pipeline, bands=bands, size=size)(image_BHW, label_HW, seed)
    assert (np.abs(image.astype(int) - label.astype(int) * 200) <= 156).all()
    assert (image == image[:1]).all()


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_labels_keep_their_classes_and_follow_the_image(pipeline: str) -> None:
    """A fourth band, which no colour changes, holds the labels."""
    number = 60
    images_NBHW, labels_NHW = batch(number, bands=4, size=64)
    images_NBHW[:, 3] = np.where(labels_NHW == IGNORE, 0, 50 * labels_NHW + 50)
    before = labels_NHW.copy()
    make(pipeline, bands=4, size=64).vary(images_NBHW, labels_NHW, np.arange(number))
    assert all(set(np.unique(now)) <= set(np.unique(was)) for now, was in zip(labels_NHW, before, strict=True))
    told_NHW = np.where(labels_NHW == IGNORE, 0, 50 * labels_NHW + 50).astype(int)
    off = np.abs(images_NBHW[:, 3].astype(int) - told_NHW) > 2  # a blend at the edge of a field is between the two
    assert off.mean() < (1e-9 if pipeline in ("none", "flips") else 0.2)
    for image_HW, told_HW in zip(images_NBHW[:, 3], told_NHW, strict=True):
        assert np.ptp(told_HW) == 0 or np.corrcoef(image_HW.ravel(), told_HW.ravel())[0, 1] > 0.93


@pytest.mark.parametrize("pipeline", COLOURED)
def test_colour_changes_the_bands_that_are_named_and_no_other(pipeline: str) -> None:
    number = 40
    images_NBHW = np.full((number, 5, SIZE, SIZE), 120, np.uint8)
    labels_NHW = np.ones((number, SIZE, SIZE), np.uint8)
    make(pipeline, bands=5, rgb=(5, 2, 4)).vary(images_NBHW, labels_NHW, np.arange(number))
    changed_NB = (images_NBHW != 120).any(axis=(2, 3))
    assert not changed_NB[:, [0, 2]].any()
    assert (changed_NB[:, [1, 3, 4]].mean(axis=0) > 0.5).all()
    assert (labels_NHW == 1).all()


def test_each_transform_draws_for_itself() -> None:
    """Geometry and colour of `aerial` come in all four combinations: one seed for every transform would make what is
    likely happen together."""
    number, size = 200, 33
    away = np.abs(np.arange(size) - size // 2)
    images_NBHW = np.full((number, 4, size, size), 120, np.uint8)
    images_NBHW[:, 3] = away[:, None] ** 2 + away**2 >= 100  # a disc, which no symmetry of the square changes
    before = images_NBHW.copy()
    make("aerial", bands=4, size=size).vary(images_NBHW, np.zeros((number, size, size), np.uint8), np.arange(number))
    moved_N = (images_NBHW[:, 3] != before[:, 3]).any(axis=(1, 2))
    changed_N = (images_NBHW[:, :3] != before[:, :3]).any(axis=(1, 2, 3))
    for moved in (False, True):
        for changed in (False, True):
            assert ((moved_N == moved) & (changed_N == changed)).mean() > 0.04


def test_the_order_of_colour_bands_does_not_change_the_picture() -> None:
    images_NBHW, labels_NHW = batch(20)
    straight = varied(make("aerial"), (images_NBHW, labels_NHW), np.arange(20))
    turned = varied(make("aerial", rgb=(3, 2, 1)), (np.ascontiguousarray(images_NBHW[:, ::-1]), labels_NHW),
                    np.arange(20))
    assert np.array_equal(straight[0], turned[0][:, ::-1])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("bands", [1, 2, 3, 4, 12])
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_pipeline_takes_a_store_or_says_what_to_choose(pipeline: str, bands: int, dtype: str) -> None:
    if pipeline in COLOURED and dtype != "uint8":
        with pytest.raises(ConfigError, match=f"^augment.pipeline {pipeline} .* has {dtype}; choose flips"):
            make(pipeline, bands=bands, dtype=dtype)
        return
    if pipeline in COLOURED and bands < 3:
        with pytest.raises(ConfigError, match=f"^augment.rgb names band .*3, and the store has {bands}; .*1,1,1"):
            make(pipeline, bands=bands, dtype=dtype)
    rgb = (1, 1, 1) if bands < 3 else (bands, 1, 2)
    images_NBHW, labels_NHW = batch(12, bands=bands, dtype=dtype)
    if dtype != "uint8":  # beyond what 8 bits, or shares from 0 to 1, hold
        images_NBHW = (images_NBHW * 100 - (10_000 if dtype in ("int16", "float32") else 0)).astype(dtype)
    low, high = images_NBHW.min(), images_NBHW.max()
    make(pipeline, bands=bands, dtype=dtype, rgb=rgb).vary(images_NBHW, labels_NHW, np.arange(12))
    assert images_NBHW.dtype == np.dtype(dtype)
    if dtype != "uint8":
        assert low <= images_NBHW.min() < low + (high - low) / 50
        assert high >= images_NBHW.max() > high - (high - low) / 50


@pytest.mark.parametrize("rgb", [(0, 1, 2), (1, 1, 2), (-1, 2, 3)])
def test_bands_of_colour_that_make_no_sense_are_refused(rgb: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match=r"augment\.rgb must be three different band numbers"):
        AugmentConfig(rgb=rgb)


def test_arrays_that_would_not_be_written_are_refused() -> None:
    images_NBHW, labels_NHW = batch(2)
    augment = make("flips")
    for images, labels, seeds in ((images_NBHW[..., ::-1], labels_NHW, [1, 2]), (images_NBHW, labels_NHW, [1]),
                                  (images_NBHW.astype(np.uint16), labels_NHW, [1, 2]),
                                  (images_NBHW[:, :2], labels_NHW, [1, 2])):
        with pytest.raises(ValueError, match=r"^augment: "):
            augment.vary(images, labels, seeds)


def test_importing_is_cheap_and_flips_need_no_library() -> None:
    """A process that only varies patches has no use for torch, which albumentations brings along."""
    code = ("import sys, numpy as np\n"
            "from swath.config import AugmentConfig\n"
            "from swath.loading.augment import Augment\n"
            "loaded = lambda: [name for name in ('torch', 'albumentations', 'ray') if name in sys.modules]\n"
            "def vary(name):\n"
            "    a = Augment(AugmentConfig(pipeline=name), size=8, bands=3, dtype=np.dtype('uint8'))\n"
            "    a.vary(np.zeros((1, 3, 8, 8), np.uint8), np.zeros((1, 8, 8), np.uint8), [0])\n"
            "vary('none'); vary('flips'); print(loaded()); vary('aerial'); print(loaded())\n"
            "from importlib.util import find_spec; print(find_spec('albumentations.pytorch').name)\n")
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert told == ["[]", "['albumentations']", "albumentations.pytorch"]  # the last: others may import it still


def test_a_search_may_choose_the_pipeline() -> None:
    base = replace(Config(), augment=AugmentConfig(pipeline="none"))
    found = space.read(["augment.pipeline=flips|aerial"]).configurations(base)
    assert [config.augment.pipeline for config in found] == ["flips", "aerial"]
    wrong = space.read(["augment.pipeline=flips|strong"]).configurations(base)[1]
    with pytest.raises(ConfigError, match=r"augment\.pipeline: there is no 'strong'"):
        Augment(wrong.augment, size=64, bands=3, dtype="uint8", scales=(1.0,))
