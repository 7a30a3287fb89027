"""Networks: shapes, normalisation, padding, replaced norms, weights from files, and names that do not exist."""

from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from torch import nn

from swath.config import ModelConfig
from swath.errors import ConfigError
from swath.models import network, norms

PAIRS = [("unet", "resnet18"), ("fpn", "mobilenet_v2"), ("deeplabv3plus", "resnet18"),
         ("unet", "tu-mobilenetv3_small_050")]
SMALL = ModelConfig(arch="unet", encoder="tu-mobilenetv3_small_050")


def build(config, bands=3, classes=5, seed=0, **settings):
    torch.manual_seed(seed)
    statistics = {"mean_B": np.full(bands, 100.0), "std_B": np.full(bands, 50.0), **settings}
    return network.build(config, network.DataTraits(bands=bands, classes=classes, **statistics))


def pixels(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("arch", "encoder"), PAIRS)
def test_scores_have_the_patches_size(arch, encoder):
    net = build(ModelConfig(arch=arch, encoder=encoder), bands=4)
    for size in (64, 100):
        logits = net(pixels(2, 1, 4, size, size))
        assert logits.shape == (2, 5, size, size)
        assert logits.dtype == torch.float32
    logits.sum().backward()  # of the padded one
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize(("height", "width"), [(1, 9), (33, 16), (1000, 40)])
def test_any_size(height, width):
    with torch.no_grad():
        assert build(SMALL).eval()(pixels(1, 1, 3, height, width)).shape == (1, 5, height, width)


def test_padding_reflects_and_needs_none_where_sides_fit():
    class Double(nn.Module):
        """Sees the padded pixels."""

        def forward(self, x_NBHW):
            self.seen = x_NBHW
            return x_NBHW

    net = network.Net(Double(), np.array([2.0]), np.array([4.0]), stride=16)
    row = torch.arange(33).reshape(1, 1, 1, 1, 33)
    assert torch.equal(net(row)[0, 0], (row[0, 0, 0] - 2) / 4)
    assert net.net.seen.shape == (1, 1, 32, 48)
    assert (net.net.seen[0, 0, 5] * 4 + 2).tolist() == [*range(33), *range(32, 17, -1)]
    net(torch.arange(3).reshape(1, 1, 1, 1, 3))
    assert (net.net.seen[0, 0, 0, :9] * 4 + 2).tolist() == [0, 1, 2, 2, 1, 0, 0, 1, 2]
    net(torch.zeros(1, 1, 1, 64, 48))
    assert net.net.seen.shape == (1, 1, 64, 48)


def test_pixels_are_normalised_and_a_flat_band_is_harmless():
    images = pixels(2, 1, 3, 32, 32)
    net = build(SMALL, mean_B=[10, 20, 30], std_B=[1, 2, 0]).eval()
    plain = build(SMALL, mean_B=np.zeros(3), std_B=np.ones(3)).eval()
    by_hand = (images.float() - torch.tensor([10.0, 20, 30])[:, None, None]) / torch.tensor([1.0, 2, 1])[:, None, None]
    with torch.no_grad():
        for dtype in (torch.uint8, torch.int16, torch.uint16, torch.float64):
            torch.testing.assert_close(net(images.to(dtype)), plain(by_hand))
    assert {"mean_B11", "std_B11"} <= net.state_dict().keys()  # a checkpoint carries them
    with pytest.raises(ValueError, match="finite"):
        build(SMALL, std_B=[1, np.nan, 1])
    with pytest.raises(ValueError, match="of 3 bands"):
        build(SMALL, mean_B=[1, 2])
    with pytest.raises(ValueError, match=r"\(N, 1, B, H, W\)"):
        net(pixels(1, 2, 3, 32, 32))


@pytest.mark.parametrize("norm", ["group", "none"])
@pytest.mark.parametrize(("arch", "encoder"), [*PAIRS[1:], ("pan", "tu-mobilenetv3_small_050")])
def test_without_batch_normalisation_samples_are_independent(arch, encoder, norm):
    net = build(ModelConfig(arch=arch, encoder=encoder, norm=norm))
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules())
    assert any(isinstance(m, nn.GroupNorm) for m in net.net.encoder.modules()) == (norm == "group")
    for module in net.modules():  # what else is random in training
        if isinstance(module, nn.Dropout | nn.Dropout2d):
            module.p = 0.0
    net.train()
    images = pixels(3, 1, 3, *((128, 128) if arch == "pan" else (64, 64)))
    with torch.no_grad():
        together = net(images)
        alone = torch.cat([net(image[None]) for image in images])
    assert torch.isfinite(together).all()
    torch.testing.assert_close(alone, together, rtol=1e-3, atol=1e-4 * float(together.abs().max()))


def test_an_activation_inside_a_norm_is_kept():
    batch, affine = build(SMALL).eval(), build(replace(SMALL, norm="none")).eval()
    images = pixels(2, 1, 3, 64, 64)
    with torch.no_grad():  # fresh statistics: in evaluation batch normalisation is the affine map that takes its place
        torch.testing.assert_close(affine(images), batch(images))


def test_groups_have_two_channels_and_begin_as_the_norm_did():
    for channels, groups in ((256, 32), (64, 32), (32, 16), (24, 8), (16, 8), (7, 1), (2, 1)):
        norm = nn.BatchNorm2d(channels)
        nn.init.normal_(norm.weight)
        group = norms.instead(norm, "group")
        assert group.num_groups == groups
        assert torch.equal(group.weight, norm.weight)
    assert not isinstance(norms.instead(nn.BatchNorm2d(1), "group"), nn.GroupNorm)


def test_seed_decides_the_weights():
    first, again, other = (build(SMALL, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.fixture(scope="module")
def trained():
    """A network whose running statistics are not the initial ones."""
    net = build(SMALL, seed=7)
    net.train()
    net(pixels(4, 1, 3, 64, 64))
    return net.eval()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("prefix", ["", "encoder.", "net.encoder."])
def test_weights_from_a_file(trained, tmp_path, suffix, prefix):
    state = {prefix + key: value for key, value in trained.net.encoder.state_dict().items()}
    if prefix:
        state[prefix.replace("encoder", "decoder") + "some.weight"] = torch.zeros(1)
    path = tmp_path / f"weights{suffix}"
    (safetensors.torch.save_file if suffix == ".safetensors" else torch.save)(state, path)
    net = build(replace(SMALL, weights=str(path)))
    for key, value in trained.net.encoder.state_dict().items():
        assert torch.equal(net.net.encoder.state_dict()[key], value)


@pytest.mark.parametrize("norm", ["group", "none"])
def test_weights_of_either_norm_fit_a_network_of_groups(trained, tmp_path, norm):
    config = replace(SMALL, norm=norm, weights=str(tmp_path / "weights.pt"))
    torch.save(trained.net.encoder.state_dict(), config.weights)
    net = build(config).eval()
    if norm == "none":  # the statistics are folded in: the features are the same as in evaluation
        x = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(net.net.encoder(x)[-1], trained.net.encoder(x)[-1], rtol=1e-3, atol=1e-5)
    torch.save(net.net.encoder.state_dict(), config.weights)
    again = build(config, seed=3)
    for key, value in net.net.encoder.state_dict().items():
        assert torch.equal(again.net.encoder.state_dict()[key], value)


def test_weights_that_do_not_fit_are_named(trained, tmp_path):
    path, state = tmp_path / "wrong.pt", trained.net.encoder.state_dict()
    first = next(iter(state))
    renamed = {f"x.{key}" if i < 5 else key: value for i, (key, value) in enumerate(state.items())}
    torch.save(renamed, path)
    names = rf"wrong.pt does not fit .*missing: {first}, .* …; unexpected: .*x.{first}, .* …$"
    with pytest.raises(ConfigError, match=names):
        build(replace(SMALL, weights=str(path)))
    torch.save(state, path)
    torch.save({**state, first: state[first][:, :2]}, path)
    with pytest.raises(ConfigError, match=r"of another shape: .*\(16, 2, 3, 3\) for \(16, 4, 3, 3\)"):
        build(replace(SMALL, weights=str(path)), bands=4)


class Malicious:
    def __reduce__(self):
        return exec, ("import pathlib; pathlib.Path(__import__('os').environ['SWATH_TEST_MARK']).touch()",)


@pytest.mark.parametrize("content", ["code", "a list", "a checkpoint", b"", b"abc", b"\x80\x02no", b"PK\x03\x04cut"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_files_that_are_no_weights_are_refused_and_run_nothing(tmp_path, monkeypatch, content, suffix):
    mark, path = tmp_path / "mark", tmp_path / f"weights{suffix}"
    monkeypatch.setenv("SWATH_TEST_MARK", str(mark))
    things = {"code": {"conv.weight": Malicious()}, "a list": [1, 2], "a checkpoint": {"net": {"a": torch.zeros(1)}}}
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(things[content], path)
    with pytest.raises(ConfigError, match=rf"model.weights: .*weights{suffix}"):
        build(replace(SMALL, weights=str(path)))
    assert not mark.exists()


@pytest.mark.parametrize(("field", "value", "names"), [
    ("arch", "unnet", "no 'unnet'; the nearest name is unet"), ("arch", "Unet", "nearest name is unet"),
    ("arch", "qqqq", "there are unet, unetplusplus"),
    ("encoder", "resnet81", "nearest name is resnet18"), ("encoder", "tu-resnet81", "nearest name is tu-resnet18"),
    ("encoder", "tu-mobilenetv3_smal_050", "nearest name is tu-mobilenetv3_small_050"),
    ("encoder", "qqqqqqq", r"smp\.encoders\.get_encoder_names"),
    ("weights", "absent.pt", "absent.pt is no file")])
def test_names_that_do_not_exist(field, value, names):
    with pytest.raises(ConfigError, match=names):
        network.check(replace(ModelConfig(), **{field: value}))


def test_names_that_exist():
    for encoder in ("resnet18", "tu-resnet18", "tu-resnet18.a1_in1k", "mit_b0"):
        network.check(ModelConfig(encoder=encoder, weights="imagenet"))
    for encoder in ("resnext101_32x48d", "tu-resnet18.no_such_tag"):
        with pytest.raises(ConfigError, match=f"{encoder} has no imagenet weights"):
            network.check(ModelConfig(encoder=encoder, weights="imagenet"))


@pytest.mark.parametrize(("arch", "encoder", "reason"), [
    ("deeplabv3plus", "vgg11", "do not support dilated mode"), ("dpt", "resnet18", "Only Timm encoders"),
    ("linknet", "mit_b0", "not supported for Linknet"), ("unet", "tu-vit_tiny_patch16_224", "downsampling pattern"),
    ("unet", "tu-resnet18.no_such_tag", "Invalid pretrained tag")])
def test_combinations_that_are_refused(arch, encoder, reason):
    with pytest.raises(ConfigError, match=f"{arch} over {encoder} cannot be built: .*{reason}"):
        build(ModelConfig(arch=arch, encoder=encoder))


def test_norms_that_cannot_be_replaced_are_refused():
    class Other(nn.BatchNorm2d):
        pass

    with pytest.raises(ConfigError, match="group cannot replace the Other of resnet18"):
        norms.replace(nn.Sequential(nn.Conv2d(1, 4, 1), Other(4)), "group", "resnet18")


def test_imagenet_weights_bring_their_statistics(monkeypatch):
    """What is downloaded is stood in for: timm's network with random weights, its true statistics."""
    create = smp.create_model
    asked = []

    def offline(arch, *, encoder_weights, **settings):
        asked.append(encoder_weights)
        return create(arch, encoder_weights=None, **settings)

    monkeypatch.setattr(smp, "create_model", offline)
    config = ModelConfig(encoder="tu-resnet18", weights="imagenet")
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None] * 255
    torch.testing.assert_close(build(config).mean_B11, mean)
    assert (build(config, bands=4).mean_B11 == 100).all()
    assert (build(config, dtype="uint16").mean_B11 == 100).all()
    assert [name for name in asked if name] == [True] * 3  # rehearsals take none


def test_a_download_that_fails_says_what_to_do(monkeypatch):
    def fails(*_, **__):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(smp, "create_model", fails)
    with pytest.raises(ConfigError, match=r"imagenet weights of resnet18 could not be downloaded .*HF_HOME"):
        build(ModelConfig(weights="imagenet"))


def test_cost_counts_multiply_adds():
    """Against a count of the convolutions by hooks."""
    net = build(ModelConfig(arch="unet", encoder="resnet18"))
    macs = []

    def count(layer, _, output):
        macs.append(output[0].numel() * layer.weight[0].numel())

    hooks = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, nn.Conv2d)]
    net.eval()
    with torch.no_grad():
        net(pixels(1, 1, 3, 64, 64))
    for hook in hooks:
        hook.remove()
    net.train()
    cost = network.cost(net, 64, 3)
    assert net.training
    assert all(m.training for m in net.modules())
    assert cost.parameters == sum(p.numel() for p in net.parameters())
    assert cost.gmacs_per_mpx == pytest.approx(sum(macs) / 1e9 / (64**2 / 1e6))
    assert network.cost(net.eval(), 128, 3).gmacs_per_mpx == pytest.approx(cost.gmacs_per_mpx)
    assert not net.training


def test_a_size_that_a_network_cannot_take_is_named():
    net = build(ModelConfig(arch="pan", encoder="resnet18"))
    with pytest.raises(ConfigError, match=r"patches\.size: the network takes no patches of 64 pixels"):
        network.cost(net, 64, 3)
    assert net.training


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_scores_on_a_gpu_are_those_of_the_cpu():
    net, images = build(SMALL).eval(), pixels(2, 1, 3, 100, 100)
    with torch.no_grad():
        torch.testing.assert_close(net(images), net.cuda()(images.cuda()).cpu(), rtol=1e-2, atol=1e-3)
