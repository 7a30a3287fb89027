"""Our own network: shapes, gradients, what each part adds, export, and that without them it is the plain U-Net."""

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from swath.config import ModelConfig
from swath.models import network
from swath.models.architectures.aspp_unet import Aspp, Gate


def build(encoder="resnet18", bands=3, seed=0, **parts):
    torch.manual_seed(seed)
    data = network.DataTraits(bands=bands, classes=4, mean_B=[100] * bands, std_B=[50] * bands)
    return network.build(ModelConfig(arch="aspp_unet", encoder=encoder, **parts), data)


@pytest.mark.parametrize("encoder", ["resnet18", "mit_b0", "vgg11", "tu-mobilenetv3_small_050", "tu-convnext_atto"])
def test_scores_have_the_patch_size_and_weights_have_gradients(encoder):
    net = build(encoder, bands=5)
    logits = net(torch.randint(0, 256, (2, 1, 5, 64, 96), dtype=torch.uint8))
    assert logits.shape == (2, 4, 64, 96)
    logits.square().mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    assert all(gate.weight.weight.grad.abs().sum() > 0 for gate in net.modules() if isinstance(gate, Gate))


def test_without_its_parts_it_is_the_plain_unet():
    ours = build(aspp=False, attention=False).eval().net
    plain = smp.Unet("resnet18", encoder_weights=None, classes=4).eval()
    theirs = plain.state_dict()
    assert [x.shape for x in ours.state_dict().values()] == [x.shape for x in theirs.values()]
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.values(), strict=True)))
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(x), plain(x))


@pytest.mark.parametrize(("aspp", "attention"), [(True, False), (False, True), (True, True)])
def test_each_part_is_there_when_it_is_asked_for(aspp, attention):
    net = build(aspp=aspp, attention=attention)
    assert any(isinstance(module, Aspp) for module in net.modules()) == aspp
    assert sum(isinstance(module, Gate) for module in net.modules()) == (4 if attention else 0)


def test_a_gate_that_is_shut_lets_nothing_of_its_skip_pass():
    gate, skip, below = Gate(8, 16), torch.randn(2, 8, 12, 20), torch.randn(2, 16, 6, 10)
    nn.init.zeros_(gate.weight.weight)
    for bias, share in ((-1e4, 0.0), (1e4, 1.0)):
        nn.init.constant_(gate.weight.bias, bias)
        torch.testing.assert_close(gate(skip, below), share * skip)


def test_the_bottleneck_sees_the_whole_map():
    """A change in one corner reaches the other by the pooled branch alone: its convolutions reach 9 pixels."""
    torch.manual_seed(0)
    module, x = Aspp(4, 8).eval(), torch.randn(1, 4, 16, 16)
    other = x.clone()
    other[..., 0, 0] += 10
    with torch.no_grad():
        assert not torch.equal(module(x)[..., -1, -1], module(other)[..., -1, -1])
        nn.init.zeros_(module.whole[1].weight)
        assert torch.equal(module(x)[..., -1, -1], module(other)[..., -1, -1])


def test_it_trains_on_a_single_sample():
    net = build().train()
    net(torch.randint(0, 256, (1, 1, 3, 64, 64), dtype=torch.uint8)).sum().backward()
    gradients = [weight.grad for weight in net.parameters() if weight.requires_grad]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("encoder", ["resnet18", "tu-mobilenetv3_small_050"])
def test_it_can_be_exported(encoder):
    """By torch.export, from pixels to scores, padding included."""
    net = build(encoder).eval()
    images = torch.randint(0, 256, (2, 1, 3, 70, 64), dtype=torch.uint8)
    with torch.no_grad():
        exported = torch.export.export(net, (images,)).module()
        other = torch.randint(0, 256, (2, 1, 3, 70, 64), dtype=torch.uint8)
        torch.testing.assert_close(exported(other), net(other))
