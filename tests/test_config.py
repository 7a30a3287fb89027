"""Configurations: round trip, refusals, and the command line."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swath import cli
from swath import config as configuration
from swath.config import Config, DataConfig, LossConfig, PatchesConfig, TrainConfig
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


@pytest.mark.parametrize("make", [
    lambda: DataConfig(classes=("water",)),
    lambda: DataConfig(classes=("a=#000000", "a=#000001")),
    lambda: DataConfig(shard=1000),
    lambda: PatchesConfig(scales=(1, 2)),
    lambda: PatchesConfig(scales=(0.5,)),
    lambda: LossConfig(cross_entropy=0),
    lambda: TrainConfig(batch=0),
    lambda: Config(train=TrainConfig(batch=9), cluster=configuration.ClusterConfig(workers=2)),
])
def test_wrong_values_are_refused_at_construction(make: object) -> None:
    with pytest.raises(ConfigError, match="must be"):
        make()  # type: ignore[operator]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Arguments:
    config: Config
    json: bool = False


def test_a_recipe_is_overridden_by_the_command_line() -> None:
    read = cli.read_configured(lambda c: _Arguments(config=c), ["dubai", "--config.patches.size", "512", "--json"])
    assert read.config.patches.size == 512
    assert read.config.split.test == ("tile_1", "tile_6")
    assert read.json


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean dubai"):
        cli.read_configured(lambda c: _Arguments(config=c), ["dubay"])


def test_recipes_come_from_any_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_recipes.py").write_text(
        "from __future__ import annotations\n"
        "from swath.config import Config, PatchesConfig\n"
        "def mine() -> Config:\n    return Config(patches=PatchesConfig(size=96))\n"
        "def no_recipe() -> int:\n    return 1\n")
    monkeypatch.chdir(tmp_path)
    read = cli.read_configured(lambda c: _Arguments(config=c), ["mine", "--recipes", "my_recipes"])
    assert read.config.patches.size == 96
    with pytest.raises(ConfigError, match="there are: mine"):
        cli.read_configured(lambda c: _Arguments(config=c), ["no_recipe", "--recipes", "my_recipes"])
