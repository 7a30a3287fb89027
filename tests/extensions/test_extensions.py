"""Dotted paths: what they resolve to, in which places, and the messages where they cannot."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from swath import extensions
from swath.config import AugmentConfig, Config, LossConfig, ModelConfig
from swath.errors import CheckpointError, ConfigError
from swath.loading.augment import Augment
from swath.models import checkpoint, network, transfer
from swath.models.checkpoint import ModelCard
from swath.models.network import DataTraits
from swath.models.run_state import RunState
from swath.training.losses import Loss
from swath.training.state import optimiser
from swath.tuning import space

MODULE = '''
import torch
from torch import nn

NUMBER = 3

class Plain(nn.Module):
    """No encoder, batch normalisation, sides of 16."""
    stride = 16
    def __init__(self, bands, classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(bands, classes, 3, padding=1), nn.BatchNorm2d(classes))
        self.unused = nn.Linear(2, 2)
    def forward(self, x):
        assert x.shape[2] % 16 == 0
        return self.layers(x)

class Coarse(Plain):
    def forward(self, x):
        return super().forward(x)[..., ::2, ::2]

def needs_more(bands, classes, depth):
    return Plain(bands, classes)

def no_module(bands, classes):
    return 1

def mean_of_all(logits, labels, ignore):
    return logits.mean()

def shrink(size, rgb):
    import albumentations as A
    return A.Resize(size // 2, size // 2)
'''
TRAITS = DataTraits(bands=4, classes=3, mean_B=[1.0] * 4, std_B=[2.0] * 4)
CARD = ModelCard(store="", fingerprint="", bands=4, dtype="uint8", classes=("a", "b", "c"), ignore=255,
            colours=((0, 0, 0), (1, 1, 1), (2, 2, 2)))


@pytest.fixture(autouse=True)
def own_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """A module `own_parts` in the working directory."""
    (tmp_path / "own_parts.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield
    sys.modules.pop("own_parts", None)


@pytest.mark.parametrize(("path", "said"), [
    ("own_parts:Plane", "own_parts.py) has no 'Plane'; the nearest name is Plain"),
    ("own_parts:NUMBER", "of type int, which cannot be called"),
    ("no_parts.nets:Plain", "cannot import no_parts.nets: No module named 'no_parts'; install it, or put its folder on "
                            "PYTHONPATH"),
    ("own_parts:", "is not written MODULE:NAME"),
    ("..own_parts:Plain", "is no name of a module"),
    ("broken:Plain", "invalid syntax (broken.py, line 1)"),
])
def test_what_cannot_be_resolved_is_one_clear_line(path: str, said: str) -> None:
    Path("broken.py").write_text("class :\n")
    with pytest.raises(ConfigError) as caught:
        extensions.resolve(path, "model.arch")
    assert str(caught.value).startswith("model.arch: ")
    assert path in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_error_of_the_module_itself_is_raised_as_it_is() -> None:
    Path("failing.py").write_text("1 / 0\n")
    before = list(sys.path)
    with pytest.raises(ZeroDivisionError):
        extensions.resolve("failing:Plain", "model.arch")
    assert sys.path == before


def test_a_network_without_encoder() -> None:
    config = ModelConfig(arch="own_parts:Plain")
    network.check(config, 50)
    assert network.least_batch(config, 64) == 1
    net = network.build(config, TRAITS)
    assert net.stride == 16
    assert net(torch.zeros(2, 1, 4, 50, 33)).shape == (2, 3, 50, 33)
    assert not net.net.unused.weight.requires_grad
    assert network.cost(net, 64, 4).parameters > 0
    train = Config().train
    assert sum(len(group["params"]) for group in optimiser(train, net).param_groups) == 4
    for use in (lambda: net.freeze(True), lambda: optimiser(replace(train, encoder_lr=0.1), net)):
        with pytest.raises(ConfigError, match=r"train\.freeze, train\.encoder_lr: Plain, .* no attribute `encoder`"):
            use()
    without = network.build(replace(config, norm="group"), TRAITS)
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in without.modules())


def test_a_rehearsal_draws_no_random_numbers() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    network.check(ModelConfig(arch="own_parts:Plain"), 64)
    network.least_batch(ModelConfig(arch="own_parts:Plain"), 96)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("settings", "said"), [
    ({"arch": "own_parts:Coarse"}, "must return scores of shape"),
    ({"arch": "own_parts:needs_more"}, "keyword arguments bands and classes, and need no other"),
    ({"arch": "own_parts:no_module"}, "must return a torch.nn.Module, got int"),
    ({"arch": "own_parts:Plain", "weights": "imagenet"}, "model.weights: imagenet is for a known encoder"),
    ({"arch": "unett"}, "the nearest name is unet; there are"),
])
def test_a_network_that_cannot_serve_is_refused(settings: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        network.check(ModelConfig(**settings), 64)  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_weights_of_another_run_need_the_same_classes(tmp_path: Path) -> None:
    config = Config(model=ModelConfig(arch="own_parts:Plain"))
    folder = tmp_path / "saved"
    folder.mkdir()
    checkpoint.save(folder, RunState(net=network.build(config.model, TRAITS).state_dict()), config, CARD)
    follower = replace(config, model=replace(config.model, init_from=str(folder)))
    net = network.build(config.model, TRAITS)
    transfer.begin(net, follower, CARD)
    assert torch.equal(net.net.layers[0].weight, checkpoint.load(folder).state.net["net.layers.0.weight"])
    with pytest.raises(CheckpointError, match="has other classes"):
        transfer.begin(net, follower, replace(CARD, classes=("a", "c", "b")))


def test_a_loss_that_is_not_of_each_sample_is_refused() -> None:
    loss = Loss(LossConfig(custom="own_parts:mean_of_all"), 3, 255)
    logits, labels = torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.uint8)
    with pytest.raises(ConfigError, match=r"loss\.custom: own_parts:mean_of_all must .* shape \(2,\), got shape"):
        loss(logits, labels, loss.totals(labels))
    assert LossConfig(cross_entropy=0, custom="own_parts:mean_of_all").terms == {"own_parts:mean_of_all": 1.0}
    with pytest.raises(ConfigError, match="loss weights must be above 0"):
        LossConfig(cross_entropy=0, custom="own_parts:mean_of_all", custom_weight=0)


def test_an_augmentation_keeps_the_size_or_is_refused() -> None:
    augment = Augment(AugmentConfig(pipeline="own_parts:shrink"), size=32, bands=3, dtype=np.dtype("uint8"))
    with pytest.raises(ConfigError, match=r"augment\.pipeline own_parts:shrink: it must keep size and type"):
        augment(np.zeros((3, 32, 32), np.uint8), np.zeros((32, 32), np.uint8), 1)
    with pytest.raises(ConfigError, match="there is no 'ariel'; the nearest name is aerial"):
        Augment(AugmentConfig(pipeline="ariel"), size=32, bands=3, dtype=np.dtype("uint8"))


def test_a_search_space_takes_dotted_paths() -> None:
    read = space.read(["model.arch=unet|own_parts:Plain", "loss.custom=|own_parts:mean_of_all",
                       "loss.custom_weight=0.1..1:log", "augment.pipeline=own_parts:shrink|none"])
    assert [dimension.ends() for dimension in read.dimensions] == [
        ("unet", "own_parts:Plain"), ("", "own_parts:mean_of_all"), (0.1, 1.0), ("own_parts:shrink", "none")]
    placed = space.place(Config(), {"model.arch": "own_parts:Plain", "loss.custom": "own_parts:mean_of_all"})
    assert (placed.model.arch, placed.loss.custom) == ("own_parts:Plain", "own_parts:mean_of_all")


@pytest.mark.timeout(200)
def test_a_ray_worker_finds_a_module_on_the_path_of_python(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "own_elsewhere.py").write_text("def of_mine() -> int:\n    return 7\n")
    code = ("import ray\n"
            "from swath import extensions\n"
            "from swath.distributed.connection import connected\n"
            "with connected(cpus=1):\n"
            "    task = ray.remote(num_cpus=1)(lambda: extensions.resolve('own_elsewhere:of_mine', 'model.arch')())\n"
            "    print('got', ray.get(task.remote()))\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=180)
    assert "got 7" in found.stdout, found.stderr
