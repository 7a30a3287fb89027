"""Maps of scenes: the same bytes however the work is cut, ended, resumed or spread; and what is refused."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.sax.saxutils import escape

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import torch
from shapely.geometry import box

from patchstore import PatchstoreError, RasterFile, Store
from support.paths import ROOT
from swath.config import Config, LossConfig, ModelConfig, PatchesConfig
from swath.errors import ConfigError, DataError
from swath.maps import apply, bands
from swath.maps.apply import Request
from swath.models import checkpoint, inference, network
from swath.models.checkpoint import ModelCard
from swath.models.run_state import RunState
from swath.prediction import streaming

Job = Callable[..., "subprocess.CompletedProcess[str]"]
AFFINE = rasterio.Affine(2, 0, 500_000, 0, -2, 4_000_000)


def make_model(folder: Path, patches: PatchesConfig, store: Store | None = None,
               loss: LossConfig | None = None) -> Path:
    """A checkpoint of a network with random weights: its classes follow from its surroundings."""
    folder.mkdir()
    torch.manual_seed(0)
    config = Config(patches=patches, model=ModelConfig(arch="pspnet", encoder="tu-mobilenetv3_small_050"),
                    loss=loss or LossConfig())
    net = network.build(config.model, network.DataTraits(bands=3, classes=5, mean_B=np.full(3, 120),
                                                         std_B=np.full(3, 50)))
    card = ModelCard(store=store.uri if store else "", fingerprint="", bands=3, dtype="uint8", classes=tuple("abcde"),
                colours=tuple((50 * k, 255 - 50 * k, 0) for k in range(5)), ignore=255)
    checkpoint.save(folder, RunState(net=net.state_dict()), config, card)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "checkpoint",
                      PatchesConfig(size=64, scales=(1, 2), combine="mixture"))


def write_scene(path: Path, shape: tuple[int, int], seed: int = 0, nodata: int | None = None, left: float = 0,
                **profile: object) -> Path:
    """A scene of smooth random colours."""
    small = np.random.default_rng(seed).integers(1, 255, (3, -(-shape[0] // 16), -(-shape[1] // 16)))
    image_BHW = np.kron(small, np.ones((1, 16, 16)))[:, :shape[0], :shape[1]].astype(np.uint8)
    if nodata is not None:
        image_BHW[:, 10:30, 20:50] = nodata
    options = {"driver": "GTiff", "crs": "EPSG:32633",
               "transform": AFFINE @ rasterio.Affine.translation(left, 0)} | profile
    with rasterio.open(path, "w", count=3, dtype="uint8", height=shape[0], width=shape[1],
                       nodata=nodata, **options) as raster:
        raster.write(image_BHW)
    return path


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("scenes") / "scene.tif", (333, 170), nodata=0)


def request(model: Path, source: object, output: Path, **rest: object) -> Request:
    return Request(run=str(model), source=str(source), output=output, workdir=output.parent, **rest)  # type: ignore[arg-type]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read(path: Path, band: int = 1) -> np.ndarray:
    with rasterio.open(path) as raster:
        return raster.read(band)


def expected_scores(model: Path, scene: Path) -> np.ndarray:
    """The scores of the whole scene in one piece."""
    trained = checkpoint.load(model)
    forward = inference.network_forward(trained.network(torch.device("cpu")))
    reader = RasterFile(scene)
    of = streaming.part(reader, size=64, scales=(1, 2), overlap=0.5)
    rows = streaming.blend(of, forward, classes=5, batch=streaming.batch_size(64))
    return np.concatenate([scores.numpy() for _, scores in rows], axis=1)


def test_a_map_has_the_place_colours_and_classes_of_the_model(model: Path, scene: Path, tmp_path: Path) -> None:
    result = apply.predict(request(model, scene, tmp_path / "map.tif", confidence=True, probabilities=True,
                                   polygons=True))
    one, = result.maps
    assert result.mosaic is None
    scores = expected_scores(model, scene)
    with rasterio.open(one.output) as raster, rasterio.open(scene) as source:
        assert (raster.crs, raster.transform, raster.shape) == (source.crs, source.transform, source.shape)
        assert raster.nodata == 255
        assert json.loads(raster.tags()["CLASSES"]) == list("abcde")
        valid = source.dataset_mask() != 0
        np.testing.assert_array_equal(raster.read(1), np.where(valid, scores.argmax(0), 255))
    assert not valid.all()
    assert len({*one.class_pixels.values()} - {0}) > 1, "a network of random weights gives more than one class"
    assert sum(one.class_pixels.values()) + one.nodata == scores[0].size
    shares = torch.from_numpy(scores).softmax(0).numpy()
    with rasterio.open(one.others["probabilities"]) as raster:
        assert raster.descriptions == tuple("abcde")
        found = np.ma.masked_equal(raster.read(), 255) / 254
        np.testing.assert_array_equal(found.mask[0], ~valid)
        assert abs(found - shares).max() <= 0.5 / 254 + 1e-6
    most = read(one.others["probabilities"], [1, 2, 3, 4, 5]).max(0)
    np.testing.assert_array_equal(read(one.others["confidence"])[valid], most[valid])
    areas = geopandas.read_parquet(one.others["polygons"]).groupby("name")["area_m2"].sum()
    assert areas.to_dict() == pytest.approx({name: 4.0 * n for name, n in one.class_pixels.items() if n})
    assert one.quicklook.exists()
    assert not list(tmp_path.glob(".*")), "the bands are gone"


def test_probabilities_of_one_vs_rest_stand_each_for_itself(scene: Path, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", PatchesConfig(size=64), loss=LossConfig(target="one_vs_rest"))
    one, = apply.predict(request(model, scene, tmp_path / "map.tif", probabilities=True)).maps
    trained = checkpoint.load(model)
    of = streaming.part(RasterFile(scene), size=64, scales=(1,), overlap=0.5)
    rows = streaming.blend(of, inference.network_forward(trained.network(torch.device("cpu"))), classes=5,
                         batch=streaming.batch_size(64))
    expected = torch.cat([scores for _, scores in rows], dim=1).sigmoid().numpy()
    with rasterio.open(one.others["probabilities"]) as raster:
        found = np.ma.masked_equal(raster.read(), 255) / 254
    assert abs(found - expected).max() <= 0.5 / 254 + 1e-6
    assert abs(found.sum(0) - 1).max() > 0.1


def test_a_store_s_scene_has_the_map_of_its_file(store: Store, dataset: Path, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", PatchesConfig(size=64), store)
    name = sorted(store.scenes)[0]
    for source, output in ((dataset / "images" / f"{name}.tif", "file"), (f"{store.uri}/{name}", "scene")):
        apply.predict(request(model, source, tmp_path / f"{output}.tif", overlap=0))
    np.testing.assert_array_equal(read(tmp_path / "file.tif"), read(tmp_path / "scene.tif"))
    result = apply.predict(request(model, store.uri, tmp_path / "all", overlap=0))
    assert [one.name for one in result.maps] == sorted(store.scenes)
    np.testing.assert_array_equal(read(tmp_path / "all" / f"{name}.tif"), read(tmp_path / "scene.tif"))
    assert result.mosaic is not None


def small_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "ROWS", 64)
    monkeypatch.setattr("swath.maps.predict_bands.ROWS", 64)


def test_a_job_that_was_ended_goes_on(model: Path, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                      ) -> None:
    whole = apply.predict(request(model, scene, tmp_path / "whole.tif")).maps[0]
    small_bands(monkeypatch)
    write, written = bands.Bands.write, []

    def once_too_often(self, first, band):  # type: ignore[no-untyped-def]
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(first)
        write(self, first, band)

    with monkeypatch.context() as patch:
        patch.setattr(bands.Bands, "write", once_too_often)
        with pytest.raises(KeyboardInterrupt):
            apply.predict(request(model, scene, tmp_path / "map.tif"))
    assert written == [0, 64, 128]
    assert not (tmp_path / "map.tif").exists()
    with pytest.raises(DataError, match=r"left 3 of 6 bands; go on with --resume, or begin anew with --overwrite"):
        apply.predict(request(model, scene, tmp_path / "map.tif"))
    with pytest.raises(DataError, match=r"was left by another job \(its overlap differ\)"):
        apply.predict(request(model, scene, tmp_path / "map.tif", resume=True, overlap=0.25))
    later: list[int] = []
    monkeypatch.setattr(bands.Bands, "write", lambda self, first, band: (later.append(first), write(self, first, band)))
    again = apply.predict(request(model, scene, tmp_path / "map.tif", resume=True)).maps[0]
    assert later == [192, 256, 320]
    assert sha256(again.output) == sha256(whole.output)


def test_whole_maps_are_kept_when_a_job_goes_on(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    for n, name in enumerate("abc"):
        write_scene(tmp_path / "in" / f"{name}.tif", (70, 90), seed=n, left=200 * n)
    apply.predict(request(model, tmp_path / "in", tmp_path / "whole"))
    shutil.copytree(tmp_path / "whole", tmp_path / "out")
    (tmp_path / "out" / "b.tif").unlink()
    made: list[str] = []
    finish = apply._finish
    monkeypatch.setattr(apply, "_finish",
                        lambda target, *rest: made.append(target.output.stem) or finish(target, *rest))
    result = apply.predict(request(model, tmp_path / "in", tmp_path / "out", resume=True))
    assert made == ["b"]
    assert [one.name for one in result.maps] == ["a", "b", "c"]
    for name in ("a.tif", "b.tif", "c.tif", "maps.vrt"):
        assert sha256(tmp_path / "out" / name) == sha256(tmp_path / "whole" / name)
    with rasterio.open(tmp_path / "out" / "maps.vrt") as raster:
        assert raster.shape == (70, 490)
        np.testing.assert_array_equal(raster.read(1)[:, 200:290], read(tmp_path / "out" / "b.tif"))


def test_an_area_of_interest_is_cut_out(model: Path, scene: Path, tmp_path: Path) -> None:
    left, top = AFFINE @ (33, 101)
    right, bottom = AFFINE @ (120, 200)
    area = box(left, bottom, right, top).difference(box(left, bottom, left + 40, bottom + 30))
    geopandas.GeoDataFrame(geometry=[area], crs="EPSG:32633").to_crs(4326).to_file(tmp_path / "area.gpkg")
    whole = read(apply.predict(request(model, scene, tmp_path / "whole.tif")).maps[0].output)
    one, = apply.predict(request(model, scene, tmp_path / "part.tif", area=tmp_path / "area.gpkg")).maps
    part = read(one.output)
    inside = np.ones((99, 87), bool)
    inside[-15:, :20] = False
    assert abs(part.shape[0] - 99) <= 2
    assert abs(part.shape[1] - 87) <= 2
    with rasterio.open(one.output) as raster:
        col, row = (round(x) for x in ~AFFINE @ (raster.transform.c, raster.transform.f))
    window = whole[row:row + part.shape[0], col:col + part.shape[1]]
    assert (part[part != 255] == window[part != 255]).mean() > 0.999, "batches differ, and may round otherwise"
    assert np.count_nonzero(part != 255) == pytest.approx(inside.sum(), rel=0.02)

    geopandas.GeoDataFrame(geometry=[box(0, 0, 1, 1)], crs="EPSG:32633").to_file(tmp_path / "far.gpkg")
    with pytest.raises(DataError, match="touches none of the 1 scenes"):
        apply.predict(request(model, scene, tmp_path / "none.tif", area=tmp_path / "far.gpkg"))


@pytest.mark.parametrize(("output", "rest", "said"), [
    ("map.jpg", {}, "a map is a GeoTIFF"),
    ("scene.tif", {"overwrite": True}, "would take the place of a scene"),
    ("there.tif", {}, "exists already; give another output, or --overwrite"),
])
def test_outputs_that_must_not_be_written_are_refused(model: Path, tmp_path: Path, output: str, rest: dict[str, bool],
                                                      said: str) -> None:
    source = write_scene(tmp_path / "scene.tif", (40, 40))
    (tmp_path / "there.tif").write_text("mine")
    with pytest.raises(DataError, match=said):
        apply.predict(request(model, source, tmp_path / output, **rest))
    assert (tmp_path / "there.tif").read_text() == "mine"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(("rest", "said"), [
    ({"overlap": 1.5}, r"score.overlap must be at least 0 and below 1, got 1.5"),
    ({"simplify_px": -1.0, "polygons": True}, r"simplify must be 0 or more"),
    ({"simplify_px": 2.0}, r"simplify must be 0 without --polygons"),
])
def test_senseless_settings_are_refused_before_anything_is_done(model: Path, scene: Path, tmp_path: Path,
                                                                rest: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        apply.predict(request(model, scene, tmp_path / "map.tif", **rest))
    assert not list(tmp_path.iterdir())


def test_no_file_is_written_twice_nor_over_a_part_of_a_scene(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "a_confidence"):
        write_scene(tmp_path / "in" / f"{name}.tif", (30, 30))
    with pytest.raises(DataError, match=r"a_confidence.tif: would be written twice"):
        apply.predict(request(model, tmp_path / "in", tmp_path / "out", confidence=True))
    part = tmp_path / "in" / "a.tif"
    (tmp_path / "scene.vrt").write_text(
        f'''<VRTDataset rasterXSize="30" rasterYSize="30">{"".join(
            f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource><SourceFilename>{part}</SourceFilename>'
            f'<SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>' for band in (1, 2, 3))}</VRTDataset>''')
    before = part.read_bytes()
    with pytest.raises(DataError, match="would take the place of a scene"):
        apply.predict(request(model, tmp_path / "scene.vrt", part, overwrite=True))
    assert part.read_bytes() == before


def test_scenes_without_a_place_have_maps_and_no_mosaic(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    for name in "ab":
        write_scene(tmp_path / "in" / f"{name}.png", (30, 30), driver="PNG", crs=None, transform=AFFINE)
        (tmp_path / "in" / f"{name}.wld").unlink(missing_ok=True)
        (tmp_path / "in" / f"{name}.png.aux.xml").unlink(missing_ok=True)
    (tmp_path / "out" / "maps.vrt").write_text("mine")
    with pytest.raises(DataError, match=r"maps.vrt: exists already"):
        apply.predict(request(model, tmp_path / "in", tmp_path / "out"))
    (tmp_path / "out" / "maps.vrt").unlink()
    result = apply.predict(request(model, tmp_path / "in", tmp_path / "out"))
    assert [one.output.exists() for one in result.maps] == [True, True]
    assert result.mosaic is None
    assert any("no mosaic" in note for note in result.notes)


def test_a_map_that_replaces_another_leaves_none_of_its_files(model: Path, scene: Path, tmp_path: Path
                                                              ) -> None:
    first, = apply.predict(request(model, scene, tmp_path / "map.tif", confidence=True, polygons=True)).maps
    first.others["confidence"].unlink()
    again, = apply.predict(request(model, scene, tmp_path / "map.tif", confidence=True, polygons=True, resume=True,
                                   overwrite=True)).maps
    assert again.others["confidence"].exists(), "a map without its confidence is not whole"
    plain, = apply.predict(request(model, scene, tmp_path / "map.tif", overwrite=True)).maps
    assert plain.others == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.png", "map.tif"]


def test_a_crs_that_a_geotiff_cannot_hold_is_refused(model: Path, scene: Path, tmp_path: Path) -> None:
    pole = rasterio.CRS.from_string("+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=39 +lon_0=18 +datum=WGS84")
    with rasterio.open(scene) as raster:
        rasterio.shutil.copy(raster, tmp_path / "pole.vrt", driver="VRT")
    text = (tmp_path / "pole.vrt").read_text()
    (tmp_path / "pole.vrt").write_text(re.sub("<SRS.*?</SRS>", f"<SRS>{escape(pole.to_wkt())}</SRS>", text))
    with pytest.raises(PatchstoreError, match="a GeoTIFF cannot hold its CRS"):
        apply.predict(request(model, tmp_path / "pole.vrt", tmp_path / "map.tif"))


def test_a_disk_without_room_is_told_before_anything_is_done(model: Path, scene: Path, tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match=r"may take .* GB while they are made"):
        apply.predict(request(model, scene, tmp_path / "map.tif"))
    assert not list(tmp_path.glob(".*"))


def test_several_scenes_need_a_folder(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "ab":
        write_scene(tmp_path / "in" / f"{name}.tif", (40, 40))
    with pytest.raises(DataError, match="is 2 scenes; give a folder"):
        apply.predict(request(model, tmp_path / "in", tmp_path / "map.tif"))


def test_scenes_that_are_awkward_become_maps(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    local = 'LOCAL_CS["somewhere",UNIT["metre",1]]'
    write_scene(tmp_path / "in" / "tiny.tif", (1, 3))
    write_scene(tmp_path / "in" / "unnamed.tif", (30, 20), crs=local)
    write_scene(tmp_path / "in" / "rotated.tif", (30, 20), transform=AFFINE @ rasterio.Affine.rotation(30))
    empty = write_scene(tmp_path / "in" / "empty.tif", (30, 20), nodata=0)
    with rasterio.open(empty, "r+") as raster:
        raster.write(np.zeros((3, 30, 20), np.uint8))
    result = apply.predict(request(model, tmp_path / "in", tmp_path / "out", polygons=True))
    by_name = {one.name: one for one in result.maps}
    assert by_name["empty"].nodata == 600
    assert by_name["tiny"].shape == (1, 3)
    for name in ("unnamed", "rotated"):
        with rasterio.open(by_name[name].output) as map_, rasterio.open(tmp_path / "in" / f"{name}.tif") as source:
            assert map_.crs == source.crs
            assert map_.transform.almost_equals(source.transform)
    assert any("rotated" in note for note in result.notes)


@pytest.mark.slow
def test_a_killed_prediction_goes_on_and_gives_the_same_bytes(model: Path, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "tall.tif", (5 * bands.ROWS, 100))
    command = [sys.executable, str(ROOT / "jobs" / "predict.py"), str(model), str(scene)]
    job = subprocess.Popen([*command, str(tmp_path / "map.tif")], start_new_session=True)
    until = time.monotonic() + 120
    while not list(tmp_path.glob(".map.tif.*.bands/*.npy")):
        assert job.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    there = list(tmp_path.glob(".map.tif.*.bands/*.npy"))
    assert 0 < len(there) < 5
    assert not (tmp_path / "map.tif").exists()
    subprocess.run([*command, str(tmp_path / "map.tif"), "--resume"], check=True)
    subprocess.run([*command, str(tmp_path / "whole.tif")], check=True)
    assert sha256(tmp_path / "map.tif") == sha256(tmp_path / "whole.tif")


@pytest.mark.slow
def test_one_worker_and_three_give_the_same_bytes(model: Path, job: Job, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "tall.tif", (4 * bands.ROWS + 100, 80))
    for workers in (1, 3):
        result = job("predict", model, scene, tmp_path / f"{workers}.tif", "--cluster.workers", workers,
                     "--cluster.cpus", 1, "--json")
        assert result.returncode == 0, result.stderr
    assert sha256(tmp_path / "1.tif") == sha256(tmp_path / "3.tif")


def test_the_job_answers_with_one_line_and_2(model: Path, job_here: Job, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", (40, 40))
    with rasterio.open(tmp_path / "deep.tif", "w", driver="GTiff", count=4, dtype="uint16", height=9, width=9,
                       transform=AFFINE):
        pass
    for arguments, said in (((tmp_path / "nowhere.tif", tmp_path / "a.tif"), "no such file"),
                            ((tmp_path / "deep.tif", tmp_path / "a.tif"), "has 4 bands of uint16, but 3 of uint8"),
                            ((scene, scene), "would take the place of a scene")):
        result = job_here("predict", model, *arguments)
        assert result.returncode == 2
        assert said in result.stderr
        assert result.stderr.count("\n") == 1
    result = job_here("predict", model, scene, tmp_path / "map.tif", "--polygons", "--score.symmetries", 8, "--json")
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout.splitlines()[-1])
    assert Path(said["maps"][0]["polygons"]).exists()
    assert said["maps"][0]["shape"] == [40, 40]
