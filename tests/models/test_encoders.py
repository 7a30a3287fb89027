"""Weights of encoders: by name, with the pixels that they were trained on, and from timm's own files."""

from dataclasses import replace

import pytest
import safetensors.torch
import timm
import torch

from swath.config import ModelConfig
from swath.errors import ConfigError
from swath.models import encoders, network

SATELLITE = ModelConfig(arch="dpt", encoder="tu-vit_large_patch16_dinov3", weights="sat493m")
VIT = ModelConfig(arch="dpt", encoder="tu-test_vit")
CONVNEXT = ModelConfig(arch="unet", encoder="tu-convnext_atto")


def build(config, bands=3, seed=0, **settings):
    torch.manual_seed(seed)
    data = network.DataTraits(bands=bands, classes=4, mean_B=[100.0] * bands, std_B=[50.0] * bands, **settings)
    return network.build(config, data)


def whole(name, seed=1):
    """timm's own network, classifier and all, as its files hold it."""
    torch.manual_seed(seed)
    return timm.create_model(name)


def test_names_of_weights():
    assert encoders.weights("resnet18") == ("imagenet", "ssl", "swsl")
    assert set(encoders.weights("tu-vit_large_patch16_dinov3")) == {"imagenet", "lvd1689m", "sat493m"}
    assert encoders.weights("tu-vit_large_patch16_dinov3.sat493m") == ("imagenet", "sat493m")
    for config in (SATELLITE, ModelConfig(weights="swsl"), replace(SATELLITE, encoder=SATELLITE.encoder + ".sat493m")):
        network.check(config)


@pytest.mark.parametrize(("encoder", "weights", "names"), [
    ("resnet18", "noisy-student", "has imagenet, ssl, swsl"),
    ("tu-vit_large_patch16_dinov3", "sat", "has imagenet, lvd1689m, sat493m"),
    ("tu-vit_large_patch16_dinov3.lvd1689m", "sat493m", "has imagenet, lvd1689m")])
def test_weights_that_an_encoder_does_not_have_are_named(encoder, weights, names):
    with pytest.raises(ConfigError, match=rf"model\.weights: {weights} is no file, .*{names}"):
        network.check(ModelConfig(encoder=encoder, weights=weights))


def test_satellite_weights_bring_their_own_statistics():
    """Of Meta's model card of DINOv3 for satellite imagery."""
    for config in (SATELLITE, replace(SATELLITE, encoder=SATELLITE.encoder + ".sat493m", weights="a file")):
        mean_B, std_B = encoders.statistics(config)
        assert mean_B / 255 == pytest.approx([0.430, 0.411, 0.296])
        assert std_B / 255 == pytest.approx([0.213, 0.156, 0.143])
    assert encoders.statistics(replace(SATELLITE, weights="none")) is None
    assert encoders.statistics(replace(SATELLITE, weights="a file")) is None


@pytest.mark.parametrize("bands", [1, 3, 6])
def test_named_weights_are_downloaded_and_adapted_to_the_bands(monkeypatch, bands):
    """What the hub would give is stood in for by a network of another seed."""
    state, asked = whole("test_vit").state_dict(), []

    def hub(source, *_, **__):
        asked.append(source)
        return {key: value.clone() for key, value in state.items()}

    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", hub)
    net = build(replace(VIT, weights="r160_in1k"), bands=bands)
    assert asked == ["timm/test_vit.r160_in1k"]
    own = net.net.encoder.model.state_dict()
    first, pixels = state["patch_embed.proj.weight"], own["patch_embed.proj.weight"]
    grey = torch.randn(2, 1, 160, 160)
    seen = [torch.conv2d(grey.expand(-1, len(w[0]), -1, -1), w, stride=w.shape[-1]) for w in (first, pixels)]
    torch.testing.assert_close(*seen, rtol=1e-3, atol=1e-4)  # a grey image looks as it did, by however many bands
    assert all(torch.equal(own[key], state[key]) for key in own if key != "patch_embed.proj.weight")
    assert float(net.mean_B11[0]) == (127.5 if bands == 3 else 100)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("config", [VIT, CONVNEXT])
def test_a_file_of_timms_is_loaded(tmp_path, config, suffix):
    state, path = whole(config.encoder[3:]).state_dict(), tmp_path / f"timm{suffix}"
    (safetensors.torch.save_file if suffix == ".safetensors" else torch.save)(state, path)
    net = build(replace(config, weights=str(path)))
    x = torch.randn(1, 3, 160, 160)
    reference = whole(config.encoder[3:]).eval()
    with torch.no_grad():
        found = net.eval().net.encoder(x)
        found = found[0][-1] if config is VIT else found[-1]
        expected = reference.forward_intermediates(x, intermediates_only=True)[-1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not any("head" in key for key in net.net.encoder.state_dict())


def test_a_file_of_three_bands_serves_more(tmp_path):
    state = whole("convnext_atto").state_dict()
    torch.save(state, tmp_path / "timm.pt")
    net = build(replace(CONVNEXT, weights=str(tmp_path / "timm.pt")), bands=6)
    first = net.net.encoder.state_dict()["model.stem_0.weight"]
    torch.testing.assert_close(first, state["stem.0.weight"].repeat(1, 2, 1, 1) / 2)


def test_a_file_of_another_network_is_refused(tmp_path):
    path = tmp_path / "resnet34.pt"
    torch.save(whole("resnet34").state_dict(), path)
    with pytest.raises(ConfigError, match=r"does not fit tu-resnet18 .*unexpected: layer1\.2"):
        build(ModelConfig(encoder="tu-resnet18", weights=str(path)))
    with pytest.raises(ConfigError, match=r"does not fit tu-convnext_atto .*missing: model\.stem_0"):
        build(replace(CONVNEXT, weights=str(path)))


@pytest.mark.parametrize(("arch", "encoder"), [
    ("dpt", "tu-test_vit"), ("unet", "efficientnet-b0"), ("pspnet", "resnet18")])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_exactly_what_has_a_gradient_requires_one(arch, encoder, norm):
    """DistributedDataParallel waits for all that do."""
    net = build(ModelConfig(arch=arch, encoder=encoder, norm=norm))
    net(torch.randint(0, 256, (2, 1, 3, 64, 64), dtype=torch.uint8)).square().mean().backward()
    assert any(p.grad is None for p in net.parameters())
    assert [name for name, p in net.named_parameters() if p.requires_grad != (p.grad is not None)] == []


@pytest.mark.parametrize(("arch", "encoder", "size", "says"), [
    ("pan", "resnet18", 64, r"pan over resnet18 takes no patches of 64 pixels \(Given input size"),
    ("unet", "tu-maxvit_tiny_tf_224", 256, r"\(made for 224\) takes no patches of 256 pixels \(height"),
    ("dpt", "tu-beit_base_patch16_224", 256, r"\(made for 224\) takes no patches of 256 pixels \(Input height"),
    ("aspp_unet", "tu-botnet26t_256", 224, r"\(made for 256\) takes no patches of 224 pixels; choose")])
def test_wrong_sizes_are_refused_without_building_the_network(arch, encoder, size, says):
    config = ModelConfig(arch=arch, encoder=encoder)
    network.check(config)
    with pytest.raises(ConfigError, match=rf"^patches\.size: .*{says}"):
        network.check(config, size)


@pytest.mark.parametrize(("arch", "encoder"), [
    ("dpt", "tu-vit_small_patch16_dinov3"), ("unet", "tu-swin_tiny_patch4_window7_224"), ("segformer", "mit_b0"),
    ("dpt", "tu-deit_tiny_distilled_patch16_224")])
def test_a_rehearsal_takes_any_size_and_leaves_no_trace(arch, encoder):
    state = torch.random.get_rng_state()
    for size in (96, 200):
        network.check(ModelConfig(arch=arch, encoder=encoder, norm="group"), size)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_tokens_that_dpt_cannot_place_are_refused():
    with pytest.raises(ConfigError, match="DPT takes tokens of 8, 16 or 32 pixels, not of 14"):
        network.check(ModelConfig(arch="dpt", encoder="tu-vit_small_patch14_dinov2"), 224)
