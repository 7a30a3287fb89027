"""Scales in metres: scenes of two pixel sizes are planned, read, scored and mapped at one resolution of the ground."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from numpy.typing import NDArray

import patchstore
from patchstore import Store
from patchstore.testing import CLASSES
from support.rasters import write
from swath.config import ClusterConfig, Config, ModelConfig, PatchesConfig
from swath.errors import DataError
from swath.maps import apply
from swath.models import checkpoint, network
from swath.models.checkpoint import ModelCard
from swath.models.run_state import RunState
from swath.patches import planning
from swath.prediction import readers
from swath.scoring import counting
from swath.splits import division

SIDE_M = 192
"""Side of the scenes on the ground."""
BLOCK_M = 8
"""Side of the squares of one colour and class that the landscape is made of."""


def landscape(pixel_m: float) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The same squares whatever the pixel: each class has one brightness."""
    squares = np.random.default_rng(5).integers(0, 5, (SIDE_M // BLOCK_M,) * 2, np.uint8)
    mask = squares.repeat(int(BLOCK_M / pixel_m), 0).repeat(int(BLOCK_M / pixel_m), 1)
    return np.stack([mask * 50] * 3), mask


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of a fine and a coarse scene of one landscape, and their files."""
    folder = tmp_path_factory.mktemp("metres")
    classes = tuple(patchstore.ClassInfo(text.split("=")[0], (k, k, k)) for k, text in enumerate(CLASSES))
    uri = patchstore.create(folder / "s.zarr", dtype="uint8", bands=3, classes=classes, chunk=64, shard=128)
    for name, pixel_m in (("fine", 0.5), ("coarse", 1.0)):
        image, mask = landscape(pixel_m)
        geo = {"crs": "EPSG:32634", "transform": rasterio.Affine(pixel_m, 0, 5e5, 0, -pixel_m, 5.8e6)}
        write(folder / f"{name}.tif", image, **geo)
        write(folder / f"{name}_mask.tif", mask, **geo)
        patchstore.ingest(uri, patchstore.SceneSource(
            name=name, image=folder / f"{name}.tif", mask=folder / f"{name}_mask.tif", group=name))
    write(folder / "nowhere.tif", landscape(1.0)[0], crs="EPSG:3857",  # metres that are none on the ground
          transform=rasterio.Affine(1, 0, 5e5, 0, -1, 5.8e6))
    return folder


@pytest.fixture
def store(folder: Path) -> Store:
    return patchstore.open(folder / "s.zarr")


def plan_of(store: Store, config: PatchesConfig) -> planning.PatchPlan:
    labels = {name: np.zeros(store.counts(name).shape[:2], np.uint8) for name in store.scenes}
    return planning.plan(store, Config(patches=config), "train", labels=division.Split(labels=labels))


@pytest.mark.parametrize(("pixel_m", "sides", "levels"), [
    (1.0, {"coarse": 32, "fine": 64}, {"coarse": 0, "fine": 1}), (0.5, {"coarse": 16, "fine": 32}, {})])
def test_patches_of_both_scenes_show_the_same_ground(store: Store, pixel_m: float, sides: dict[str, int],
                                                     levels: dict[str, int]) -> None:
    plan = plan_of(store, PatchesConfig(size=32, pixel_m=pixel_m))
    assert {name: int(plan.side_SC[i, 0]) for i, name in enumerate(plan.scenes)} == sides
    assert {name: int(plan.level_SC[i, 0]) for i, name in enumerate(plan.scenes)} == levels | {
        name: 0 for name in sides if name not in levels}
    windows = plan.windows(np.arange(len(plan)))
    coarse, fine = ([w for w in windows if w.scene == name] for name in ("coarse", "fine"))
    assert [(2 * w.row, 2 * w.col) for w in coarse] == [(w.row, w.col) for w in fine]
    (images, labels), (same_images, same_labels) = store.read(coarse, 32), store.read(fine, 32)
    np.testing.assert_array_equal(labels, same_labels)
    if pixel_m == 1:
        np.testing.assert_array_equal(images, same_images)
    else:  # bilinear: equal but for the pixels beside a step
        assert np.mean(images == same_images) > 0.7
    np.testing.assert_allclose(*(plan.class_pixels_SK.sum(axis=0) / 1e3, labels.size * 2 / 1e3 * np.bincount(
        labels.ravel(), minlength=5) / labels.size))


def test_scales_multiply_the_metres(store: Store) -> None:
    config = PatchesConfig(size=16, pixel_m=0.5, scales=(1.0, 4.0), combine="mixture")
    assert planning.factors(config, 1.0, "coarse") == (0.5, 2.0)
    assert planning.factor(config, 0.25) == 1.0
    assert planning.factors(PatchesConfig(scales=(2.0,)), None, "any") == (2.0,)
    assert plan_of(store, config).side_SC.tolist() == [[8, 32], [16, 64]]  # coarse, fine


def test_scenes_without_metres_and_far_factors_are_refused(store: Store) -> None:
    with pytest.raises(DataError, match=r"scene coarse: at scale 1 of patches.pixel_m 0.1 a patch pixel spans 0.1 of "
                                        r"its pixels; choose scales at which it is from 1/8 to 64"):
        plan_of(store, PatchesConfig(size=32, pixel_m=0.1))
    for scene in store.scenes.values():
        object.__setattr__(scene, "pixel_m2", None)
    with pytest.raises(DataError, match=r"scenes coarse, fine: patches.pixel_m needs the pixel size in metres"):
        plan_of(store, PatchesConfig(size=32, pixel_m=1))


def brightness(images_NSBss: torch.Tensor) -> torch.Tensor:
    """Scores of a network that knows each class by its brightness."""
    return -(images_NSBss[:, 0, :1].float() - 50 * torch.arange(5).reshape(1, 5, 1, 1)).abs()


def sides_read(monkeypatch: pytest.MonkeyPatch, reader: type) -> set[int]:
    """The sides of all windows that a kind of reader is asked for, from now on."""
    sides: set[int] = set()
    read = reader.read

    def spy(self, windows, size, /):  # type: ignore[no-untyped-def]
        sides.update(side for _, _, side in windows)
        return read(self, windows, size)

    monkeypatch.setattr(reader, "read", spy)
    return sides


@pytest.mark.parametrize(("name", "side", "right"), [("coarse", 16, 0.85), ("fine", 32, 1.0)])
def test_whole_scenes_are_scored_at_the_models_metres(store: Store, monkeypatch: pytest.MonkeyPatch, name: str,
                                                      side: int, right: float) -> None:
    sides = sides_read(monkeypatch, readers.StoreReader)
    height, width = store.scenes[name].shape
    region = counting.Region(scene=name, rows=(0, height), cols=(0, width))
    config = Config(patches=PatchesConfig(size=32, pixel_m=0.5))
    rows = counting.network_source(store, brightness, config, torch.device("cpu"))([region])
    found = np.concatenate([classes_hW for _, _, classes_hW in rows])
    assert sides == {side}
    assert np.mean(found == store.region(name, "mask", (0, height), (0, width))) >= right


def test_a_file_is_mapped_at_the_models_metres(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = ModelCard(store="", fingerprint="", bands=3, dtype="uint8", classes=tuple("abcde"), colours=((0, 0, 0),) * 5,
                ignore=255)
    config = Config(patches=PatchesConfig(size=32, pixel_m=0.5),
                    model=ModelConfig(arch="linknet", encoder="tu-mobilenetv3_small_050"))
    net = network.build(config.model, network.DataTraits(bands=3, classes=5, mean_B=np.zeros(3), std_B=np.ones(3)))
    (model := tmp_path / "model").mkdir()
    checkpoint.save(model, RunState(net=net.state_dict()), config, card)
    monkeypatch.setattr(network.Net, "forward", lambda _, images_NSBss: brightness(images_NSBss))
    sides = sides_read(monkeypatch, patchstore.RasterFile)

    def predict_map(source: str) -> None:
        apply.predict(apply.Request(run=str(model), source=str(folder / source), output=tmp_path / "map.tif",
                                    workdir=tmp_path, cluster=ClusterConfig(device="cpu")))

    predict_map("coarse.tif")
    assert sides == {16}
    with rasterio.open(tmp_path / "map.tif") as file:
        assert np.mean(file.read(1) == landscape(1.0)[1]) > 0.85
    with pytest.raises(DataError, match=r"nowhere.tif: patches.pixel_m needs the pixel size in metres"):
        predict_map("nowhere.tif")
