"""The ingest job: what it reports, leaves out, foretells, and that spreading its steps changes no byte."""

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio

import patchstore
from patchstore import SourceError
from swath import recipes
from swath.config import DataConfig
from swath.experiments import ingest

Job = Callable[..., subprocess.CompletedProcess[str]]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def data(dataset: Path, tmp_path: Path) -> DataConfig:
    """A copy of the generated data set, and a store to be made; several bands of shards a scene."""
    source = Path(shutil.copytree(dataset, tmp_path / "source"))
    return replace(recipes.synthetic().data, source=str(source), store=str(tmp_path / "s.zarr"), chunk=64, shard=128)


def arguments(data: DataConfig) -> list[object]:
    return ["synthetic", "--data.source", data.source, "--data.store", data.store, "--data.chunk", 64,
            "--data.shard", 128, "--json"]


def spoil(data: DataConfig) -> list[str]:
    """Make four scenes unusable, each in its way; their names."""
    source = Path(data.source)
    (source / "masks/g0_s0.tif").unlink()
    (source / "images/g0_s1.tif").write_bytes(b"no raster")
    with rasterio.open(source / "images/g1_s0.tif") as file:
        pixels, profile = file.read(), file.profile
    with rasterio.open(source / "images/g1_s0.tif", "w",
                       **{**profile, "count": 4, "photometric": "minisblack"}) as file:
        file.write(np.concatenate([pixels, pixels[:1]]))
    with rasterio.open(source / "masks/g1_s1.tif", "r+") as file:
        file.write(np.full((1, 320, 320), 77, np.uint8))
    return ["g0_s0", "g0_s1", "g1_s0", "g1_s1"]


def test_bad_files_are_listed_at_once_before_anything_is_written(data: DataConfig) -> None:
    spoil(data)
    with pytest.raises(SourceError) as caught:
        ingest.run(data, ingest.one_by_one)
    listed = str(caught.value).splitlines()
    assert "nothing was written, since 3 files cannot be used (skip_bad leaves them out)" in listed[0]
    assert [name for name in ("g0_s0", "g0_s1", "g1_s0", "g1_s1") if name in str(caught.value)] == [
        "g0_s0", "g0_s1", "g1_s0"]  # values are not looked at yet
    assert not Path(data.store).exists()


def test_with_skip_bad_the_others_are_ingested(data: DataConfig) -> None:
    names = spoil(data)
    report = ingest.run(data, ingest.one_by_one, skip_bad=True)
    assert list(patchstore.open(data.store).scenes) == ["g2_s0", "g2_s1"]
    assert (report.scenes, report.states, len(report.rejected)) == (2, {"new": 2}, 4)
    for name in names:
        assert any(f"{name}.tif" in reason for reason in report.rejected)
    assert any("has 4 bands of uint8, but most have 3" in reason for reason in report.rejected)
    assert any("77 (102,400 px)" in reason for reason in report.rejected)
    with pytest.raises(SourceError, match="4 files or scenes were refused"):
        report.check()


def test_a_value_of_no_class_fails_the_job_not_the_other_scenes(data: DataConfig) -> None:
    with rasterio.open(Path(data.source, "masks/g1_s1.tif"), "r+") as file:
        file.write(np.full((1, 320, 320), 77, np.uint8))
    report = ingest.run(data, ingest.one_by_one)
    assert len(patchstore.open(data.store).scenes) == 5
    with pytest.raises(SourceError, match=r"1 files or scenes were refused; .*\n.*g1_s1\.tif: indices that .*: 77"):
        report.check()


def test_the_report_knows_areas(data: DataConfig) -> None:
    report = ingest.run(data, ingest.one_by_one)
    assert report.class_km2 is not None
    assert sum(report.class_km2.values()) == pytest.approx(6 * (320 * 0.25) ** 2 / 1e6)
    assert sum(report.fractions.values()) == pytest.approx(1)
    counted = {name: report.class_km2[name] * 1e6 / 0.0625 for name in report.class_pixels}
    assert counted == pytest.approx(report.class_pixels)
    for path in (*Path(data.source).glob("images/*"), *Path(data.source).glob("masks/*")):
        with rasterio.open(path, "r+") as file:
            file.crs = rasterio.CRS.from_epsg(4326)
    again = ingest.run(data, ingest.one_by_one)
    assert (again.states, again.class_km2) == ({"changed": 6}, None)


def test_a_dry_run_says_what_a_run_will_do(data: DataConfig, job_here: Job) -> None:
    done = job_here("ingest", *arguments(data), "--dry-run")
    assert done.returncode == 0, done.stderr
    foretold = json.loads(done.stdout.splitlines()[-1])
    assert not Path(data.store).exists()
    assert (foretold["states"], foretold["estimate"]["pixels"]) == ({"new": 6}, 6 * 320 * 320)
    ingest.run(data, ingest.one_by_one)
    size = sum(len(pixels) for place, pixels in content(Path(data.store)).items() if "/c/" in place)
    assert size / 1.5 < foretold["estimate"]["size"] < size * 1.5
    shards = [place for place in content(Path(data.store)) if "/image/c/" in place or "/mask/c/" in place]
    assert foretold["estimate"]["shards"] == len(shards)
    before = content(Path(data.store))
    with rasterio.open(Path(data.source, "images/g0_s0.tif"), "r+") as file:
        file.write(np.zeros((3, 8, 8), np.uint8), window=((0, 8), (0, 8)))
    for part in ("images", "masks"):
        shutil.copy(Path(data.source, part, "g0_s0.tif"), Path(data.source, part, "g9_s9.tif"))
    preview = ingest.preview(data)
    assert preview.states == {"changed": 1, "new": 1, "unchanged": 5}
    assert preview.estimate.pixels == 2 * 320 * 320
    assert content(Path(data.store)) == before


def test_a_dry_run_lists_bad_files(data: DataConfig, job_here: Job) -> None:
    spoil(data)
    done = job_here("ingest", *arguments(data), "--dry-run")
    assert (done.returncode, "4 files cannot be used" in done.stderr) == (2, True)
    skipped = job_here("ingest", *arguments(data), "--dry-run", "--skip-bad")
    assert (skipped.returncode, skipped.stderr.count("left out: ")) == (0, 4)
    assert not Path(data.store).exists()


def test_a_store_of_another_kind_is_refused_by_a_dry_run_too(data: DataConfig) -> None:
    ingest.run(data, ingest.one_by_one)
    other = replace(data, zstd=3)
    for go in (ingest.preview, lambda config: ingest.run(config, ingest.one_by_one)):
        with pytest.raises(patchstore.StoreError, match="has zstd 1, not 3"):
            go(other)


def test_masks_on_another_grid_are_warped_on_request(data: DataConfig, job_here: Job) -> None:
    path = Path(data.source, "masks/g0_s0.tif")
    with rasterio.open(path) as file:
        labels, profile = file.read(), file.profile
    a, b, c, d, e, f = profile["transform"][:6]
    shifted = rasterio.Affine(a, b, c + 0.5, d, e, f)  # two pixels to the east
    with rasterio.open(path, "w", **{**profile, "transform": shifted}) as file:
        file.write(labels)
    done = job_here("ingest", *arguments(data))
    assert done.returncode == 2
    assert "masks/g0_s0.tif" in done.stderr
    assert "--align" in done.stderr
    report = ingest.run(replace(data, align=True), ingest.one_by_one)
    assert [note.split(":")[0] for note in report.notes] == ["g0_s0"]
    stored = patchstore.open(data.store).region("g0_s0", "mask", (0, 320), (0, 320))
    np.testing.assert_array_equal(stored[:, 2:], labels[0, :, :-2])
    assert (stored[:, :2] == 255).all()


@pytest.mark.slow
def test_spread_over_a_cluster_the_bytes_are_the_same(data: DataConfig, job: Job, tmp_path: Path) -> None:
    done = job("ingest", *arguments(data))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["states"] == {"new": 6}
    ingest.run(replace(data, store=str(tmp_path / "here.zarr")), ingest.one_by_one)
    assert content(Path(data.store)) == content(tmp_path / "here.zarr")
