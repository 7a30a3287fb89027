"""How a share of a batch is cut, and that running out of memory is survived."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from patchstore import Store
from swath.config import AugmentConfig, ClusterConfig, Config, ModelConfig, PatchesConfig, TrainConfig
from swath.errors import ConfigError, TrainingError
from swath.experiments.prepare import prepare_parts
from swath.models import network
from swath.training.micro_batch import MicroBatch, fits


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 3))
def test_parts_are_all_of_the_share_and_none_is_too_small(share: int, wanted: int, least: int) -> None:
    if share < least:
        with pytest.raises(ConfigError, match=r"train\.batch"):
            MicroBatch(wanted, share=share, size=64, least=least)
        return
    micro = MicroBatch(wanted, share=share, size=64, least=least)
    while True:
        assert sum(micro.sizes) == share
        assert max(micro.sizes) == micro.most
        assert max(micro.sizes) - min(micro.sizes) <= 1
        assert min(micro.sizes) >= least
        assert micro.most <= max(wanted, 2 * least - 1)
        before = micro.most
        try:
            micro.halve()
        except TrainingError:
            assert before <= max(1, 2 * least - 1)
            return
        assert micro.most < before


@given(st.integers(1, 100), st.integers(1, 100))
def test_the_most_that_fits_is_found(share: int, room: int) -> None:
    tried = []

    def attempt(count: int) -> None:
        tried.append(count)
        if count > room:
            raise torch.OutOfMemoryError("no room")

    micro = MicroBatch("auto", share=share, size=256, least=1)
    micro.find(attempt)
    assert micro.most <= room
    assert tried[0] == share
    assert micro.most == share or 2 * micro.most + 1 > room  # the double did not fit


def test_what_never_fits_is_said() -> None:
    micro = MicroBatch("auto", share=8, size=256, least=2)

    def attempt(count: int) -> None:
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(TrainingError, match=r"does not hold 2 of these patches .* smaller patches.size"):
        micro.find(attempt)


def test_other_errors_are_no_lack_of_memory() -> None:
    def attempt() -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        fits(attempt)


@pytest.mark.parametrize(("arch", "norm", "least"), [
    ("unet", "batch", 1), ("deeplabv3plus", "batch", 2), ("deeplabv3plus", "group", 1), ("pspnet", "batch", 1)])
def test_the_least_batch_is_what_training_takes(arch: str, norm: str, least: int) -> None:
    config = ModelConfig(arch=arch, encoder="resnet18", norm=norm)  # type: ignore[arg-type]
    assert network.least_batch(config, 64) == least
    net = network.build(config, network.DataTraits(bands=3, classes=2, mean_B=[0, 0, 0], std_B=[1, 1, 1])).train()
    net(torch.zeros(least, 1, 3, 64, 64))
    if least > 1:
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            net(torch.zeros(least - 1, 1, 3, 64, 64))


def test_too_small_a_share_is_refused_before_anything_is_built(store: Store) -> None:
    config = Config(patches=PatchesConfig(size=64), model=ModelConfig(arch="deeplabv3plus", encoder="resnet18"),
                    augment=AugmentConfig(pipeline="none"), train=TrainConfig(batch=4),
                    cluster=ClusterConfig(workers=4))
    with pytest.raises(ConfigError, match=r"train\.batch: 1 for each worker, but this network is not trained on fewer"):
        prepare_parts(config, store)
