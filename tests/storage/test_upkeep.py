"""Looking after a store: versions, what may be removed, and the job that does it."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio

import patchstore
from patchstore import ClassInfo, ReadError, StoreError
from patchstore.upkeep import inventory as upkeep

CLASSES = (ClassInfo("a", (1, 2, 3)), ClassInfo("b", (4, 5, 6)))
SHAPE = (150, 200)
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # the rasters made here
Job = Callable[..., subprocess.CompletedProcess[str]]


def write(folder: Path, name: str, seed: int) -> patchstore.SceneSource:
    """A scene's files, of random content."""
    rng = np.random.default_rng(seed)
    for kind, bands, high in (("image", 3, 256), ("mask", 1, 2)):
        with rasterio.open(folder / f"{name}_{kind}.tif", "w", driver="GTiff", count=bands, height=SHAPE[0],
                           width=SHAPE[1], dtype="uint8") as file:
            file.write(rng.integers(0, high, (bands, *SHAPE), np.uint8))
    return patchstore.SceneSource(name=name, image=folder / f"{name}_image.tif", mask=folder / f"{name}_mask.tif",
                                  group=name)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """A store of two scenes, one of which has been ingested in three versions, and a third that is unfinished."""
    uri = patchstore.create(tmp_path / "s.zarr", dtype="uint8", bands=3, classes=CLASSES, chunk=64, shard=128)
    for name, seeds in (("one", (1, 2, 3)), ("two", (4,))):
        for seed in seeds:
            patchstore.ingest(uri, write(tmp_path, name, seed))
    begun = patchstore.steps(uri, write(tmp_path, "three", 5))
    ingest, = [step() for step in next(begun)]
    for step in begun.send([ingest]):
        step()
    return uri


def files(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


def test_what_lies_there(uri: str) -> None:
    one, three, two = upkeep.versions(uri)
    assert [entry.name for entry in (one, three, two)] == ["one", "three", "two"]
    assert [len(one.of(state)) for state in ("current", "superseded", "unfinished")] == [1, 2, 0]
    assert one.scene is not None
    assert one.of("current") == [one.scene.version]
    assert (three.scene, len(three.of("unfinished"))) == (None, 1)
    assert [version.state for version in two.versions] == ["current"]
    for version in (*one.versions, *two.versions):
        folder = Path(uri, "one" if version in one.versions else "two", version.name)
        assert version.files == files(folder)
        assert version.size == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert three.versions[0].size is None


def test_a_reader_keeps_its_version_until_it_is_collected(uri: str, tmp_path: Path) -> None:
    before = patchstore.open(uri)
    pixels = before.region("one", "image", (0, 150), (0, 200))
    assert patchstore.ingest(uri, write(tmp_path, "one", 6)).state == "changed"
    np.testing.assert_array_equal(patchstore.Store(uri, cache_bytes=0).scenes["one"].superseded[-1],
                                  before.scenes["one"].version)
    np.testing.assert_array_equal(before.region("one", "image", (0, 150), (0, 200)), pixels)
    after = patchstore.open(uri).region("one", "image", (0, 150), (0, 200))
    assert (after != pixels).any()
    upkeep.collect(uri)
    late = patchstore.open(uri, cache_bytes=0)
    late.scenes["one"] = before.scenes["one"]
    with pytest.raises(ReadError, match="scene one"):
        late.region("one", "image", (0, 150), (0, 200))


def test_collecting_removes_what_nothing_points_to(uri: str) -> None:
    old = [f"one/{version}" for version in upkeep.versions(uri)[0].of("superseded")]
    assert upkeep.collect(uri, pretend=True) == old
    assert upkeep.versions(uri)[0].of("superseded") == [place.split("/")[1] for place in old]
    assert upkeep.collect(uri) == old
    assert upkeep.collect(uri) == []
    assert not any(Path(uri, place).exists() for place in old)
    assert Path(uri, "three").exists()
    assert [place.split("/")[0] for place in upkeep.collect(uri, unfinished=True)] == ["three"]
    assert not Path(uri, "three").exists()
    store = patchstore.open(uri)
    assert (list(store.scenes), store.scenes["one"].superseded) == (["one", "two"], ())


def test_coming_back_to_an_earlier_version(uri: str, tmp_path: Path) -> None:
    first = patchstore.ingest(uri, write(tmp_path, "one", 1))
    assert first.state == "changed"
    scene = patchstore.open(uri).scenes["one"]
    assert len(scene.superseded) == 2
    assert scene.version not in scene.superseded
    upkeep.collect(uri)
    assert patchstore.open(uri).region("one", "mask", (0, 150), (0, 200)).shape == SHAPE


def test_removing(uri: str) -> None:
    with pytest.raises(StoreError, match="no scene 'ones'; did you mean 'one'"):
        upkeep.remove(uri, ["two", "ones"])
    assert list(patchstore.open(uri).scenes) == ["one", "two"]
    Path(uri, "one/zarr.json").write_text("{")  # a torn scene can be removed too
    upkeep.remove(uri, ["one"])
    assert not Path(uri, "one").exists()
    assert list(patchstore.open(uri).scenes) == ["two"]
    with pytest.raises(StoreError, match="no store is there"):
        upkeep.remove(Path(uri).parent / "none.zarr", ["two"])


def test_the_job(uri: str, job_here: Job, tmp_path: Path) -> None:
    listed = job_here("store", "list", uri, "--json")
    assert listed.returncode == 0, listed.stderr
    scenes = json.loads(listed.stdout.splitlines()[-1])["scenes"]
    assert {name: [version["state"] for version in versions] for name, versions in scenes.items()}["two"] == ["current"]
    assert sorted(version["state"] for version in scenes["one"]) == ["current", "superseded", "superseded"]
    pretended = job_here("store", "collect", uri, "--pretend")
    assert (pretended.returncode, pretended.stderr.count("one/")) == (0, 2)
    assert job_here("store", "collect", uri).returncode == 0
    assert "nothing to collect" in job_here("store", "collect", uri).stderr
    wrong = job_here("store", "remove", uri, "tow")
    assert (wrong.returncode, wrong.stderr.strip()) == (2, f"error: {uri}: no scene 'tow'; did you mean 'two'?")
    out = tmp_path / "one.tif"
    done = job_here("store", "export", uri, "one", out, "--array", "mask", "--rows", 10, 90)
    assert done.returncode == 0, done.stderr
    with rasterio.open(out) as file:
        np.testing.assert_array_equal(file.read(1), patchstore.open(uri).region("one", "mask", (10, 90), (0, 200)))
    assert job_here("store", "remove", uri, "one", "two").returncode == 0
    assert list(patchstore.open(uri).scenes) == []


def test_a_scene_of_another_group_is_not_written_anew(uri: str, tmp_path: Path) -> None:
    source = replace(write(tmp_path, "two", 4), group="other")
    assert patchstore.ingest(uri, source).state == "unchanged"
    assert patchstore.open(uri).scenes["two"].group == "other"
