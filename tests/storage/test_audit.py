"""The audit: clean where nothing is wrong, and for each kind of damage what reading says and what the audit says."""

import json
import re
import shutil
import subprocess
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import patchstore
from patchstore import ClassInfo, ReadError, SceneSource, StoreError, Window
from patchstore.format import locations, manifest
from patchstore.format.layout import Layout
from patchstore.format.windows import level_shape, levels_of
from patchstore.upkeep.audit_files import list_files
from patchstore.upkeep.auditing import audit_scene, scene_names
from patchstore.upkeep.findings import Ground

CLASSES = (ClassInfo("water", (0, 0, 255)), ClassInfo("land", (200, 100, 0)))
SHAPE = (300, 310)  # 3 x 3 shards, 3 levels
SHARD = "0/image/c/0/1/1"
Damage = Callable[[Path, Path], object]
"""Takes the store and the version of scene a in it."""
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # the rasters made here


def ingest(uri: str, folder: Path, name: str, pixels: np.ndarray, labels: np.ndarray | None = None,
           nodata: float | None = None) -> None:
    """Write a scene's files, and the scene."""
    paths = []
    for kind, values in (("image", pixels), ("mask", labels)):
        if values is not None:
            values = values if values.ndim == 3 else values[None]
            paths.append(folder / f"{name}_{kind}.tif")
            with rasterio.open(paths[-1], "w", driver="GTiff", count=len(values), height=values.shape[1],
                               width=values.shape[2], dtype=values.dtype, nodata=nodata if kind == "image" else None
                               ) as file:
                file.write(values)
    patchstore.ingest(uri, SceneSource(name=name, image=paths[0], mask=paths[1] if len(paths) > 1 else None,
                                             group=name))


def scene_of(seed: int, shape: tuple[int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """(image, mask) at random, with a stretch of nodata 0 and labels in squares of 8 pixels."""
    rng = np.random.default_rng(seed)
    image = rng.integers(1, 256, (3, *shape), np.uint8)
    image[:, 70:90, :140] = 0
    return image, rng.integers(0, 2, (40, 40), np.uint8).repeat(8, 0).repeat(8, 1)[:shape[0], :shape[1]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the scenes a and b."""
    folder = tmp_path_factory.mktemp("made")
    uri = patchstore.create(folder / "s.zarr", dtype="uint8", bands=3, classes=CLASSES, chunk=64, shard=128)
    for seed, name in enumerate("ab"):
        ingest(uri, folder, name, *scene_of(seed), nodata=0)
    return folder / "s.zarr"


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """A store that a test may damage."""
    return Path(shutil.copytree(made, tmp_path / "s.zarr"))


def version_of(store: Path, scene: str = "a") -> Path:
    return store / scene / patchstore.open(store).scenes[scene].version


def flipped(place: str, at: int) -> Damage:
    def damage(store: Path, version: Path) -> None:
        content = bytearray((version / place).read_bytes())
        content[at] ^= 1
        (version / place).write_bytes(content)
    return damage


def cut(place: str, size: int) -> Damage:
    return lambda store, version: (version / place).write_bytes((version / place).read_bytes()[:size])


def removed(place: str) -> Damage:
    return lambda store, version: (version / place).unlink()


def without(place: str) -> Damage:
    return lambda store, version: shutil.rmtree(version / place)


def replaced(place: str, other: str) -> Damage:
    return lambda store, version: shutil.copy(version_of(store, other[0]) / other[2:], version / place)


def edited(place: str, edit: Callable[[dict], object]) -> Damage:  # type: ignore[type-arg]
    """The attributes, or metadata, edited by hand."""
    def damage(store: Path, version: Path) -> None:
        content = json.loads((version / place).read_text())
        edit(content)
        (version / place).write_text(json.dumps(content, indent=1))
    return damage


def attribute(name: str, value: object) -> Damage:
    return edited("../zarr.json", lambda content: content["attributes"]["patchstore"].__setitem__(name, value))


def altered(place: str, index: tuple[int, ...], value: object) -> Damage:
    """Another value, written by another writer as it should be written."""
    return lambda store, version: zarr.open_array(version / place, mode="r+").__setitem__(index, value)


READS = None
"""Nothing is read wrong, or reading cannot know: what was written in the right form is read."""
OTHER = r": other content than was written \(by its digest\)"
TABLE: dict[str, tuple[Damage, str | None, Sequence[str]]] = {
    # damage: how it is done, what reading says, what the audit says
    "byte flipped in data": (
        flipped(SHARD, 60), r"array 0/image, .*chunk \(0, 2, 2\) in shard c/0/1/1",
        [rf"array 0/image, shard c/0/1/1{OTHER}"]),
    "byte flipped in a shard's index": (
        flipped(SHARD, -30), r"array 0/image, .*in shard c/0/1/1", [rf"array 0/image, shard c/0/1/1{OTHER}"]),
    "shard cut": (
        cut(SHARD, 500), r"array 0/image, .*in shard c/0/1/1",
        [r"array 0/image, shard c/0/1/1: cut: 500 of [\d,]{6} bytes"]),
    "shard empty": (
        cut(SHARD, 0), r"array 0/image, .*in shard c/0/1/1",
        [r"array 0/image, shard c/0/1/1: cut: 0 of [\d,]{6} bytes"]),
    "shard removed": (removed(SHARD), r"array 0/image, .*in shard c/0/1/1", ["array 0/image, shard c/0/1/1: absent"]),
    "shard of labels cut": (
        cut("0/mask/c/2/1", 50), r"array 0/mask, .*in shard c/2/1",
        [r"array 0/mask, shard c/2/1: cut: 50 of \d+ bytes"]),
    "shard of a level removed": (
        removed("2/image/c/0/0/0"), r"array 2/image, .*in shard c/0/0/0", ["array 2/image, shard c/0/0/0: absent"]),
    "array removed": (without("0/image"), "array 0/image", ["array 0/image: absent, with all of its 10 files"]),
    "validity removed": (without("0/valid"), "array 0/valid", ["array 0/valid: absent, with all of its 10 files"]),
    "counts removed": (without("counts"), "array counts", ["array counts: absent, with all of its 4 files"]),
    "version removed": (without("."), "array 0/image", [
        "manifest/zarr.json: absent; sizes and digests of files cannot be checked",
        r"zarr\.json and \d+ others: not the metadata .*",
        *(rf"{array}/zarr\.json: the array cannot be opened .*" for array in (
            "0/image", "0/mask", "0/valid", "counts", "moments"))]),
    "zarr.json of an array cut": (cut("0/image/zarr.json", 300), "array 0/image", [
        r"0/image/zarr\.json: cut: 300 of [\d,]+ bytes"]),
    "zarr.json of an array removed": (
        removed("1/mask/zarr.json"), "array 1/mask", [r"1/mask/zarr\.json: absent"]),
    "zarr.json of an array of another type": (
        edited("0/image/zarr.json", lambda content: content.update(data_type="int8")), "array 0/image.*data_type", [
            r"0/image/zarr\.json: (other|cut|too long).*"]),
    "zarr.json of a level cut": (cut("1/zarr.json", 20), READS, [r"1/zarr\.json: cut: 20 of \d+ bytes"]),
    "zarr.json of the scene cut": (
        cut("../zarr.json", 200), r"scene a: its zarr\.json is torn",
        [r"its zarr\.json is torn .*ingest this scene again"]),
    "key of the scene's attributes flipped": (
        flipped("../zarr.json", 66), "scene a: its attributes are gone",
        [r"its attributes are gone \(no 'patchstore' in its zarr\.json\); ingest this scene again"]),
    "zarr.json of the scene of another scene": (
        replaced("../zarr.json", "b/../zarr.json"), "scene a: its attributes are those of scene b",
        ["its attributes are those of scene b; ingest this scene again"]),
    "another scene's shard": (replaced("0/image/c/0/0/2", "b/0/image/c/0/0/2"), READS, [
        "array 0/image, shard c/0/0/2: its content is that of scene b, array 0/image, shard c/0/0/2",
        *(rf"array {array}: not what .* gives in [\d,]+ {unit}, first at row 0, col {col}" for array, unit, col in (
            ("1/image", "pixels", 128), ("2/image", "pixels", 64), ("moments", "cells", 4))),
        "attribute band_sums .*"]),
    "shard of another place": (replaced("0/image/c/0/0/1", "a/0/image/c/0/1/1"), READS, [
        "array 0/image, shard c/0/0/1: its content is that of scene a, array 0/image, shard c/0/1/1",
        *(rf"array {array}: not what .*" for array in ("1/image", "2/image", "moments")), "attribute band_sums .*"]),
    "counts altered": (altered("counts", (1, 4, 0), 7), READS, [
        "array counts, chunk c/0/0/0: (other|cut|too long).*",
        "array counts: not what array 0/mask gives in 1 cells, first at row 1, col 4"]),
    "level altered": (altered("2/image", (0, 5, 7), 1), READS, [
        r"array 2/image, shard c/0/0/0: .*",
        "array 2/image: not what full resolution gives in 1 pixels, first at row 5, col 7"]),
    "manifest cut": (cut("manifest/zarr.json", 900), READS, [
        r"manifest/zarr\.json: other content than was written \(by the digest in the attributes\).*"]),
    "manifest removed": (without("manifest"), READS, [r"manifest/zarr\.json: absent; .*"]),
    "attribute of pixels edited": (attribute("class_pixels", [1, 2]), READS, [
        r"attribute class_pixels is \(1, 2\), but the pixels give \(\d+, \d+\)"]),
    "attribute of pixels cut": (attribute("class_pixels", [1]), READS, [
        r"attribute class_pixels \(its length\) is 1, but must be 2; remove this scene and ingest it again"]),
    "attribute of the manifest edited": (attribute("manifest", "0" * 64), READS, [
        r"manifest/zarr\.json: other content.*"]),
    "attribute of the version edited": (
        attribute("version", "0" * 16), "array 0/image", [r"attribute version is '0{16}', but must be '\w{16}'.*"]),
    "ground of a pixel edited": (attribute("pixel_m2", 0.25), READS, [
        "attribute pixel_m2 is 0\\.25, but CRS and transform give None"]),
    "ignored pixels by value edited": (attribute("ignored_values", {"nodata": 7}), READS, [
        r"attribute ignored is \d+, but ignored_values add up to 7"]),
    "size of a pixel edited": (attribute("pixel_size", [2.0, 2.0]), READS, [
        r"zarr\.json: not the metadata that its own attributes give; remove this scene and ingest it again"]),
    "kind of the scene's node flipped": (flipped("../zarr.json", 37), READS, [
        r"zarr\.json: not the metadata that its own attributes give; .*"]),
    "shape edited": (attribute("shape", [290, 310]), "array 0/image.*shape", [
        r"\S*zarr\.json and \d+ others: not the metadata that .* give",
        *(rf"{array}/zarr\.json: the array cannot be opened .*shape.*" for array in ("0/image", "0/mask", "0/valid"))]),
    "nodata edited away": (attribute("has_valid", False), READS, [
        r"array 2/image: not what full resolution gives in \d+ pixels, first at row 17, col 0",
        "array moments: not what array 0/image gives in 3 cells, first at row 1, col 0", "attribute band_sums .*"]),
}


def read_all(uri: Path) -> None:
    """Read everything of scene a: patches of every level, labels, validity, cells."""
    store = patchstore.open(uri)
    for side in (64, 128, 256):
        windows = [Window("a", row, col, side) for row in range(0, 300, side) for col in range(0, 310, side)]
        store.read(windows, 64)
    store.region("a", "valid", (0, 290), (0, 310))
    store.counts("a")
    store.moments("a")


@pytest.mark.parametrize("kind", TABLE)
def test_damage(copy: Path, kind: str) -> None:
    damage, reading, found = TABLE[kind]
    damage(copy, version_of(copy))
    if reading is READS:
        read_all(copy)
    else:
        with pytest.raises((ReadError, StoreError), match=rf"{re.escape(str(copy))}: (scene a, )?{reading}"):
            read_all(copy)
    problems = audit_scene(copy, "a").problems
    for expected in found:
        assert any(re.fullmatch(f"scene a: {expected}", line) for line in problems), (expected, problems)
    assert len(problems) == len(found), problems
    assert audit_scene(copy, "b").problems == ()


@pytest.mark.parametrize(("name", "value", "said"), [
    ("shape", [300], r"shape must hold tuple\[int, int\], got \[300\]"),
    ("shape", [300, 0], r"shape must be 1 or more, got \(300, 0\)"),
    ("shape", [300, 31.5], r"shape must hold int, got 31\.5"),
    ("levels", True, "levels must hold int, got True"),
    ("levels", 0, r"levels must be 1 or more, got \(0,\)"),
    ("transform", [1, 0, 0, 0, 1], r"transform must hold tuple\[(float, ){5}float\], got \[1, 0, 0, 0, 1\]"),
    ("transform", [1, 0, 0, 0, "1", 0], "transform must hold float, got '1'"),
    ("crs", 32634, "crs must hold str, got 32634"),
    ("class_pixels", [1, None], "class_pixels must hold int, got None"),
    ("class_pixels", 5, r"class_pixels must hold tuple\[int, \.\.\.\], got 5"),
    ("band_sums", [[1.0, 2.0]] * 3, r"band_sums must hold tuple\[float, float, float\], got \[1\.0, 2\.0\]"),
    ("pixel_m2", "1", "pixel_m2 must hold float, got '1'"),
    ("ignored_values", {"nodata": "9"}, "ignored_values must hold int, got '9'"),
    ("ignored_values", 9, "'int' object is not iterable"),
    ("notes", [1], "notes must hold str, got 1"),
    ("superseded", "older", r"superseded must hold tuple\[str, \.\.\.\], got 'older'"),
    ("colour", "red", "unexpected keyword argument 'colour'"),
])
def test_attributes_of_another_type_are_named(copy: Path, name: str, value: object, said: str) -> None:
    attribute(name, value)(copy, version_of(copy))
    expected = rf"scene a: its attributes are damaged \(\w+: .*{said}\); ingest this scene again"
    with pytest.raises(StoreError, match=expected):
        patchstore.open(copy)
    problem, = audit_scene(copy, "a").problems
    assert re.fullmatch(expected, problem)
    assert audit_scene(copy, "b").problems == ()


def test_a_damaged_crs_is_a_problem_beside_others(copy: Path) -> None:
    version = version_of(copy)
    attribute("crs", 'PROXCS["UTM 34N"]')(copy, version)
    cut(SHARD, 500)(copy, version)
    shard, crs, *more = audit_scene(copy, "a").problems
    assert re.fullmatch(r"scene a: array 0/image, shard c/0/1/1: cut: .*", shard)
    assert re.fullmatch("scene a: attribute crs is no coordinate reference system, .* ingest it again", crs)
    assert more == []


def test_a_finished_scene_without_attributes_is_a_problem(copy: Path) -> None:
    version = version_of(copy)
    (copy / "a/zarr.json").unlink()
    assert list(patchstore.open(copy).scenes) == ["b"]  # as one that is not finished: reading cannot know
    found = audit_scene(copy, "a")
    assert found.notes == ()
    assert re.fullmatch(rf"scene a: was finished, as version {version.name} has a manifest, but its attributes are "
                        r"gone \(no zarr\.json; .*\); ingest this scene again, or remove it", *found.problems)
    (version / manifest.PLACE).unlink()
    assert audit_scene(copy, "a").problems == ()


def test_a_damaged_root_is_no_store(copy: Path) -> None:
    root = copy / "zarr.json"
    root.write_bytes(root.read_bytes()[:100])
    for look in (patchstore.open, scene_names, lambda uri: audit_scene(uri, "a")):
        with pytest.raises(StoreError, match="torn or of another kind"):
            look(copy)


def seal(store: Path) -> None:
    """Make manifest and attributes of scene a those of the files that lie there, as a faulty writer would."""
    version = version_of(store)
    files = {path.relative_to(version).as_posix(): manifest.describe(path.read_bytes())
             for path in version.rglob("*") if path.is_file() and path.parent.name != "manifest"}
    (version / manifest.PLACE).write_bytes(manifest.to_json(files))
    attribute("manifest", manifest.describe(manifest.to_json(files)).sha256)(store, version)


@pytest.mark.parametrize(("damage", "expected"), [
    (altered("counts", (0, 3, 1), 5), ["array counts: not what array 0/mask gives in 1 cells, first at row 0, col 3"]),
    (altered("moments", (4, 4, 2, 1), 0.5), ["array moments: not what .* in 1 cells, first at row 4, col 4"]),
    (altered("1/image", (2, 149, 154), 0), ["array 1/image: .* in 1 pixels, first at row 149, col 154"]),
    (altered("2/mask", (slice(70, 75), slice(60, 70)), 9), ["array 2/mask: .* in 50 pixels, first at row 70, col 60"]),
    (altered("1/valid", (0, 0), False), ["array 1/valid: .* in 1 pixels, first at row 0, col 0"]),
    (altered("0/mask", (299, slice(0, 3)), 7), [
        "array 0/mask: neither a class nor ignored in 3 pixels, first at row 299, col 0", "array counts: .* 1 cells.*",
        "attribute class_pixels .*"]),
    (altered("0/mask", (80, 130), 0), [
        "array 0/mask: not ignored in 1 pixels that are not valid, first at row 80, col 130", "array counts: .*",
        "attribute class_pixels .*", "attribute ignored is 2800, but the pixels give 2799"]),
    (replaced("0/mask/c/0/1", "b/0/mask/c/0/1"), ["array 1/mask: .*", "array 2/mask: .*", "array counts: .*",
                                                  "attribute class_pixels .*"]),
    (edited("0/zarr.json", lambda content: content["attributes"].update(more=1)), [
        r"0/zarr\.json: not the metadata that the store's settings and the scene's attributes give"])],
    ids=["counts", "moments", "image", "mask", "valid", "class", "nodata", "shard", "metadata"])
def test_what_does_not_fit_together_is_found_without_digests(copy: Path, damage: Damage, expected: list[str]) -> None:
    damage(copy, version_of(copy))
    seal(copy)
    problems = audit_scene(copy, "a").problems
    for line in expected:
        assert any(re.fullmatch(f"scene a: {line}", problem) for problem in problems), (line, problems)
    assert len(problems) == len(expected), problems


@pytest.mark.parametrize("shape", [(1, 1), (64, 129), (300, 310)])
@pytest.mark.parametrize(("dtype", "nodata"), [("uint8", None), ("uint16", 7), ("int16", -9), ("float32", None)])
def test_an_undamaged_store_is_clean(tmp_path: Path, dtype: str, nodata: int | None, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    image = (rng.normal(0, 30, (5, *shape)).astype(dtype) if dtype != "uint8"
             else rng.integers(0, 256, (5, *shape), np.uint8))
    if dtype == "float32":
        image[1, 3:90, 5:] = np.nan
    mask = rng.integers(0, 3, shape, np.uint8)
    mask[mask == 2] = 255
    uri = patchstore.create(tmp_path / "s.zarr", dtype=dtype, bands=5, classes=CLASSES, chunk=64, shard=128)
    ingest(uri, tmp_path, "a", image, mask, nodata)
    ingest(uri, tmp_path, "b", image)  # without a mask
    assert scene_names(uri) == ["a", "b"]
    for name in "ab":
        for sample in (1, 0.2):
            found = audit_scene(uri, name, sample=sample)
            assert (found.problems, found.notes) == ((), ())
        files = [path for path in Path(uri, name).rglob("*") if path.is_file()]
        assert (found.files, found.size) == (len(files), sum(path.stat().st_size for path in files))
        assert (found.pixels, found.class_pixels) == (
            shape[0] * shape[1], patchstore.open(uri).scenes[name].class_pixels)


def test_a_quick_look(copy: Path) -> None:
    store = patchstore.open(copy)
    ground = Ground.choose(Layout(settings=store.settings, scene=store.scenes["a"]), 0.1, 3)
    (inside,), version = ground.shards, version_of(copy)
    outside = next((i, j) for i in range(3) for j in range(3) if (i, j) != inside)
    flipped(f"0/image/c/0/{outside[0]}/{outside[1]}", 60)(copy, version)
    assert audit_scene(copy, "a", sample=0.1, seed=3).problems == ()
    assert len(audit_scene(copy, "a").problems) == 1
    flipped(f"0/mask/c/{inside[0]}/{inside[1]}", 5)(copy, version)
    cut(f"0/valid/c/{outside[0]}/{outside[1]}", 3)(copy, version)  # by the listing alone
    flipped("1/image/zarr.json", 40)(copy, version)
    problems = audit_scene(copy, "a", sample=0.1, seed=3).problems
    assert [line.split(":")[1] for line in problems] == [
        f" array 0/mask, shard c/{inside[0]}/{inside[1]}", f" array 0/valid, shard c/{outside[0]}/{outside[1]}",
        " 1/image/zarr.json"]
    with pytest.raises(ValueError, match="sample must be above 0 and at most 1"):
        audit_scene(copy, "a", sample=0)


@settings(max_examples=50, deadline=None)
@given(shape=st.tuples(st.integers(1, 2000), st.integers(1, 2000)), sample=st.floats(0.001, 1), seed=st.integers(0, 9))
def test_a_sample_reaches_every_level(made: Path, shape: tuple[int, int], sample: float, seed: int) -> None:
    store = patchstore.open(made)
    scene = replace(store.scenes["a"], shape=shape, levels=levels_of(shape))
    layout = Layout(settings=store.settings, scene=scene)
    ground = Ground.choose(layout, sample, seed)
    assert ground == Ground.choose(layout, sample, seed)
    for level in range(scene.levels):
        rows, cols = (-(-n // 128) for n in level_shape(shape, level))
        covered = {(i, j) for i in range(rows) for j in range(cols) if ground.covers(f"{level}/image/c/0/{i}/{j}")}
        assert covered == {(i, j) for i in range(rows) for j in range(cols) if ground.covers(f"{level}/mask/c/{i}/{j}")}
        assert covered
        if level == 0:
            assert covered == set(ground.shards)
        if ground.whole:
            assert len(covered) == rows * cols


def test_memory_does_not_grow_with_the_height(tmp_path: Path) -> None:
    classes = [ClassInfo(f"{k}", (0, 0, k)) for k in range(250)]  # 0.5 MB of counts for a band of shards
    uri = patchstore.create(tmp_path / "s.zarr", dtype="uint8", bands=1, classes=classes, shard=1024)
    peaks = []
    for bands in (1, 6):
        ingest(uri, tmp_path, f"{bands}", np.zeros((1, 1024 * bands, 4096), np.uint8))
        tracemalloc.start()
        assert audit_scene(uri, f"{bands}").problems == ()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 1e6, peaks


def test_what_is_no_damage_is_noted(copy: Path) -> None:
    version = version_of(copy)
    (copy / "half/0123").mkdir(parents=True)
    (copy / "half/0123/zarr.json").write_bytes(b"")
    assert scene_names(copy) == ["a", "b", "half"]
    half = audit_scene(copy, "half")
    assert (half.problems, half.files, half.pixels) == ((), 1, 0)
    assert half.notes[0].startswith("scene half: not finished, 1 files without attributes")
    (version / "0/image/c/0/0/0.__lock").write_bytes(b"")
    (copy / "a/older").mkdir()
    (copy / "a/older/file").write_bytes(b"")
    assert audit_scene(copy, "a").problems == ()
    assert audit_scene(copy, "a").notes == (
        "scene a: beside the current version lie older",
        f"scene a: 1 files that no array has and nothing reads, first {version.name}/0/image/c/0/0/0.__lock")
    assert locations.Folder(str(copy)).keys("a") == sorted(  # on an object store, which has no locks
        f"a/{key}" for key in list_files(locations.Folder(str(copy)), "a") if not key.endswith("__lock"))


def test_the_job(copy: Path, job_here: Callable[..., "subprocess.CompletedProcess[str]"]) -> None:
    clean = job_here("audit", copy, "--json")
    assert clean.returncode == 0, clean.stderr
    result = json.loads(clean.stdout.splitlines()[-1])
    pixels = np.sum([scene.class_pixels for scene in patchstore.open(copy).scenes.values()], axis=0)
    assert (result["scenes"], result["problems"], result["notes"]) == (2, [], [])
    assert result["classes"]["land"] == {"pixels": pixels[1], "share": pixels[1] / (2 * 300 * 310), "km2": None}
    files = [path for path in copy.rglob("*") if path.is_file() and path != copy / "zarr.json"]
    assert (result["files"], result["bytes"]) == (len(files), sum(path.stat().st_size for path in files))
    cut(SHARD, 500)(copy, version_of(copy))
    attribute("pixel_m2", 0.25)(copy, version_of(copy, "b"))
    damaged = job_here("audit", copy, "--sample", 0.05, "--json")
    assert damaged.returncode == 1
    assert "scene a: array 0/image, shard c/0/1/1: cut: 500 of" in damaged.stdout
    assert "scene b: attribute pixel_m2 is 0.25, but" in damaged.stdout
    assert "2 problems in 2 scenes" in damaged.stdout
    assert len(json.loads(damaged.stdout.splitlines()[-1])["problems"]) == 2
    nowhere = job_here("audit", copy.parent / "nowhere")
    assert (nowhere.returncode, nowhere.stdout) == (2, "")
    assert "no store is there" in nowhere.stderr
    assert job_here("audit", copy, "--sample", 2).returncode == 2
