"""Real imagery, where it is present: see shared/data/README.md for what is known of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

import patchstore
import recipes
from conftest import DATA
from swath import apply, certificate, checkpoint, ingest, models
from swath import split as splits
from swath.checkpoint import Card
from swath.config import Config, ModelConfig, PatchesConfig

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no real imagery at {DATA}; $SWATH_DATA names its folder")

DUBAI = {"building": 0.13306, "land": 0.52357, "road": 0.09352, "vegetation": 0.10306, "water": 0.13614,
         "unlabeled": 0.00507}


@pytest.fixture(scope="module")
def dubai(tmp_path_factory: pytest.TempPathFactory) -> tuple[ingest.Report, patchstore.Store]:
    uri = str(tmp_path_factory.mktemp("dubai") / "dubai.zarr")
    data = replace(recipes.dubai().data, source=str(DATA / "dubai"), store=uri)
    return ingest.run(data, ingest.one_by_one), patchstore.open(uri)


def test_dubai_is_ingested_whole(dubai: tuple[ingest.Report, patchstore.Store]) -> None:
    report, _ = dubai
    assert (report.scenes, report.rejected) == (72, ())
    assert report.pixels == 99_032_243
    assert report.fractions == pytest.approx(DUBAI, abs=5e-6)
    assert report.ignored_values.keys() == {"#000000"}
    assert report.ignored / report.pixels == pytest.approx(0.00558, abs=5e-6)


def test_parts_of_a_tile_stay_together_and_adjoin(dubai: tuple[ingest.Report, patchstore.Store]) -> None:
    _, store = dubai
    split = splits.divide(store, recipes.dubai().split)
    assert certificate.certify(store, split).clean
    by_part = {name: np.full_like(labels, int(name.endswith("5"))) for name, labels in split.labels.items()}
    leak = certificate.certify(store, splits.Split(labels=by_part))
    assert leak.pairs["train-val"].distance == 0  # the middle part of a tile touches its neighbours
    assert leak.pairs["train-val"].unit == "px"


def test_four_bands_with_a_crs_and_nodata_become_a_map(tmp_path: Path) -> None:
    source = sorted((DATA / "naip" / "naip").glob("*.tif"))[0]
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    config = Config(patches=PatchesConfig(size=128), model=ModelConfig(encoder="tu-mobilenetv3_small_050"))
    torch.manual_seed(0)
    net = models.build(config.model, bands=4, classes=3, mean_B=np.full(4, 120), std_B=np.full(4, 50))
    card = Card(store="", fingerprint="", bands=4, dtype="uint8", classes=("a", "b", "c"),
                colours=((255, 0, 0), (0, 255, 0), (0, 0, 255)), ignore=255)
    checkpoint.save(folder, {"net": net.state_dict()}, config, card)

    written = apply.predict_file(str(folder), source, tmp_path / "map.tif", workdir=tmp_path, device="cpu")
    with rasterio.open(source) as image, rasterio.open(written.output) as map_:
        assert map_.crs == image.crs
        assert map_.crs.to_epsg() == 26914
        assert map_.transform == image.transform
        assert map_.shape == image.shape
        np.testing.assert_array_equal(map_.read(1) == 255, image.dataset_mask() == 0)
        assert map_.nodata == 255
    assert sum(written.class_pixels.values()) + written.nodata == image.width * image.height
