"""The jobs as a user runs them: the whole way through, and what bad input is answered with."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from patchstore.testing import scenes
from support.commands import last_json, run_job
from support.configs import TRAIN_ARGUMENTS

Job = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def trained(workdir: Path, store_uri: str) -> dict:  # type: ignore[type-arg]
    return last_json(run_job("train", "synthetic", "--data.store", store_uri, *TRAIN_ARGUMENTS, "--workdir", workdir,
                             "--json"))


def test_ingest_reports_every_pixel(job: Job, dataset: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    first = last_json(job("ingest", "synthetic", "--data.source", dataset, "--data.store", store, "--json"))
    assert first["scenes"] == 6
    assert first["pixels"] == 6 * 320 * 320
    assert sum(first["classes"].values()) == pytest.approx(1)
    assert first["ignored"] == 0
    assert first["rejected"] == []


def test_the_score_is_recomputed_from_the_written_maps(job_here: Job, trained: dict, dataset: Path, store_uri: str,  # type: ignore[type-arg]
                                                       workdir: Path, tmp_path: Path) -> None:
    result = last_json(job_here("evaluate", trained["run_id"], "--split", "test", "--workdir", workdir, "--json"))
    import patchstore
    from swath import recipes
    from swath.splits import division

    split = division.divide(patchstore.open(store_uri), recipes.synthetic().split)
    K = len(scenes.CLASSES)
    counts = np.zeros((K, K), np.int64)
    for scene, _ in split.scenes("test"):
        source = dataset / "images" / f"{scene}.tif"
        written, = last_json(job_here("predict", trained["checkpoint"], source, tmp_path / f"{scene}.tif",
                                      "--json"))["maps"]
        with rasterio.open(written["output"]) as map_, rasterio.open(dataset / "masks" / f"{scene}.tif") as mask, \
                rasterio.open(source) as image:
            labels, predicted = mask.read(1), map_.read(1)
            assert map_.crs == image.crs
            assert map_.transform == image.transform
            assert map_.colormap(1)[0][:3] == tuple(bytes.fromhex(scenes.CLASSES[0].split("#")[1]))
        np.add.at(counts, (labels.ravel(), predicted.ravel()), 1)
        assert Path(written["quicklook"]).stat().st_size > 0
    assert counts.tolist() == result["confusion"]
    iou = np.diag(counts) / (counts.sum(0) + counts.sum(1) - np.diag(counts))
    present = counts.sum(1) > 0
    assert result["miou"] == pytest.approx(iou[present].mean(), abs=1e-12)
    assert result["pixels"] == counts.sum()


def test_training_reports_what_the_interface_names(trained: dict) -> None:  # type: ignore[type-arg]
    assert trained.keys() >= {"run_id", "checkpoint", "val_miou", "val_iou", "megapixels", "seconds"}
    assert 0 <= trained["val_miou"] <= 1
    assert set(trained["val_iou"]) == {c.split("=")[0] for c in scenes.CLASSES}


def test_the_run_is_recorded_in_full(trained: dict, workdir: Path) -> None:  # type: ignore[type-arg]
    from swath import config as configuration
    from swath.tracking import mlflow_store

    uri = mlflow_store.prepare(workdir).uri
    record = mlflow_store.find(uri, trained["run_id"])
    assert record.status == "FINISHED"
    assert record.params["patches.size"] == "64"
    assert record.metrics["val/miou"] == pytest.approx(trained["val_miou"])
    assert {"train/loss", "val/loss", "train/miou", "val_part/miou", "val/iou/field", "speed/patches_per_s",
            "speed/megapixels_per_s", "model/parameters", "model/gmacs_per_megapixel", "device_seconds",
            "peak_memory_mb"} <= record.metrics.keys()
    assert {"swath.protocol", "swath.certificate", "swath.fingerprint", "swath.checkpoint"} <= record.tags.keys()
    assert len(mlflow_store.metric_history(uri, trained["run_id"], "val_part/miou")) == 2
    artifacts = next((workdir / "artifacts").rglob("config.json")).parent
    names = {p.name for p in artifacts.iterdir()}
    assert {"config.json", "curves.png", "confusion.png", "predictions.png"} <= names
    assert configuration.load(artifacts / "config.json").patches.size == 64


def test_a_configuration_file_takes_the_place_of_a_recipe(job_here: Job, trained: dict, workdir: Path) -> None:  # type: ignore[type-arg]
    file = Path(trained["checkpoint"]) / "config.json"
    result = job_here("train", "--config", file, "--help")
    assert result.returncode == 0
    assert "--patches.size INT" in result.stdout
    assert "(default: 64)" in result.stdout


def copy_of(dataset: Path, folder: Path) -> Path:
    return Path(shutil.copytree(dataset, folder / "copy"))


@pytest.mark.parametrize(("arguments", "parts"), [
    (("train", "synthetix"), ["no recipe 'synthetix'", "did you mean synthetic"]),
    (("train", "synthetic", "--patches.sise", "3"), ["--patches.sise", "--patches.size"]),
    (("train", "synthetic", "--patches.size", "3"), ["patches.size must be from 8 to 8192, got 3"]),
    (("train", "synthetic"), ["data.store", "--data.store URI"]),
    (("train", "synthetic", "--data.store", "/nowhere/s.zarr"), ["/nowhere/s.zarr"]),
    (("train",), ["name a recipe", "dubai"]),
    (("train", "--config", "/nowhere/c.json"), ["/nowhere/c.json"]),
    (("train", "synthetic", "--recipes", "no.such.module"), ["no.such.module"]),
    (("ingest", "synthetic", "--data.source", "/nowhere", "--data.store", "/tmp/never.zarr"), ["/nowhere"]),
    (("evaluate", "0" * 32), ["0" * 32]),
    (("evaluate", "/no/checkpoint"), ["/no/checkpoint", "not a whole checkpoint"]),
    (("train", "synthetic", "--train.seed", "-1"), ["train.seed must be 0 or more"]),
])
def test_bad_arguments_are_one_message_and_exit_code_2(job_here: Job, arguments: tuple[str, ...], parts: list[str],
                                                       tmp_path: Path) -> None:
    result = job_here(*arguments, "--workdir", tmp_path) if arguments[0] != "ingest" else job_here(*arguments)
    _assert_refused(result, *parts)


@pytest.mark.parametrize(("option", "parts"), [
    (("--model.encoder", "resnet19"), ["resnet19", "resnet18"]),
    (("--model.arch", "unett"), ["unett", "unet"]),
    (("--split.test", "g7"), ["split.test", "g7"]),
    (("--split.test", "g0", "g1", "--split.val", "g2"), ["train split has no labelled pixel"]),
    (("--model.weights", "/nowhere/w.safetensors"), ["/nowhere/w.safetensors"]),
    pytest.param(("--cluster.device", "cuda"), ["cluster.device"],
                 marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")),
    (("--score.without", "lava"), ["score.without", "lava"]),
    (("--cluster.address", "foo", "--cluster.workers", "2"), ["cluster.address", "foo"]),
    (("--patches.combine", "concentric", "--patches.scales", "1", "4", "--augment.pipeline", "drone"),
     ["augment.pipeline", "aerial"]),
])
def test_settings_that_the_data_cannot_serve(job_here: Job, store_uri: str, option: tuple[str, ...], parts: list[str],
                                             tmp_path: Path) -> None:
    _assert_refused(job_here("train", "synthetic", "--data.store", store_uri, *option, "--workdir", tmp_path), *parts)


def test_a_mask_of_another_size_is_refused_before_a_write(job_here: Job, dataset: Path,
                                                          tmp_path: Path) -> None:
    source = copy_of(dataset, tmp_path)
    mask = sorted((source / "masks").iterdir())[0]
    _write(mask, np.zeros((1, 100, 100), np.uint8))
    result = job_here("ingest", "synthetic", "--data.source", source, "--data.store", tmp_path / "s.zarr")
    _assert_refused(result, mask.name, "100")
    assert not (tmp_path / "s.zarr").exists()


def test_an_index_without_a_class_is_named_and_its_scene_is_out(job_here: Job, dataset: Path, tmp_path: Path
                                                                       ) -> None:
    import patchstore
    from swath.distributed.connection import connected

    source, uri = copy_of(dataset, tmp_path), tmp_path / "s.zarr"
    mask = sorted((source / "masks").iterdir())[0]
    with rasterio.open(mask) as file:
        labels = file.read()
    labels[0, :3, :5] = 77
    _write(mask, labels)
    arguments = ("ingest", "synthetic", "--data.source", source, "--data.store", uri)
    with connected(cpus=2):  # one cluster for both
        _assert_refused(job_here(*arguments), mask.name, "77", "15", "data.ignored")
        assert mask.stem not in patchstore.open(str(uri)).scenes
        report = last_json(job_here(*arguments, "--data.ignored", "77", "--json"))
    assert report["ignored"] == 15
    assert report["ignored_values"] == {"77": 15}
    assert report["scenes"] == 6


def test_a_scene_of_another_dtype_and_a_file_that_is_no_raster(job_here: Job, dataset: Path, tmp_path: Path) -> None:
    source = copy_of(dataset, tmp_path)
    image = sorted((source / "images").iterdir())[0]
    _write(image, np.zeros((3, 320, 320), np.uint16))
    _assert_refused(job_here("ingest", "synthetic", "--data.source", source, "--data.store", tmp_path / "s.zarr"),
                    image.name, "uint16", "uint8")
    image.write_bytes(b"not a raster")
    _assert_refused(job_here("ingest", "synthetic", "--data.source", source, "--data.store", tmp_path / "s.zarr"),
                    image.name)


def test_a_scene_that_the_model_cannot_read(job_here: Job, trained: dict, tmp_path: Path) -> None:  # type: ignore[type-arg]
    four = tmp_path / "four.tif"
    _write(four, np.zeros((4, 80, 80), np.uint8))
    _assert_refused(job_here("predict", trained["checkpoint"], four, tmp_path / "map.tif"), "four.tif", "4", "3")
    _assert_refused(job_here("predict", trained["checkpoint"], tmp_path / "no.tif", tmp_path / "map.tif"), "no.tif")
    assert not (tmp_path / "map.tif").exists()


def test_a_map_never_takes_the_place_of_its_source(job_here: Job, trained: dict, tmp_path: Path) -> None:  # type: ignore[type-arg]
    for source, output in (("a.tif", "a.tif"), ("a.png", "a.tif"), ("a.tif", "b.png")):
        _write(tmp_path / source, np.ones((3, 80, 80), np.uint8))
        before = (tmp_path / source).read_bytes()
        _assert_refused(job_here("predict", trained["checkpoint"], tmp_path / source, tmp_path / output), output)
        assert (tmp_path / source).read_bytes() == before


def test_a_folder_that_is_no_store_and_one_of_another_version(job_here: Job, store_uri: str,
                                                              tmp_path: Path) -> None:
    _assert_refused(job_here("train", "synthetic", "--data.store", tmp_path, "--workdir", tmp_path), str(tmp_path))
    other = Path(shutil.copytree(store_uri, tmp_path / "other.zarr"))
    root = json.loads((other / "zarr.json").read_text())
    root["attributes"]["patchstore"]["format"] = 99
    (other / "zarr.json").write_text(json.dumps(root))
    _assert_refused(job_here("train", "synthetic", "--data.store", other, "--workdir", tmp_path), "other.zarr", "99")


def _write(path: Path, bands: np.ndarray) -> None:  # type: ignore[type-arg]
    with rasterio.open(path, "w", driver="GTiff", count=len(bands), height=bands.shape[1], width=bands.shape[2],
                       dtype=bands.dtype) as file:
        file.write(bands)


def _assert_refused(result: "subprocess.CompletedProcess[str]", *parts: str) -> None:
    text = " ".join(result.stderr.replace("│", " ").split())
    assert result.returncode == 2, result.stdout + result.stderr
    assert "Traceback" not in text
    for part in parts:
        assert part in text, text
