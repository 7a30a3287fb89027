"""Ingest of a folder with patchstore alone: settings that are refused, a runner, a preview, an adapter of one's own."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import patchstore
from patchstore import Found, SceneReport, SceneTask, SettingError, SourceError

CLASSES = {"field": "#C8B46E", "building": "#D2322D", "woodland": "#23692D", "water": "#2D6EBE", "road": "#5A5A5A"}


@pytest.mark.parametrize(("settings", "said"), [
    ({}, "classes is empty, and the adapter folder has none of its own"),
    ({"classes": {"road": "grey"}}, "classes: a colour must be written #RRGGBB, got 'grey'"),
    ({"classes": CLASSES, "chunk": 65}, "chunk must be a multiple of 64, got 65"),
    ({"classes": CLASSES, "background": "field"}, "attribute and background are for masks of kind polygons"),
    ({"classes": CLASSES, "adapter": "foldr"}, "adapter must be one of .*; did you mean 'folder'"),
])
def test_a_wrong_setting_is_named_first(dataset: Path, tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=f"^{said}"):
        patchstore.ingest_folder(tmp_path / "s.zarr", dataset, **settings)
    assert not (tmp_path / "s.zarr").exists()


def test_a_runner_decides_where_scenes_are_written(dataset: Path, tmp_path: Path) -> None:
    def backwards(tasks: Sequence[SceneTask]) -> Iterator[SceneReport | str]:
        yield "g0_s0: the machine is gone"
        yield from patchstore.one_by_one(tasks[:0:-1])

    report = patchstore.ingest_folder(tmp_path / "s.zarr", dataset, classes=CLASSES, run=backwards)
    assert (report.scenes, report.rejected) == (5, ("g0_s0: the machine is gone",))
    with pytest.raises(SourceError, match="1 files or scenes were refused"):
        report.check()


def test_a_preview_writes_nothing(dataset: Path, tmp_path: Path) -> None:
    preview = patchstore.survey_folder(tmp_path / "s.zarr", dataset, classes=CLASSES).preview()
    assert (preview.states, preview.estimate.pixels, preview.rejected) == ({"new": 6}, 6 * 320 * 320, ())
    assert not (tmp_path / "s.zarr").exists()


def test_an_adapter_of_ones_own_finds_the_scenes(dataset: Path, tmp_path: Path) -> None:
    def images_alone(folder: Path, *, ending: str) -> Found:
        paths = sorted(folder.glob(f"images/*.{ending}"))
        return Found(rejected=(), scenes=tuple(
            patchstore.SceneSource(name=path.stem, image=path, group=path.stem) for path in paths))

    report = patchstore.ingest_folder(tmp_path / "s.zarr", dataset, adapter=images_alone, ending="tif")
    assert (report.scenes, report.class_pixels) == (6, {})
