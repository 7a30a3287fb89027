"""Configurations: round trip, refusals, and the command line."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swath import config as configuration
from swath.commands import command_line
from swath.config import Config, DataConfig, LossConfig, PatchesConfig, SplitConfig, TrainConfig
from swath.errors import ConfigError


@given(size=st.integers(8, 8192), scales=st.lists(st.floats(1, 16), min_size=1, max_size=4, unique=True),
       batch=st.integers(1, 512), dice=st.floats(0, 10))
def test_a_configuration_survives_json(size: int, scales: list[float], batch: int, dice: float) -> None:
    combine = "single" if len(scales) == 1 else "mixture"
    config = Config(patches=PatchesConfig(size=size, scales=tuple(scales), combine=combine),  # type: ignore[arg-type]
                    loss=LossConfig(dice=dice), train=TrainConfig(batch=batch))
    again = configuration.from_json(config.to_json())
    assert again == config
    assert again.digest() == config.digest()


@pytest.mark.parametrize(("text", "part"), [
    ('{"patches": {"sise": 3}}', "patches.sise"),
    ('{"patches": {"size": 3}}', "patches.size must be from 8 to 8192, got 3"),
    ('{"model": {"norm": "layer"}}', "model.norm"),
    ('{"patchez": {}}', "patchez"),
    ("{", "JSON"),
])
def test_wrong_json_names_the_field(text: str, part: str) -> None:
    with pytest.raises(ConfigError, match="thefile") as caught:
        configuration.from_json(text, "thefile")
    assert part in str(caught.value)


@pytest.mark.parametrize(("make", "said"), [
    (lambda: DataConfig(classes=("water",)), "each of data.classes must be written name="),
    (lambda: DataConfig(classes=("a=#000000", "a=#000001")), "data.classes must be classes with different names"),
    (lambda: DataConfig(shard=1000), "data.shard must be a multiple of data.chunk"),
    (lambda: DataConfig(adapter="obx", masks=""), "data.masks applies only to data.adapter folder"),
    (lambda: DataConfig(mask="colour", attribute="kind"), "data.mask must be polygons if data.attribute"),
    (lambda: DataConfig(mask="polygons", classes=("a=#000000",), background="b"),
     "data.background must be one of data.classes"),
    (lambda: DataConfig(mask="colour", ignored=("3",)), "data.ignored must be colours"),
    (lambda: DataConfig(mask="index", ignored=("#000000",)), "data.ignored must be whole numbers"),
    (lambda: DataConfig(mask="index", ignored=("1.5",)), "data.ignored must be whole numbers"),
    (lambda: DataConfig(mask="polygons", ignored=("",)), "data.ignored must be non-empty texts"),
    (lambda: DataConfig(merge=("a+b",)), "each of data.merge must be written"),
    (lambda: DataConfig(merge=("#FF0000=a",)), "each of data.merge must be written"),
    (lambda: SplitConfig(val=("a",), test=("b", "a")),
     "each name may appear only once in split.train, split.val and split.test"),
    (lambda: SplitConfig(val=("a", "a")), "each name may appear only once in split.train, split.val and split.test"),
    (lambda: SplitConfig(train=("a",)), "split.val and split.test must be given if split.train is"),
    (lambda: PatchesConfig(scales=(1, 2)), "patches.scales must be a single scale"),
    (lambda: PatchesConfig(scales=(0.1,)), "each of patches.scales must be from 1/8 to 64"),
    (lambda: PatchesConfig(stride=0), "patches.stride must be 1 or more"),
    (lambda: PatchesConfig(pixel_m=-1), "patches.pixel_m must be 0 or more"),
    (lambda: PatchesConfig(max_ignored=1.5), "patches.max_ignored must be from 0 to 1"),
    (lambda: PatchesConfig(min_not_lowest=-0.1), "patches.min_not_lowest must be from 0 to 1"),
    (lambda: PatchesConfig(balance=""), "patches.balance must be none, class"),
    (lambda: LossConfig(cross_entropy=0), "loss weights must be above 0"),
    (lambda: TrainConfig(batch=0), "train.batch must be 1 or more"),
    (lambda: Config(train=TrainConfig(batch=9), cluster=configuration.ClusterConfig(workers=2)),
     "train.batch must be a multiple of cluster.workers"),
])
def test_wrong_values_are_refused_at_construction(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(("mask", "ignored"), [
    ("index", ("-1", "255", "1000")), ("colour", ("#00ff7F",)), ("polygons", ("no value", "1000", "#1", "a, b"))])
def test_what_an_ingest_says_to_ignore_can_be_ignored(mask: str, ignored: tuple[str, ...]) -> None:
    read = command_line.read_configured(_Arguments, [
        "synthetic", "--data.mask", mask, "--data.ignored", *ignored], USES)
    assert read.config.data.ignored == ignored


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Arguments:
    config: Config
    json: bool = False


USES = {section: command_line.every_field(section) for section in ("data", "split", "patches")}


def test_a_recipe_is_overridden_by_the_command_line() -> None:
    read = command_line.read_configured(_Arguments, ["dubai_unet", "--patches.size", "512", "--json"], USES)
    assert read.config.patches.size == 512
    assert read.config.split.test == ("tile_1", "tile_6")
    assert read.json


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean dubai_unet"):
        command_line.read_configured(_Arguments, ["dubai_net"], USES)


def test_recipes_come_from_any_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_recipes.py").write_text(
        "from __future__ import annotations\n"
        "from swath.config import Config, PatchesConfig\n"
        "def mine() -> Config:\n    return Config(patches=PatchesConfig(size=96))\n"
        "def no_recipe() -> int:\n    return 1\n")
    monkeypatch.chdir(tmp_path)
    read = command_line.read_configured(_Arguments, ["mine", "--recipes", "my_recipes"], USES)
    assert read.config.patches.size == 96
    with pytest.raises(ConfigError, match="there are: mine"):
        command_line.read_configured(_Arguments, ["no_recipe", "--recipes", "my_recipes"], USES)


def test_published_lists_are_read_with_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("\ufeff# val\n\nimages/a.tif\n  2018-10-06_15.28.51-N.JPG  # dots\nc\n")
    (tmp_path / "test.csv").write_text('"x,1.png",6\nmasks/y.jpeg,7\n')
    read = command_line.read_configured(_Arguments, [
        "dubai_unet", "--split.val", f"@{tmp_path}/val.txt", "d",
        "--split.test", f"@{tmp_path}/test.csv"], USES)
    assert read.config.split.val == ("a", "2018-10-06_15.28.51-N", "c", "d")
    assert read.config.split.test == ("x,1", "y")


@pytest.mark.parametrize(("text", "said"), [
    ("# nothing\n\n", "has no names in it"),
    ("a\nb\nimages/a.tif\n", "line 3: a stands in line 1 already"),
    ("a\n.tif\n", "line 2: '.tif' names no scene"),
    ("tile_1\n", "repeated: tile_1"),  # the recipe has it for test
    (None, "not a readable list"),
])
def test_lists_that_cannot_be_meant(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "val.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        command_line.read_configured(_Arguments, ["dubai_unet", "--split.val", f"@{path}"], USES)
    assert said in str(caught.value)
    assert "repeated" in said or f"split.val: {path}" in str(caught.value)
