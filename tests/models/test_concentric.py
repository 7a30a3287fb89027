"""Several scales of one place: where a coarser map's centre lies, how scales are weighed, and what they cost."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from swath.config import ModelConfig, PatchesConfig
from swath.errors import ConfigError
from swath.models import network
from swath.models.architectures.concentric import FEATURES, ScaleAttention, centre

SMALL = ModelConfig(arch="unet", encoder="tu-mobilenetv3_small_050", norm="group")


def build(config=SMALL, scales=(1, 4), classes=3, bands=1, **settings):
    torch.manual_seed(0)
    settings = {"combine": "concentric", "scales": scales} | settings
    data = network.DataTraits(bands=bands, classes=classes, mean_B=[0.0] * bands, std_B=[1.0] * bands)
    return network.build(config, data, **settings)


@given(side=st.integers(8, 40), other=st.integers(8, 40), ratio=st.floats(1.0, 8.0))
def test_a_pixel_of_the_centre_is_at_its_place_on_the_ground(side, other, ratio):
    """A map that holds its own coordinates, from the centre, in its own pixels, gives those of the finest pixels."""
    rows, cols = (torch.arange(n) + 0.5 - n / 2 for n in (side, other))
    place = torch.stack(torch.meshgrid(rows, cols, indexing="ij"))[None]
    seen = centre(place, 1 / ratio)
    # Past the centre of a map's last pixel there is nothing to interpolate: it holds there.
    expected = place / ratio
    expected = torch.stack([expected[:, 0].clamp(rows[0], rows[-1]), expected[:, 1].clamp(cols[0], cols[-1])], 1)
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-4)


def test_the_centre_of_a_whole_share_is_the_crop_enlarged():
    maps = torch.randn(2, 3, 32, 32)
    enlarged = functional.interpolate(maps[..., 12:20, 12:20], scale_factor=4, mode="bilinear")
    torch.testing.assert_close(centre(maps, 1 / 4)[..., 2:-2, 2:-2], enlarged[..., 2:-2, 2:-2])
    assert centre(maps, 1) is maps


def test_weights_begin_equal_and_then_say_whose_scores_count():
    torch.manual_seed(0)
    fusion, maps = ScaleAttention((1, 2, 4), classes=5), torch.randn(2, 3, 5 + FEATURES, 16, 16)
    aligned = torch.stack([maps[:, 0, :5], centre(maps[:, 1, :5], 0.5), centre(maps[:, 2, :5], 0.25)], 1)
    torch.testing.assert_close(fusion(maps), aligned.mean(1))
    with torch.no_grad():
        fusion.weigh[-1].bias[1] = 100
    torch.testing.assert_close(fusion(maps), aligned[:, 1])


@pytest.mark.parametrize(("arch", "encoder"), [
    ("deeplabv3plus", "resnet18"), ("segformer", "mit_b0"), ("aspp_unet", "tu-convnext_atto"), ("dpt", "tu-test_vit")])
def test_any_network_sees_several_scales(arch, encoder):
    net = build(ModelConfig(arch=arch, encoder=encoder), scales=(0.5, 1, 3), bands=4)
    logits = net(torch.randint(0, 256, (2, 3, 4, 70, 64), dtype=torch.uint8))
    assert logits.shape == (2, 3, 70, 64)
    assert logits.dtype == torch.float32
    logits.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters() if p.requires_grad)
    with pytest.raises(ValueError, match=r"\(N, 3, B, H, W\), got \(2, 2, 4, 64, 64\)"):
        net(torch.zeros(2, 2, 4, 64, 64))


def test_bf16_gives_the_scores_of_fp32():
    net, images = build().eval(), torch.randn(2, 2, 1, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = net(images)
    with torch.no_grad():
        whole = net(images)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, whole, rtol=0.1, atol=0.05 * float(whole.abs().max()))


def test_it_can_be_exported():
    net, images = build().eval(), torch.randn(2, 2, 1, 64, 64)
    with torch.no_grad():
        exported = torch.export.export(net, (images,)).module()
        torch.testing.assert_close(exported(images * 2), net(images * 2))


def test_cost_is_that_of_all_scales():
    one, two = (network.cost(build(scales=scales, combine=combine), 64, 1)
                for scales, combine in (((1,), "single"), ((1, 4), "concentric")))
    fusion = 2 * FEATURES * 9 * 16 + 16 * 2
    head = 2 * 16 * 9 * FEATURES
    assert two.gmacs_per_mpx == pytest.approx(2 * one.gmacs_per_mpx + (fusion + head) / 1e3)


def test_scales_go_from_fine_to_coarse():
    assert PatchesConfig(scales=(0.5, 1.0, 4.0), combine="concentric").scales == (0.5, 1.0, 4.0)
    for scales in ((1.0,), (4.0, 1.0)):
        with pytest.raises(ConfigError, match=r"patches\.scales must be two or more, from fine to coarse"):
            PatchesConfig(scales=scales, combine="concentric")
