"""The space of a search: how it is written, and the configuration that follows from a point."""

from dataclasses import replace

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swath.config import ClusterConfig, Config, PatchesConfig, SearchConfig, TrainConfig
from swath.errors import ConfigError
from swath.tuning import space
from swath.tuning.space import Choice, Interval

BASE = Config(patches=PatchesConfig(size=128, stride=64), train=TrainConfig(batch=16, micro_batch=8))


def test_dimensions_are_read() -> None:
    read = space.read(["model.arch=unet|fpn", "patches.scales=1|2|1,2", "loss.dice=0..1", "train.lr=1e-4..1e-2:log",
                       "patches.size=64..256"])
    assert read.dimensions == (
        Choice(field="model.arch", values=("unet", "fpn")),
        Choice(field="patches.scales", values=("1", "2", "1,2")),
        Interval(field="loss.dice", low=0, high=1, log=False, whole=False),
        Interval(field="train.lr", low=1e-4, high=1e-2, log=True, whole=False),
        Interval(field="patches.size", low=64, high=256, log=False, whole=True))


@pytest.mark.parametrize(("text", "part"), [
    ("model.arch", "is not written FIELD=A|B|C"),
    ("model.arch=", "is not written FIELD=A|B|C"),
    ("model.arhc=unet", "model.arhc cannot be searched; these fields can: patches.size"),
    ("split.seed=0|1", "split.seed cannot be searched"),
    ("score.overlap=0|0.5", "score.overlap cannot be searched"),
    ("train.megapixels=8|16", "train.megapixels cannot be searched"),
    ("patches.size=64|big", "patches.size does not take 'big'"),
    ("loss.class_weights=sqrt|cube", "loss.class_weights does not take 'cube'"),
    ("loss.dice=1..0", "LOW must be below HIGH"),
    ("train.lr=0..1:log", "above 0 on a logarithmic scale"),
    ("train.lr=0..1:square", "LOW..HIGH or LOW..HIGH:log"),
    ("model.weights=none|w.pt", "model.weights=w.pt: give an absolute path"),
    ("patches.size=64|64", "names a choice twice"),
])
def test_a_dimension_that_is_wrong_is_named(text: str, part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        space.read([text])
    assert part in str(caught.value)


def test_a_field_stands_once_and_something_is_searched() -> None:
    with pytest.raises(ConfigError, match=r"loss\.dice given twice"):
        space.read(["loss.dice=0|1", "loss.dice=0..1"])
    with pytest.raises(ConfigError, match="nothing is searched"):
        space.read([])


def test_a_stride_as_the_size_stays_so_and_can_be_searched() -> None:
    base = replace(BASE, patches=PatchesConfig(size=128))
    assert space.place(base, {"patches.size": "256"}).patches.stride is None
    assert space.read(["patches.stride=16..128:log"]).dimensions == (
        Interval(field="patches.stride", low=16, high=128, log=True, whole=True),)
    with pytest.raises(ConfigError, match=r"patches.stride must be 1 or more, or None .*, got 0"):
        space.place(base, {"patches.stride": "0"})


@pytest.mark.parametrize(("size", "batch", "micro_batch", "stride"), [
    (64, 64, 32, 32), (8, 4096, 2048, 4), (128, 16, 8, 64), (256, 4, 2, 128), (1024, 1, 1, 512), (96, 28, 14, 48)])
def test_the_batch_is_constant_in_pixels(size: int, batch: int, micro_batch: int, stride: int) -> None:
    config = space.place(BASE, {"patches.size": str(size)})
    assert (config.train.batch, config.train.micro_batch, config.patches.stride) == (batch, micro_batch, stride)


@given(st.integers(8, 2048), st.integers(1, 8), st.integers(1, 64))
def test_the_batch_is_as_near_as_whole_patches_allow(size: int, workers: int, share: int) -> None:
    base = replace(BASE, train=replace(BASE.train, batch=workers * share), cluster=ClusterConfig(workers=workers))
    batch = space.place(base, {"patches.size": size}).train.batch
    assert batch % workers == 0
    assert batch >= workers
    exact = workers * share * 128**2 / size**2
    assert batch == workers or abs(batch - exact) <= workers / 2 + 1e-9


def test_what_a_point_names_is_left_alone() -> None:
    config = space.place(BASE, {"patches.size": "256", "train.batch": "3", "patches.stride": 7})
    assert (config.train.batch, config.patches.stride) == (3, 7)


def test_several_scales_are_a_mixture_and_one_is_single() -> None:
    mixed = space.place(BASE, {"patches.scales": "1,2"})
    assert (mixed.patches.scales, mixed.patches.combine) == ((1.0, 2.0), "mixture")
    assert space.place(mixed, {"patches.scales": "4"}).patches == replace(BASE.patches, scales=(4.0,))


def test_the_default_space_proposes_configurations() -> None:
    whole = space.read(SearchConfig().space)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    points = [whole.propose(study.ask()) for _ in range(200)]
    configs = [space.place(Config(), point) for point in points]
    assert {c.patches.size for c in configs} == {128, 256, 512}
    assert len({c.patches.scales for c in configs}) == 4
    assert len({c.model.arch for c in configs}) == 3
    assert len({c.model.encoder for c in configs}) > 2
    assert len({c.loss.dice for c in configs}) > 100
    assert {round(c.train.batch * c.patches.size**2 / 1e6, 6) for c in configs} == {1.048576}
    assert {d.field for d in whole.dimensions} >= {"model.arch", "model.encoder", "loss.dice", "patches.size",
                                                   "patches.scales"}


def test_a_base_is_found_in_the_space_as_far_as_that_holds_it() -> None:
    read = space.read(["model.arch=fpn|unet", "patches.scales=2|1,2|1", "loss.dice=0..1", "train.lr=1e-4..5e-4",
                       "patches.size=64|256", "train.warmup=0|0.05"])
    assert read.origin(BASE) == {"model.arch": "unet", "patches.scales": "1", "loss.dice": 0.0, "train.warmup": "0.05"}
    assert space.place(BASE, read.origin(BASE)) == BASE


def test_every_dimension_is_tried_beforehand() -> None:
    tried = space.read(["patches.size=64|256", "loss.dice=0..1"]).configurations(BASE)
    assert [(c.patches.size, c.loss.dice) for c in tried] == [(64, 0), (256, 0), (128, 0), (128, 1)]
    losses = space.read(["loss.cross_entropy=0..1", "loss.dice=0.1..1", "patches.background=|water"])
    assert len(losses.configurations(BASE)) == 6  # without the cross-entropy only with the dice
    with pytest.raises(ConfigError, match=r"search\.space: patches\.size=4: patches\.size must be from 8 to 8192"):
        space.read(["patches.size=4|64"]).configurations(BASE)
