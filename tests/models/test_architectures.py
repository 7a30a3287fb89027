"""Every architecture over six families of encoders: each is built, takes a training step at its smallest size and
predicts, or is refused with a message; and the list of the refused."""

import pytest
import torch
from torch.nn import functional

from swath.config import ModelConfig, TrainConfig
from swath.errors import ConfigError
from swath.models import network
from swath.models.architectures.registry import ARCHITECTURES

ENCODERS = ("resnet18", "efficientnet-b0", "tu-mobilenetv3_small_050", "mit_b0", "tu-convnext_atto",
            "tu-vit_tiny_patch16_224")
"""A ResNet, an EfficientNet, a MobileNet, a MiT, a ConvNeXt, and a plain vision transformer."""
SIZES = (32, 64, 128)
"""Sides that are tried, in pixels: the first that is taken is the smallest of a network."""
REFUSED = {"resnet18": {"dpt": "Only Timm encoders"}, "efficientnet-b0": {"dpt": "Only Timm encoders"},
           "mit_b0": {"dpt": "Only Timm encoders", "linknet": "not supported", "unetplusplus": "not support"},
           "tu-vit_tiny_patch16_224": {arch: "Unsupported model downsampling pattern" for arch in ARCHITECTURES
                                       if arch != "dpt"}}
"""What does not go together, and why: maps of one size alone (a vision transformer's) are for DPT, which takes timm's
encoders; MiT has no map of half the size."""


def smallest(config):
    """The smallest side that is not refused, or 0; and the refusal of what is none of size."""
    for size in SIZES:
        try:
            network.check(config, size)
        except ConfigError as error:
            if not str(error).startswith("patches.size"):
                return 0, str(error)
        else:
            return size, ""
    raise AssertionError(f"{config.arch} over {config.encoder} takes none of {SIZES}")


def train(config, size, bands=4, classes=3):
    """One step on two patches of noise, then scores of one. What requires a gradient has one.

    Clipped as a run's are: a batch normalisation over two pixels has gradients of ten thousands.
    """
    torch.manual_seed(0)
    data = network.DataTraits(bands=bands, classes=classes, mean_B=[128.0] * bands, std_B=[60.0] * bands)
    net = network.build(config, data).train()
    images = torch.randint(0, 256, (2, 1, bands, size, size), dtype=torch.uint8)
    labels = torch.randint(0, classes, (2, size, size))
    optimiser = torch.optim.SGD(net.parameters(), 1e-3)
    loss = functional.cross_entropy(net(images), labels)
    loss.backward()
    assert [name for name, p in net.named_parameters() if p.requires_grad and p.grad is None] == []
    torch.nn.utils.clip_grad_norm_(net.parameters(), TrainConfig.clip)
    optimiser.step()
    with torch.no_grad():
        logits = net.eval()(images[:1])
    assert torch.isfinite(loss)
    assert logits.shape == (1, classes, size, size)
    assert torch.isfinite(logits).all()


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_architecture_trains_and_predicts_or_is_refused(encoder):
    refused = {}
    for arch in ARCHITECTURES:
        config = ModelConfig(arch=arch, encoder=encoder)
        size, refusal = smallest(config)
        if size:
            assert size == (128 if arch == "pan" else 32), arch
            train(config, size)
        else:
            refused[arch] = refusal
    expected = REFUSED.get(encoder, {})
    assert refused.keys() == expected.keys()
    for arch, reason in expected.items():
        assert refused[arch].startswith(f"model: {arch} over {encoder} cannot be built: ")
        assert reason in refused[arch]
