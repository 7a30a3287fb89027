"""A network begun with another run's weights: the same data, other classes, other bands, another network."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from swath.config import Config, ModelConfig, PatchesConfig
from swath.errors import CheckpointError
from swath.models import checkpoint, transfer
from swath.models import network as models
from swath.models.checkpoint import ModelCard
from swath.models.run_state import RunState

MODEL = ModelConfig(arch="unet", encoder="tu-test_resnet", norm="group")
CARD = ModelCard(store="", fingerprint="", bands=3, dtype="uint8", classes=("field", "wood", "water"),
            colours=((0, 0, 0), (1, 1, 1), (2, 2, 2)), ignore=255)


def network(model: ModelConfig = MODEL, bands: int = 3, classes: int = 3, seed: int = 0, **rest: object) -> models.Net:
    torch.manual_seed(seed)
    mean_B = np.full(bands, seed)
    data = models.DataTraits(bands=bands, classes=classes, mean_B=mean_B, std_B=1 + mean_B)
    return models.build(model, data, **rest).eval()  # type: ignore[arg-type]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    checkpoint.save(tmp_path, RunState(net=network().state_dict()), Config(model=MODEL), CARD)
    return tmp_path


def config(saved: Path, **model: object) -> Config:
    return Config(model=replace(MODEL, init_from=str(saved), **model))  # type: ignore[arg-type]


def test_all_but_the_statistics_of_the_pixels_is_taken(saved: Path) -> None:
    net = network(seed=1)
    said = transfer.begin(net, config(saved), CARD)
    theirs = network().state_dict()
    assert said == f"begun with the weights of {saved}"
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, theirs[name]) == (name not in ("mean_B11", "std_B11")), name


def test_classes_are_known_by_their_names(saved: Path) -> None:
    classes = ("road", "water", "field")
    net, before = network(seed=1), network(seed=1)
    said = transfer.begin(net, config(saved), replace(CARD, classes=classes))
    assert said.endswith("; classes that it did not have: road")
    image = torch.rand(1, 1, 3, 64, 64) * 255
    other = network()
    other.mean_B11, other.std_B11 = net.mean_B11, net.std_B11
    scores, theirs = net(image), other(image)
    assert torch.equal(scores[:, 1:], theirs[:, [2, 0]])
    head, old = (n.net.segmentation_head[0].weight for n in (net, before))
    assert torch.equal(head[0], old[0])


def test_four_bands_have_the_weights_of_three_repeated(saved: Path) -> None:
    net = network(bands=4, seed=1)
    transfer.begin(net, config(saved), replace(CARD, bands=4))
    first, theirs = (next(p for p in n.encoder.parameters() if p.ndim == 4) for n in (net, network()))
    torch.testing.assert_close(first, theirs[:, [0, 1, 2, 0]] * 0.75)


def test_scales_that_are_fused_are_begun_from_one_scale(saved: Path) -> None:
    net = network(seed=1, combine="concentric", scales=(1, 2))
    said = transfer.begin(net, config(saved), CARD)
    assert said.endswith("; the fusion of scales begins anew")
    assert torch.equal(net.net.segmentation_head[0].weight[:3], network().net.segmentation_head[0].weight)


@pytest.mark.parametrize("scales", [(1, 2), (1, 2, 4)])
def test_a_fusion_of_other_scales_begins_anew(tmp_path: Path, scales: tuple[float, ...]) -> None:
    theirs = Config(model=MODEL, patches=PatchesConfig(scales=(1, 4), combine="concentric"))
    saved = network(combine="concentric", scales=(1, 4)).state_dict()
    checkpoint.save(tmp_path, RunState(net=saved), theirs, CARD)
    net, before = (network(seed=1, combine="concentric", scales=scales) for _ in range(2))
    ours = replace(config(tmp_path), patches=PatchesConfig(scales=scales, combine="concentric"))
    assert transfer.begin(net, ours, CARD).endswith("; the fusion of scales begins anew")
    assert torch.equal(net.fusion.weigh[0].weight, before.fusion.weigh[0].weight)
    same = network(seed=1, combine="concentric", scales=(2, 8))
    ours = replace(config(tmp_path), patches=PatchesConfig(scales=(2, 8), combine="concentric"))
    assert transfer.begin(same, ours, CARD) == f"begun with the weights of {tmp_path}"


def test_another_network_is_refused(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model.init_from: .* \(model.arch is unet there and fpn here\)"):
        transfer.begin(network(replace(MODEL, arch="fpn")), config(saved, arch="fpn"), CARD)


def test_a_torn_checkpoint_is_refused(saved: Path) -> None:
    (saved / "state.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"state.pt missing, or not as written"):
        transfer.begin(network(), config(saved), CARD)


@pytest.mark.parametrize("arch", ["unet", "unetplusplus", "fpn", "deeplabv3plus", "pspnet", "upernet", "segformer",
                                  "aspp_unet", "manet", "linknet", "pan"])
def test_the_last_layer_is_all_that_depends_on_the_classes(arch: str) -> None:
    model = ModelConfig(arch=arch, encoder="resnet18")
    few, many = (models.build(model, models.DataTraits(bands=3, classes=k, mean_B=np.zeros(3), std_B=np.ones(3)))
                 for k in (3, 5))
    shapes = {name: tensor.shape for name, tensor in many.state_dict().items()}
    differ = {name for name, tensor in few.state_dict().items() if tensor.shape != shapes[name]}
    assert differ == set(transfer.last_layer(few))
