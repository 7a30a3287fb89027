"""The public interface of patchstore: what it exports, and the lines that a notebook begins with."""

import pickle
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest

import patchstore
from patchstore import Store


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from patchstore.testing import make_dataset

    folder = tmp_path_factory.mktemp("photos")
    make_dataset(folder, scenes=2, size=1100, seed=3)
    return folder


@pytest.fixture(scope="module")
def uri(source: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    from patchstore.testing import CLASSES

    uri = str(tmp_path_factory.mktemp("stores") / "mine.zarr")
    report = patchstore.ingest_folder(uri, source, classes=dict(text.split("=") for text in CLASSES))
    assert (report.scenes, report.states, report.rejected) == (2, {"new": 2}, ())
    return uri


def test_the_lines_that_a_notebook_begins_with(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    store = patchstore.open(uri)
    axes = store.plot("g0_s0", level=3)
    images, labels = store.read([patchstore.Window("g0_s0", 0, 0, 1024)], 256)
    image = store.region("g0_s0", "image", (0, 512), (0, 512))
    dataset = store.xarray("g0_s0", level=0)
    audits, entries = patchstore.audit(store.uri), patchstore.versions(store.uri)
    assert patchstore.collect(store.uri) == []
    patchstore.export(store, "g0_s0", "window.tif", rows=(0, 512))

    assert (images.shape, labels.shape, image.shape) == ((1, 3, 256, 256), (1, 256, 256), (3, 512, 512))
    assert np.array_equal(dataset["image"][:, :512, :512], image)
    assert not any(audit.problems for audit in audits)
    assert [entry.name for entry in entries] == ["g0_s0", "g1_s0"]
    assert Path("window.tif").is_file()
    legend = axes.get_legend()
    assert legend is not None
    assert {text.get_text() for text in legend.get_texts()} <= {info.name for info in store.classes}
    assert len(axes.get_images()) == 2


def test_a_store_shows_what_is_in_it(uri: str) -> None:
    assert repr(patchstore.open(uri)).splitlines() == [
        f"Store({uri!r})", "  scenes   2 (g0_s0, g1_s0), groups 2", "  bands    3 of uint8",
        "  classes  field, building, woodland, water, road", "  levels   5"]


def test_a_scene_that_is_not_there_is_refused_by_each_view(uri: str) -> None:
    store = patchstore.open(uri)
    for view in (store.plot, store.xarray):
        with pytest.raises(ValueError, match="has no scene 'north'"):
            view("north")
        with pytest.raises(ValueError, match="has levels 0 … 4, got 9"):
            view("g0_s0", 9)


def test_without_xarray_the_extra_is_named(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ImportError, match=r"swath\[xarray\]"):
        patchstore.open(uri).xarray("g0_s0")


def test_merged_classes_are_refused_by_xarray(uri: str) -> None:
    store = patchstore.open(uri, merge=["land=field+woodland"])
    with pytest.raises(ValueError, match="open it without merge"):
        store.xarray("g0_s0")


def test_a_scene_stays_plain_data(uri: str) -> None:
    scene = patchstore.open(uri).scenes["g0_s0"]
    assert pickle.loads(pickle.dumps(scene)) == scene  # noqa: S301
    assert isinstance(pickle.loads(pickle.dumps(patchstore.open(uri))), Store)  # noqa: S301


def test_exported_names_are_those_of_the_module() -> None:
    public = {name for name, value in vars(patchstore).items()
              if not name.startswith("_") and not isinstance(value, type(sys))}
    assert public - {"TYPE_CHECKING", "Any", "version"} <= set(patchstore.__all__)
    assert all(getattr(patchstore, name) is not None for name in patchstore.__all__)
    assert set(dir(patchstore)) == set(patchstore.__all__)
    assert Path(patchstore.__file__).with_name("py.typed").is_file()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        patchstore.nothing  # noqa: B018


def test_reading_patches_loads_no_reader_of_files() -> None:
    code = ("import sys, patchstore; "
            "print([name for name in ('rasterio', 'pyogrio', 'matplotlib', 'xarray') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
