"""The overlap certificate: every leak that the field is known for is found, and clean splits are called clean."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS

import patchstore
from patchstore import CELL, ClassInfo, SceneSource, Store
from patchstore.testing import scenes
from support.paper_store import PaperStore, scene
from support.paths import DATA
from swath.config import Config, PatchesConfig, SplitConfig
from swath.patches import certificate, planning
from swath.splits import autocorrelation, division
from swath.splits.division import SPLITS, Split
from swath.training.setup import TrainingSetup

CLASSES = [ClassInfo("land", (200, 180, 120)), ClassInfo("green", (20, 120, 40))]


def by_scene(store: Store, names: dict[str, str]) -> Split:
    """Whole scenes to the splits that are named for them."""
    return Split(labels={name: np.full(store.counts(name).shape[:2], SPLITS.index(names[name]), np.uint8)
                         for name in names})


def test_a_split_by_group_is_clean_and_a_cut_scene_touches(store: Store) -> None:
    split = division.divide(store, SplitConfig())
    clean = certificate.certify(store, split)
    assert clean.clean
    assert clean.findings() == []
    assert clean.pairs["train-test"].unit == "m"
    assert (clean.pairs["train-test"].distance or 0) > 100  # groups lie kilometres apart
    name, cells = next(split.scenes("train"))
    half = split.labels[name].copy()
    half[:, : cells.shape[1] // 2] = SPLITS.index("test")
    touching = certificate.certify(store, Split(labels={**split.labels, name: half}))
    assert touching.clean
    assert touching.pairs["train-test"].distance == 0
    assert "train and test touch" in touching.findings()
    read = json.loads(touching.to_json())
    assert read["pairs"]["train-test"]["overlap_px"] == 0


def test_a_scene_under_two_names_is_found_by_its_content(tmp_path: Path) -> None:
    uri = patchstore.create(str(tmp_path / "s.zarr"), dtype="uint8", bands=3, classes=[
        ClassInfo(text.split("=")[0], (1, 2, 3)) for text in scenes.CLASSES])
    for seed, names in ((1, ("one", "copy")), (2, ("other",))):
        image, mask = tmp_path / f"{seed}.tif", tmp_path / f"{seed}_mask.tif"
        scenes.write_scene(image, mask, seed=seed, shape=(320, 300), origin_m=(
            scenes.ORIGIN_M[0] + 10_000 * seed, scenes.ORIGIN_M[1]))
        for path in (image, mask):  # nothing but its pixels tells where it lies
            with rasterio.open(path) as raster:
                content, profile = raster.read(), raster.profile | {"crs": None, "transform": None}
            with rasterio.open(path, "w", **profile) as raster:
                raster.write(content)
        for name in names:
            patchstore.ingest(uri, SceneSource(name=name, image=image, mask=mask, group=name))
    store = patchstore.open(uri)
    certified = certificate.certify(store, by_scene(store, {"one": "train", "other": "val", "copy": "test"}))
    assert certified.pairs["train-test"].same_px == 320 * 300
    assert certified.pairs["train-val"].same_px == certified.pairs["val-test"].same_px == 0
    assert not certified.clean
    assert any("of the same content, under two names" in line for line in certified.findings())


def test_patches_at_scale_4_across_a_block_border_are_found(store: Store) -> None:
    config = Config(patches=PatchesConfig(size=32, scales=(4.0,)), split=SplitConfig(by="block", block=128, seed=1))
    split = division.divide(store, config.split)
    inside = planning.plan(store, config, "train", labels=split)
    assert certificate.certify(store, split, {"train": inside}).clean
    across = replace(config, patches=replace(config.patches, stride=8, foreign="ignore"))
    certified = certificate.certify(store, split, {"train": planning.plan(store, across, "train", labels=split)})
    assert certified.pairs["train-val"].overlap_px > 0
    assert any("train and val overlap" in line for line in certified.findings())


def test_the_overlap_is_counted_to_the_pixel(store: Store) -> None:
    """Against a raster of every pixel that a window shows."""
    config = Config(patches=PatchesConfig(size=40, stride=56, foreign="ignore"),
                    split=SplitConfig(by="block", block=128))
    split = division.divide(store, config.split)
    plan = planning.plan(store, config, "train", labels=split)
    seen = {name: np.zeros(found.shape, bool) for name, found in store.scenes.items()}
    for window in plan.windows(np.arange(len(plan))):
        seen[window.scene][window.row:window.row + 40, window.col:window.col + 40] = True
    expected = 0
    for name, cells in split.scenes("val"):
        val = cells.repeat(CELL, axis=0).repeat(CELL, axis=1)[:seen[name].shape[0], :seen[name].shape[1]]
        expected += int((val & seen[name]).sum())
    assert expected > 0
    pair = certificate.certify(store, split, {"train": plan}).pairs["train-val"]
    assert pair.overlap_px == expected


def test_scenes_of_one_crs_overlap_whatever_their_pixels() -> None:
    """Half of a coarse scene lies on a fine one; 2,048 of its pixels are 32,768 of the other's."""
    store = PaperStore([scene("fine", (256, 256), transform=(1, 0, 0, 0, -1, 256)),
                        scene("coarse", (64, 64), transform=(4, 0, 128, 0, -4, 256)),
                        scene("far", (64, 64), transform=(1, 0, 1000, 0, -1, 256))])
    split = by_scene(store, {"fine": "train", "coarse": "val", "far": "test"})  # type: ignore[arg-type]
    pairs = certificate.certify(store, split).pairs  # type: ignore[arg-type]
    assert pairs["train-val"].overlap_px == 128 * 256
    assert (pairs["train-test"].distance, pairs["train-test"].unit) == (744, "m")
    assert pairs["val-test"].distance == pytest.approx(616)


def test_what_lies_nearer_than_labels_are_correlated_is_said() -> None:
    stripes = np.zeros((1024, 1024), np.uint8)
    stripes[:, np.arange(1024) // 512 == 1] = 1  # two halves: correlated over hundreds of pixels
    store = PaperStore([scene("s", (1024, 1024), transform=(0.5, 0, 0, 0, -0.5, 0))], {"s": stripes})
    labels = np.full((16, 16), division.NONE, np.uint8)
    labels[:, :7], labels[:, 8:] = 0, 1
    certified = certificate.certify(store, Split(labels={"s": labels}))  # type: ignore[arg-type]
    length = certified.autocorrelation
    assert length is not None
    assert length.px > 64
    assert length.m == pytest.approx(length.px / 2)
    assert certified.pairs["train-val"].distance == 32
    assert f"train and val come as near as 32 m, but labels are correlated over {length.m:,.4g} m" in (
        certified.findings())
    finer = replace(length, m=20.0)  # in pixels it would still be near
    assert replace(certified, autocorrelation=finer).findings() == []


def test_the_nearest_is_the_nearest_in_metres() -> None:
    """Two coarse pixels, 200 m, are further than 64 fine ones."""
    store = PaperStore([scene("fine", (64, 64), transform=(1, 0, 0, 0, -1, 64), crs="one"),
                        scene("fine2", (64, 64), transform=(1, 0, 128, 0, -1, 64), crs="one"),
                        scene("coarse", (64, 64), transform=(100, 0, 0, 0, -100, 6400), crs="other"),
                        scene("coarse2", (64, 64), transform=(100, 0, 6600, 0, -100, 6400), crs="other")])
    split = by_scene(store, {  # type: ignore[arg-type]
        "fine": "train", "coarse": "train", "fine2": "val", "coarse2": "val"})
    pair = certificate.certify(store, split).pairs["train-val"]  # type: ignore[arg-type]
    assert (pair.distance, pair.distance_px, pair.unit) == (64, 64, "m")


def test_two_texts_of_one_crs_are_one_frame() -> None:
    old, new = CRS.from_epsg(32634).to_wkt(), CRS.from_epsg(32634).to_wkt(version="WKT2_2019")
    assert old != new
    here = {"transform": (1, 0, 0, 0, -1, 256)}
    store = PaperStore([scene("a", (256, 256), crs=old, **here), scene("b", (256, 256), crs=new, **here)])
    certified = certificate.certify(store, by_scene(store, {"a": "train", "b": "val"}))  # type: ignore[arg-type]
    assert certified.pairs["train-val"].overlap_px == 256 * 256
    assert certified.systems == 1
    for other in (scene("b", (256, 256), crs=CRS.from_epsg(32633).to_wkt(), **here), scene("b", (256, 256))):
        store = PaperStore([scene("a", (256, 256), crs=old, **here), other])
        certified = certificate.certify(store, by_scene(store, {"a": "train", "b": "val"}))  # type: ignore[arg-type]
        assert certified.clean
        assert certified.findings() == ["scenes lie in 2 coordinate systems (to have none counts as one); between them "
                                        "only content is compared"]


def test_a_group_without_a_place_is_taken_for_one_ground() -> None:
    said = "scenes of group g without a CRS and a place in the group are taken to show the same ground"
    for origin, expected in (((0, 0), True), ((0, 512), False)):
        store = PaperStore([scene("a", (256, 256), group="g"), scene("b", (256, 256), group="g", origin=origin)])
        certified = certificate.certify(store, by_scene(store, {"a": "train", "b": "val"}))  # type: ignore[arg-type]
        assert certified.clean != expected
        assert (said in certified.findings()) == expected


class Water(PaperStore):
    """One band of two values, 30 and 31, drawn alike: many cells have the moments of a cell of another scene."""

    def moments(self, name: str) -> NDArray[np.float64]:
        """Number, sum and sum of squares."""
        bright = np.random.default_rng(list(name.encode())).binomial(4096, 0.5, (16, 16)).astype(np.float64)
        return np.stack([np.full_like(bright, 4096), 30 * 4096 + bright, 900 * 4096 + 61 * bright], axis=2)[:, :, None]


def test_independent_water_is_not_taken_for_a_copy() -> None:
    store = Water([scene(name, (1024, 1024)) for name in "abc"])
    split = by_scene(store, {"a": "train", "b": "val", "c": "test"})  # type: ignore[arg-type]
    certified = certificate.certify(store, split)  # type: ignore[arg-type]
    assert {pair.same_px for pair in certified.pairs.values()} == {0}


def test_trained_cells_of_a_scene_of_two_names_are_those_of_both() -> None:
    """Else a half that was trained on under the one name could be scored under the other."""
    here = scene("a", (128, 128))
    store = PaperStore([here, replace(here, name="b"), scene("c", (128, 128))])
    labels = {name: np.full((2, 2), division.NONE, np.uint8) for name in "abc"}
    labels["a"][0], labels["b"][:, 0] = 0, 0
    job = SimpleNamespace(store=store, split=Split(labels=labels))
    trained = TrainingSetup.trained_cells(job)  # type: ignore[arg-type]
    assert {name: cells.tolist() for name, cells in trained.items()} == {"a": [[True, True], [True, False]]}


@pytest.mark.parametrize("side", [128, 512])
def test_the_correlation_of_random_squares_ends_within_them(side: int) -> None:
    """Squares of one class each, drawn alike: the correlation falls linearly to 0 at the squares' side, and to 1/e at
    63 % of it."""
    draws = np.random.default_rng(0).integers(0, 2, (8192 // side, 8192 // side), np.uint8)
    labels = draws.repeat(side, axis=0).repeat(side, axis=1)
    store = PaperStore([scene("s", labels.shape)], {"s": labels}, names=("a", "b"))
    found = autocorrelation.of_labels(store, ["s"])  # type: ignore[arg-type]
    assert found is not None
    assert found.px == pytest.approx((1 - 1 / np.e) * side, rel=0.2)
    assert not found.longer


@pytest.mark.skipif(not (DATA / "naip").is_dir(), reason=f"no NAIP imagery below {DATA}")
def test_ten_dates_of_one_place_are_found(tmp_path: Path) -> None:
    uri = patchstore.create(str(tmp_path / "naip.zarr"), dtype="uint8", bands=4, classes=CLASSES)
    files = sorted((DATA / "naip").rglob("*.tif"))
    assert len(files) == 10
    for path in files:
        with rasterio.open(path) as raster:  # the set has no masks: vegetation by its infrared
            image, profile = raster.read(), raster.profile | {"count": 1, "nodata": None}
        with rasterio.open(mask := tmp_path / f"{path.stem}.tif", "w", **profile) as raster:
            raster.write((image[3] > image[0]).astype(np.uint8), 1)
        patchstore.ingest(uri, SceneSource(name=path.stem, image=path, mask=mask, group=path.stem))
    store = patchstore.open(uri)
    split = division.divide(store, SplitConfig(by="scene", val_fraction=0.2, test_fraction=0.2))
    certified = certificate.certify(store, split)
    for pair in certified.pairs.values():  # nearly all of each split's ground is in the others
        assert pair.overlap_px > 0.9 * 2 * 934 * 723
    assert any("train and test overlap" in line for line in certified.findings())
    blocks = division.divide(store, SplitConfig(by="block", block=256))
    assert certificate.certify(store, blocks).clean  # the same ground has one label at every date


@pytest.mark.skipif(not (DATA / "dubai").is_dir(), reason=f"no Dubai imagery below {DATA}")
def test_adjoining_parts_of_a_tile_are_found() -> None:
    from patchstore import find

    sources = [s for s in find("tiles", DATA / "dubai").scenes if s.group == "tile_1"]
    shapes = {s.name: cv2.imread(str(s.image)).shape[:2] for s in sources}
    store = PaperStore([scene(s.name, shapes[s.name], group=s.group, origin=s.origin) for s in sources])
    names = sorted(shapes)
    assert len(names) == 9
    split = by_scene(store, {  # type: ignore[arg-type]
        name: "test" if number == 4 else "val" if number == 0 else "train" for number, name in enumerate(names)})
    certified = certificate.certify(store, split)  # type: ignore[arg-type]
    assert certified.clean
    assert certified.pairs["train-test"].distance == 0
    assert "train and test touch" in certified.findings()
