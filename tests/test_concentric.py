"""Several scales of one place: where a coarser map's centre lies, how scales are weighed, and that context is used."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from swath import models
from swath.concentric import FEATURES, ScaleAttention, centre
from swath.config import ModelConfig, PatchesConfig
from swath.errors import ConfigError

SMALL = ModelConfig(arch="unet", encoder="tu-mobilenetv3_small_050", norm="group")


def build(config=SMALL, scales=(1, 4), classes=3, bands=1, **settings):
    torch.manual_seed(0)
    settings = {"combine": "concentric", "scales": scales} | settings
    return models.build(config, bands=bands, classes=classes, mean_B=[0.0] * bands, std_B=[1.0] * bands, **settings)


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
    one, two = (models.cost(build(scales=scales, combine=combine), 64, 1)
                for scales, combine in (((1,), "single"), ((1, 4), "concentric")))
    fusion = 2 * FEATURES * 9 * 16 + 16 * 2
    head = 2 * 16 * 9 * FEATURES
    assert two.gmacs_per_mpx == pytest.approx(2 * one.gmacs_per_mpx + (fusion + head) / 1e3)


def test_scales_go_from_fine_to_coarse():
    assert PatchesConfig(scales=(0.5, 1.0, 4.0), combine="concentric").scales == (0.5, 1.0, 4.0)
    for scales in ((1.0,), (4.0, 1.0)):
        with pytest.raises(ConfigError, match=r"patches\.scales must be two or more, from fine to coarse"):
            PatchesConfig(scales=scales, combine="concentric")


def strokes(count, generator, size=32):
    """Images (N, 2, 1, size, size) of one ground at scales 1 and 4, and labels (N, size, size).

    The finest patch shows thin strokes over noise. Whether they are of class 1 or 2 is told by the ground around alone:
    it is bright or dark beyond the patch. Only there: within, both classes are drawn alike.
    """
    inner = slice(size * 3 // 8, size * 5 // 8)
    images, labels = np.zeros((count, 2, 1, size, size), "float32"), np.zeros((count, size, size), "int64")
    for image, label in zip(images, labels, strict=True):
        kind = generator.integers(1, 3)
        label[generator.choice(size, 5, replace=False)] = kind
        label[:] = label.T if generator.random() < 0.5 else label
        image[0, 0] = generator.normal(0, 0.5, (size, size)) + 3 * (label > 0)
        image[1, 0] = generator.normal(0, 0.5 / 4, (size, size)) + (2 if kind == 1 else -2)
        image[1, 0, inner, inner] = image[0, 0].reshape(size // 4, 4, size // 4, 4).mean((1, 3))
    return torch.from_numpy(images), torch.from_numpy(labels)


def score(scales, steps=120, batch=8):
    """Mean IoU over the three classes, and accuracy on the strokes, of a network trained on `scales` (0: 1, 1: 4)."""
    combine = "concentric" if len(scales) > 1 else "single"
    net = build(scales=(1, 4)[:len(scales)], combine=combine).train()
    optimiser = torch.optim.AdamW(net.parameters(), 3e-3)
    generator = np.random.default_rng(0)
    for _ in range(steps):
        images, labels = strokes(batch, generator)
        loss = functional.cross_entropy(net(images[:, scales]), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    images, labels = strokes(200, np.random.default_rng(1))
    with torch.no_grad():
        found = net.eval()(images[:, scales]).argmax(1)
    both = [(((found == k) & (labels == k)).sum(), ((found == k) | (labels == k)).sum()) for k in range(3)]
    stroke = labels > 0
    return float(sum(i / u for i, u in both) / 3), float((found == labels)[stroke].float().mean())


@pytest.mark.slow
def test_what_only_the_ground_around_tells_is_learned_from_several_scales_alone():
    """The positive control: detail from one scale and context from the other, at one and the same time."""
    fine, coarse, both = (score(scales) for scales in ([0], [1], [0, 1]))
    print(f"mean IoU, accuracy on strokes: single at 1 {fine}, single at 4 {coarse}, concentric {both}")
    assert abs(fine[1] - 0.5) < 0.1
    assert both[1] > 0.9
    assert both[0] > max(fine[0], coarse[0]) + 0.3
