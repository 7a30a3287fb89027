"""Real imagery, where it is present: see shared/data/README.md for what is known of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

import patchstore
from patchstore import SourceError
from support.paths import DATA
from swath import recipes
from swath.config import ClusterConfig, Config, ModelConfig, PatchesConfig
from swath.experiments import ingest
from swath.maps import apply
from swath.models import checkpoint, network
from swath.models.checkpoint import ModelCard
from swath.models.run_state import RunState
from swath.patches import certificate
from swath.splits import division

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real imagery at {DATA}; $SWATH_DATA names its folder")

DUBAI = {"building": 0.13306, "land": 0.52357, "road": 0.09352, "vegetation": 0.10306, "water": 0.13614,
         "unlabeled": 0.00507}


@pytest.fixture(scope="module")
def dubai(tmp_path_factory: pytest.TempPathFactory) -> tuple[patchstore.FolderReport, patchstore.Store]:
    uri = str(tmp_path_factory.mktemp("dubai") / "dubai.zarr")
    data = replace(recipes.dubai_unet().data, source=str(DATA / "dubai"), store=uri)
    return ingest.run(data, ingest.one_by_one), patchstore.open(uri)


def test_dubai_is_ingested_whole(dubai: tuple[patchstore.FolderReport, patchstore.Store]) -> None:
    report, _ = dubai
    assert (report.scenes, report.rejected) == (72, ())
    assert report.pixels == 99_032_243
    assert report.fractions == pytest.approx(DUBAI, abs=5e-6)
    assert report.ignored_values.keys() == {"#000000"}
    assert report.ignored / report.pixels == pytest.approx(0.00558, abs=5e-6)


@pytest.mark.slow
def test_obx_is_ingested_whole_and_its_strays_are_counted(tmp_path: Path) -> None:
    data = replace(recipes.obx().data, source=str(DATA / "obx"), store=str(tmp_path / "obx.zarr"))
    report = ingest.run(data, ingest.one_by_one)
    assert (report.scenes, report.rejected, report.pixels) == (165, (), 165 * 920 * 614)
    assert list(report.fractions.values()) == pytest.approx([0.286, 0.180, 0.532], abs=1e-3)
    assert set(report.ignored_values) == {"3", "4", "5"}
    assert report.ignored / report.pixels == pytest.approx(0.0011, abs=5e-5)
    store = patchstore.open(data.store)
    assert sum(scene.ignored > 0 for scene in store.scenes.values()) == 158
    with pytest.raises(SourceError, match="158 files or scenes were refused"):
        ingest.run(replace(data, stray="error", store=str(tmp_path / "strict.zarr")), ingest.one_by_one).check()


def test_naip_is_one_group_of_images_without_masks(tmp_path: Path) -> None:
    data = replace(recipes.synthetic().data, source=str(DATA / "naip"), store=str(tmp_path / "naip.zarr"),
                   images="naip/*.tif", masks="", group=r"^(m_\d+_se_14)")
    report = ingest.run(data, ingest.one_by_one)
    assert (report.scenes, report.rejected, sum(report.class_pixels.values())) == (10, (), 0)
    store = patchstore.open(data.store)
    assert {scene.group for scene in store.scenes.values()} == {"m_4709963_se_14"}
    assert {(scene.shape[0] in (723, 724), scene.shape[1], scene.pixel_m2) for scene in store.scenes.values()} == {
        (True, 934, 25.0)}
    for name, scene in store.scenes.items():
        rows, cols = ((0, n) for n in scene.shape)
        with rasterio.open(DATA / "naip" / "naip" / f"{name}.tif") as file:
            assert (store.bands, scene.crs) == (file.count, file.crs.to_wkt())
            np.testing.assert_array_equal(store.region(name, "image", rows, cols), file.read())
            np.testing.assert_array_equal(store.region(name, "valid", rows, cols), file.dataset_mask() != 0)


def test_black_stands_in_nine_masks_of_dubai(dubai: tuple[patchstore.FolderReport, patchstore.Store]) -> None:
    _, store = dubai
    black = {name: dict(scene.ignored_values)["#000000"] for name, scene in store.scenes.items() if scene.ignored}
    assert len(black) == 9
    assert black["tile_8_part_003"] == 545_723
    assert sum(black.values()) == 552_156


def test_the_parts_make_up_their_tiles(dubai: tuple[patchstore.FolderReport, patchstore.Store]) -> None:
    _, store = dubai
    sizes = ((2391, 1931), (1528, 1632), (2046, 1974), (3297, 2538), (3378, 3174), (2577, 2514), (5450, 6184),
             (6447, 4438))  # width, height
    for tile, (width, height) in enumerate(sizes, 1):
        parts = [store.scenes[f"tile_{tile}_part_{part:03d}"] for part in range(1, 10)]
        covered = np.zeros((height, width), np.uint8)
        for part in parts:
            (row, col), (rows, cols) = part.origin, part.shape
            assert (row + rows <= height, col + cols <= width) == (True, True)
            covered[row:row + rows, col:col + cols] += 1
        assert (covered <= 1).all()
        assert covered.mean() > 0.995  # parts of one row differ by a pixel


def test_parts_of_a_tile_stay_together_and_adjoin(dubai: tuple[patchstore.FolderReport, patchstore.Store]) -> None:
    _, store = dubai
    split = division.divide(store, recipes.dubai_unet().split)
    assert certificate.certify(store, split).clean
    by_part = {name: np.full_like(labels, int(name.endswith("5"))) for name, labels in split.labels.items()}
    leak = certificate.certify(store, division.Split(labels=by_part))
    assert leak.pairs["train-val"].distance == 0  # the middle part of a tile touches its neighbours
    assert leak.pairs["train-val"].unit == "px"


def test_four_bands_with_a_crs_and_nodata_become_a_map(tmp_path: Path) -> None:
    source = sorted((DATA / "naip" / "naip").glob("*.tif"))[0]
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    config = Config(patches=PatchesConfig(size=128),
                    model=ModelConfig(arch="pspnet", encoder="tu-mobilenetv3_small_050"))
    torch.manual_seed(0)
    net = network.build(config.model, network.DataTraits(bands=4, classes=3, mean_B=np.full(4, 120),
                                                         std_B=np.full(4, 50)))
    card = ModelCard(store="", fingerprint="", bands=4, dtype="uint8", classes=("a", "b", "c"),
                colours=((255, 0, 0), (0, 255, 0), (0, 0, 255)), ignore=255)
    checkpoint.save(folder, RunState(net=net.state_dict()), config, card)

    written, = apply.predict(apply.Request(run=str(folder), source=str(source), output=tmp_path / "map.tif",
                                           workdir=tmp_path, cluster=ClusterConfig(device="cpu"))).maps
    with rasterio.open(source) as image, rasterio.open(written.output) as map_:
        assert map_.crs == image.crs
        assert map_.crs.to_epsg() == 26914
        assert map_.transform == image.transform
        assert map_.shape == image.shape
        np.testing.assert_array_equal(map_.read(1) == 255, image.dataset_mask() == 0)
        assert map_.nodata == 255
    assert sum(written.class_pixels.values()) + written.nodata == image.width * image.height
