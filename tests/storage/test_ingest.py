"""Ingest: what is found, what is refused, and that an ingest killed at any moment ends with the same bytes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import rasterio

import patchstore
from patchstore import ClassInfo, MaskCoding, SceneSource, SourceError, StoreError
from patchstore.format import locations
from patchstore.upkeep import inventory as upkeep
from support.rasters import random_image, random_mask, write

CLASSES = (ClassInfo("water", (0, 0, 255)), ClassInfo("land", (200, 100, 0)), ClassInfo("road", (9, 9, 9)))
BLACK = (0, 0, 0)
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # the rasters made here


def colours(mask: np.ndarray) -> np.ndarray:
    """(3, H, W): 3 stands for black."""
    return np.array([*(c.colour for c in CLASSES), BLACK], np.uint8)[mask].transpose(2, 0, 1)


def new_store(path: Path, **settings: object) -> str:
    return patchstore.create(path, **{"dtype": "uint8", "bands": 3, "classes": CLASSES, "chunk": 64, "shard": 128,  # type: ignore[arg-type]
                                      **settings})


def labels_of(uri: str, name: str) -> np.ndarray:
    store = patchstore.open(uri)
    rows, cols = store.scenes[name].shape
    return store.region(name, "mask", (0, rows), (0, cols))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_geotiff_with_index_mask(tmp_path: Path) -> None:
    mask = random_mask((150, 201))
    mask[0, :5] = 255  # the store's own ignore value needs no declaration
    transform = rasterio.Affine(0.25, 0, 100, 0, -0.25, 900)
    image = random_image(mask.shape)
    write(tmp_path / "images/a_1.tif", image, crs="EPSG:32634", transform=transform)
    write(tmp_path / "masks/a_1.tif", np.stack([mask] * 3))
    sources = patchstore.find_folder(tmp_path, "images/*", "masks/*", r"^(\w+)_").scenes
    assert [(s.name, s.group, s.origin) for s in sources] == [("a_1", "a", (0, 0))]
    assert patchstore.inspect(sources[0]).shape == (150, 201)
    uri = new_store(tmp_path / "s.zarr")
    report = patchstore.ingest(uri, sources[0])
    assert report.class_pixels == tuple(np.bincount(mask.ravel(), minlength=256)[:3])
    assert (report.pixels, report.ignored, report.state) == (mask.size, {"255": 5}, "new")
    store = patchstore.open(uri)
    scene = store.scenes["a_1"]
    assert (scene.shape, scene.transform, scene.pixel_size) == ((150, 201), tuple(transform)[:6], (0.25, 0.25))
    assert scene.crs is not None
    assert rasterio.CRS.from_wkt(scene.crs).to_epsg() == 32634
    assert (scene.ignored, scene.has_valid, scene.class_pixels) == (5, False, report.class_pixels)
    np.testing.assert_array_equal(store.region("a_1", "image", (0, 150), (0, 201)), image)
    np.testing.assert_array_equal(labels_of(uri, "a_1"), mask)
    assert patchstore.ingest(uri, sources[0]).state == "unchanged"


def test_colour_masks_of_every_form_are_one(tmp_path: Path) -> None:
    mask = random_mask((90, 110))
    mask[80:, 100:] = 3
    table = {i: c.colour for i, c in enumerate(CLASSES)} | {3: BLACK}
    orders = {"palette": [0, 1, 2, 3], "other": [3, 1, 0, 2]}
    for name, order in orders.items():  # the same colours under other indices
        index_of = np.argsort(order).astype(np.uint8)
        write(tmp_path / f"{name}.png", index_of[mask], {i: (*table[v], 255) for i, v in enumerate(order)})
    write(tmp_path / "rgb.png", colours(mask))
    write(tmp_path / "rgba.png", np.concatenate([colours(mask), np.full((1, 90, 110), 255, np.uint8)]))
    write(tmp_path / "image.jpg", random_image(mask.shape), quality=95)
    uri = new_store(tmp_path / "s.zarr")
    coding = MaskCoding(kind="colour", classes=CLASSES, ignored=("#000000",))
    for name in (*orders, "rgb", "rgba"):
        source = SceneSource(name=name, image=tmp_path / "image.jpg", mask=tmp_path / f"{name}.png", group="g")
        assert patchstore.ingest(uri, source, coding).ignored == {"#000000": 100}
        np.testing.assert_array_equal(labels_of(uri, name), np.where(mask == 3, 255, mask))


def test_tiles_lie_in_their_grid(tmp_path: Path) -> None:
    heights, widths = (20, 21, 22), (30, 31, 32)
    for part in range(1, 10):
        shape = heights[(part - 1) // 3], widths[(part - 1) % 3]
        write(tmp_path / f"Tile 4/images/image_part_00{part}.jpg", random_image(shape))
        write(tmp_path / f"Tile 4/masks/image_part_00{part}.png", colours(random_mask(shape)))
    scenes = patchstore.find_tiles(tmp_path).scenes
    assert [s.name for s in scenes] == [f"tile_4_part_00{part}" for part in range(1, 10)]
    assert {s.group for s in scenes} == {"tile_4"}
    assert [s.origin for s in scenes] == [(r, c) for r in (0, 20, 41) for c in (0, 30, 61)]


def test_nodata_is_not_valid_and_not_labelled(tmp_path: Path) -> None:
    image, mask = random_image((70, 70), 2), random_mask((70, 70))
    image[image == 0] = 1
    image[:, :10], image[0, 20:] = 0, 0  # the first ten rows are without data in both bands
    write(tmp_path / "a.tif", image, nodata=0)
    write(tmp_path / "m.tif", mask)
    uri = new_store(tmp_path / "s.zarr", bands=2)
    report = patchstore.ingest(uri, SceneSource(name="a", image=tmp_path / "a.tif", mask=tmp_path / "m.tif",
                                                      group="a"))
    store = patchstore.open(uri)
    valid = store.region("a", "valid", (0, 70), (0, 70))
    np.testing.assert_array_equal(valid, (image != 0).any(axis=0))
    np.testing.assert_array_equal(labels_of(uri, "a"), np.where(valid, mask, 255))
    assert report.ignored == {"nodata": int((~valid).sum())}
    assert store.scenes["a"].band_sums[1] == (valid.sum(), image[1].sum(), (image[1].astype(int) ** 2).sum())


def test_images_alone_are_ignored_everywhere(tmp_path: Path) -> None:
    write(tmp_path / "images/a.tif", random_image((40, 50)))
    (tmp_path / "images/a.tif.aux.xml").write_text("<PAMDataset/>")
    uri = new_store(tmp_path / "s.zarr", classes=())
    report = patchstore.ingest(uri, patchstore.find_folder(tmp_path, masks="").scenes[0])
    assert report.class_pixels == ()
    store = patchstore.open(uri)
    assert store.counts("a").shape == (1, 1, 0)
    assert (store.read([patchstore.Window("a", 0, 0, 32)], 32)[1] == 255).all()


def test_undeclared_values_are_listed_with_their_pixels(tmp_path: Path) -> None:
    mask = random_mask((300, 40))
    pixels = colours(mask)
    pixels[:, 2, :3] = np.array([[1], [2], [3]])
    pixels[:, 299, :7] = 0  # in another band of shards than the first
    write(tmp_path / "a.tif", random_image(mask.shape))
    mask[5, :4], mask[299, 0] = 7, 200
    uri = new_store(tmp_path / "s.zarr")
    for kind, values, expected in (("colour", pixels, r"m\.png: colours .*#000000 \(7 px\), #010203 \(3 px\).*"
                                                      r"--data\.ignored '#000000' '#010203'"),
                                   ("index", mask, r"m\.png: indices .*7 \(4 px\), 200 \(1 px\).*ignored '7' '200'")):
        source = SceneSource(name="a", image=tmp_path / "a.tif", mask=write(tmp_path / "m.png", values), group="a")
        with pytest.raises(SourceError, match=expected):
            patchstore.ingest(uri, source, MaskCoding(kind=kind, classes=CLASSES))
    assert patchstore.open(uri).scenes == {}


def test_masks_that_are_not_what_was_said(tmp_path: Path) -> None:
    uri = new_store(tmp_path / "s.zarr")
    image = write(tmp_path / "a.tif", random_image((50, 60)))
    mask = random_mask((50, 60))
    cases = (("index", colours(mask), "three that are equal.*--data.mask colour"),
             ("colour", mask, "one band and no palette.*--data.mask index"),
             ("index", mask.astype(np.float32), "whole numbers"))
    for kind, pixels, expected in cases:
        source = SceneSource(name="a", image=image, mask=write(tmp_path / "m.tif", pixels), group="a")
        with pytest.raises(SourceError, match=expected):
            patchstore.ingest(uri, source, MaskCoding(kind=kind, classes=CLASSES))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be colours"):
        MaskCoding(kind="colour", classes=CLASSES, ignored=("7",))


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    write(tmp_path / "images/a.tif", random_image((50, 60)))
    write(tmp_path / "masks/a.tif", random_mask((60, 50)))
    with pytest.raises(SourceError, match=r"masks/a\.tif: is 60 x 50 .* is 50 x 60"):
        patchstore.inspect(patchstore.find_folder(tmp_path).scenes[0])
    four = SceneSource(name="b", image=write(tmp_path / "images/b.tif", random_image((50, 60), 4)), group="b")
    with pytest.raises(SourceError, match=r"b\.tif: has 4 bands of uint8, but the store .* has 3 of uint8"):
        patchstore.ingest(new_store(tmp_path / "s.zarr"), four)
    with pytest.raises(SourceError, match=r"has 4 bands of uint8, but 3 of uint16"):
        patchstore.RasterFile(four.image, bands=3, dtype="uint16")
    (tmp_path / "images/b.tif").write_bytes(b"no raster")
    with pytest.raises(SourceError, match=r"b\.tif: cannot be read as a raster"):
        patchstore.inspect(patchstore.find_folder(tmp_path, masks="").scenes[1])


def test_a_cut_image_stops_the_ingest(tmp_path: Path) -> None:
    uri = new_store(tmp_path / "s.zarr")
    for ending in ("jpg", "png", "tif"):
        for side in (300, 256):  # GDAL has another way of reading the whole of a PNG
            path = write(tmp_path / f"cut.{ending}", random_image((side, side)))
            path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
            with pytest.raises(SourceError, match=rf"cut\.{ending}: cannot be read"):
                patchstore.ingest(uri, SceneSource(name=ending, image=path, group="g"))


def test_a_palette_image_is_refused(tmp_path: Path) -> None:
    image = write(tmp_path / "a.png", random_mask((40, 50)), {i: (*c.colour, 255) for i, c in enumerate(CLASSES)})
    with pytest.raises(SourceError, match=r"a\.png: its pixels are indices of a palette.*-expand rgb"):
        patchstore.inspect(SceneSource(name="a", image=image, group="a"))


def test_a_source_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    uri = new_store(tmp_path / "s.zarr")
    for shape in ((300, 300), (150, 300)):
        source = SceneSource(name="a", image=write(tmp_path / "a.tif", random_image((300, 300))), group="a")
        steps = patchstore.steps(uri, source)
        ingest, = [step() for step in next(steps)]
        metadata = [step() for step in steps.send([ingest])]
        write(tmp_path / "a.tif", random_image(shape, seed=5))
        band, *_ = steps.send(metadata)
        with pytest.raises(SourceError, match=r"a\.tif: it, or a file that belongs to it, changed while"):
            band()
    assert patchstore.open(uri).scenes == {}


def test_a_scene_removed_while_it_is_written_does_not_appear(tmp_path: Path) -> None:
    uri = new_store(tmp_path / "s.zarr")
    source = SceneSource(name="a", image=write(tmp_path / "a.tif", random_image((300, 300))), group="a")

    def remove_before_the_end(work: Sequence[patchstore.Step]) -> list[object]:
        if "finish" in repr(work[0]):
            upkeep.remove(uri, ["a"])
        return [step() for step in work]

    with pytest.raises(StoreError, match="scene a was removed while it was written"):
        patchstore.ingest(uri, source, run=remove_before_the_end)
    assert patchstore.open(uri).scenes == {}


def test_declaring_a_value_that_a_scene_lacks_changes_nothing(tmp_path: Path) -> None:
    uri = new_store(tmp_path / "s.zarr")
    source = SceneSource(name="a", image=write(tmp_path / "a.tif", random_image((90, 80))),
                         mask=write(tmp_path / "m.tif", random_mask((90, 80))), group="a")
    patchstore.ingest(uri, source, MaskCoding(classes=CLASSES))
    for more in ({"ignored": ("9",)}, {"stray": "ignore"}):
        assert patchstore.ingest(uri, source, MaskCoding(classes=CLASSES, **more)).state == "unchanged"  # type: ignore[arg-type]


def test_damaged_attributes_are_mended_by_another_ingest(tmp_path: Path) -> None:
    uri = new_store(tmp_path / "s.zarr")
    source = SceneSource(name="a", image=write(tmp_path / "a.tif", random_image((300, 300))), group="a")
    patchstore.ingest(uri, source)
    before = content(tmp_path / "s.zarr")
    version = patchstore.open(uri).scenes["a"].version
    for place, old, new in (("a/zarr.json", b'"levels": 3', b'"levels": 2'),
                            (f"a/{version}/manifest/zarr.json", b"0/image", b"0/imagf")):
        path = tmp_path / "s.zarr" / place
        assert old in path.read_bytes()
        path.write_bytes(path.read_bytes().replace(old, new))
        assert patchstore.ingest(uri, source).state == "changed"
        assert content(tmp_path / "s.zarr") == before


def test_two_writers_of_attributes_lose_nothing(tmp_path: Path) -> None:
    uri = new_store(tmp_path / "s.zarr")
    with pytest.raises(StoreError, match="has shard 128, not 64"):
        new_store(tmp_path / "s.zarr", shard=64)
    seen: list[bytes | None] = []

    def change(found: bytes | None) -> bytes:
        if not seen:  # another is faster
            locations.Folder(uri).write("note", b"theirs")
        seen.append(found)
        return (found or b"") + b" and ours"

    locations.Folder(uri).update("note", change)
    assert seen == [None, b"theirs"]
    assert locations.Folder(uri).read(["note"]) == [b"theirs and ours"]


def test_metadata_follows_without_new_pixels(tmp_path: Path) -> None:
    uri = new_store(tmp_path / "s.zarr")
    image = write(tmp_path / "a.tif", random_image((50, 60)))
    patchstore.ingest(uri, SceneSource(name="a", image=image, group="one"))
    before = {key: value for key, value in content(tmp_path / "s.zarr").items() if key != "a/zarr.json"}
    assert patchstore.ingest(uri, SceneSource(name="a", image=image, group="two", origin=(3, 4))).state == "unchanged"
    scene = patchstore.open(uri).scenes["a"]
    assert (scene.group, scene.origin) == ("two", (3, 4))
    assert {key: value for key, value in content(tmp_path / "s.zarr").items() if key != "a/zarr.json"} == before
    write(image, random_image((50, 60), seed=9))
    assert patchstore.ingest(uri, SceneSource(name="a", image=image, group="two")).state != "unchanged"
    assert patchstore.open(uri).scenes["a"].version != scene.version


def test_fingerprint_knows_content_and_settings_but_no_path(tmp_path: Path) -> None:
    versions = []
    for folder, settings in (("one", {}), ("two", {}), ("three", {"zstd": 2})):
        image = write(tmp_path / folder / "a.tif", random_image((50, 60)))
        uri = new_store(tmp_path / folder / "s.zarr", **settings)
        patchstore.ingest(uri, SceneSource(name="a", image=image, group="a"))
        versions.append(patchstore.open(uri).scenes["a"].fingerprint)
    assert versions[0] == versions[1] != versions[2]
    assert content(tmp_path / "one/s.zarr") == content(tmp_path / "two/s.zarr")


_SCRIPT = """
import sys, pathlib, patchstore
uri, image, mask = sys.argv[1:]
source = patchstore.SceneSource(name="a", image=pathlib.Path(image), mask=pathlib.Path(mask), group="a")
patchstore.ingest(uri, source)
"""


def test_killed_at_any_moment_the_bytes_are_the_same(tmp_path: Path) -> None:
    image = write(tmp_path / "a.tif", random_image((700, 620)), nodata=0)
    mask = write(tmp_path / "m.tif", random_mask((700, 620)))
    source = SceneSource(name="a", image=image, mask=mask, group="a")
    whole, killed = new_store(tmp_path / "whole.zarr"), new_store(tmp_path / "killed.zarr")
    patchstore.ingest(whole, source)
    files = len(content(tmp_path / "whole.zarr"))
    env = os.environ | {"PYTHONPATH": str(Path(patchstore.__file__).parent.parent)}
    for share in (0.02, 0.4, 0.8):  # test_kill.py, slow, has twenty
        process = subprocess.Popen([sys.executable, "-c", _SCRIPT, killed, image, mask], env=env)
        (tmp_path / "mark").touch()
        start = (tmp_path / "mark").stat().st_mtime_ns
        while process.poll() is None and _written(tmp_path / "killed.zarr/a", start) < share * files:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert patchstore.open(killed).scenes == {}
    assert patchstore.ingest(killed, source).state != "unchanged"
    assert content(tmp_path / "killed.zarr") == content(tmp_path / "whole.zarr")


def _written(folder: Path, since_ns: int) -> int:
    """Files that this run has written, those left half-way included."""
    count = 0
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                count += os.stat(f"{base}/{name}").st_mtime_ns >= since_ns
            except FileNotFoundError:  # a lock that was given up in between
                continue
    return count


def test_a_torn_scene_is_named_and_written_again(tmp_path: Path) -> None:
    uri = new_store(tmp_path / "s.zarr")
    source = SceneSource(name="a", image=write(tmp_path / "a.tif", random_image((50, 60))), group="a")
    patchstore.ingest(uri, source)
    before = content(tmp_path / "s.zarr")
    metadata = tmp_path / "s.zarr/a/zarr.json"
    for torn in (b"", metadata.read_bytes()[:200], b'{"attributes": {"patchstore": {"name": "a"}}}'):
        metadata.write_bytes(torn)
        with pytest.raises(StoreError, match=r"scene a: .* ingest this scene again"):
            patchstore.open(uri)
        new_store(tmp_path / "s.zarr")  # the store itself is still there
        assert patchstore.ingest(uri, source).state != "unchanged"
        assert content(tmp_path / "s.zarr") == before
