"""The examples of platform/README.md, "Add your own": each file of `mypackage` is taken from there and used."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import patchstore
from swath.config import (
    AugmentConfig,
    ClusterConfig,
    Config,
    DataConfig,
    LossConfig,
    ModelConfig,
    PatchesConfig,
    ScoreConfig,
    TrainConfig,
)
from swath.errors import CheckpointError, ConfigError
from swath.experiments import experiment, ingest
from swath.loading.augment import Augment
from swath.models import checkpoint
from swath.training.losses import Loss

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "platform" / "README.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```python\n# mypackage/(\w+\.py)\n(.*?)```", README, re.DOTALL))
TINY = Config(
    patches=PatchesConfig(size=64),
    model=ModelConfig(arch="mypackage.nets:Small"),
    loss=LossConfig(custom="mypackage.losses:worst_tenth", custom_weight=0.5),
    augment=AugmentConfig(pipeline="mypackage.augment:winter"),
    train=TrainConfig(megapixels=0.26, batch=8, report_every=0.1, encoder_lr=0.5),
    score=ScoreConfig(overlap=0),
    cluster=ClusterConfig(device="cpu", readers=1),
)


@pytest.fixture
def mypackage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that has `mypackage`, on the path of Python."""
    folder = tmp_path / "code"
    (folder / "mypackage").mkdir(parents=True)
    for name, text in FILES.items():
        (folder / "mypackage" / name).write_text(text)
    monkeypatch.syspath_prepend(folder)
    yield folder
    _forget()


def _forget() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "mypackage"]:
        del sys.modules[name]


def test_there_is_an_example_of_each_kind() -> None:
    assert sorted(FILES) == ["augment.py", "data.py", "losses.py", "nets.py"]
    assert all(len(text.strip().splitlines()) <= 18 for text in FILES.values())


@pytest.mark.timeout(300)
def test_network_loss_and_augmentation_train(mypackage: Path, store_uri: str, tmp_path: Path) -> None:
    config = replace(TINY, data=DataConfig(store=store_uri))
    outcome = experiment.train(config, tmp_path / "runs")
    folder = outcome.run.checkpoint
    assert folder is not None
    assert checkpoint.load(folder).network(torch.device("cpu"))(torch.zeros(1, 1, 3, 70, 50)).shape == (1, 5, 70, 50)
    assert '"mypackage.nets:Small"' in (folder / "config.json").read_text()

    again = experiment.train(config, tmp_path / "again")
    assert [m["train/loss"] for m in again.run.history] == [m["train/loss"] for m in outcome.run.history]

    shutil.rmtree(mypackage)
    _forget()
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(folder)
    assert all(part in str(caught.value) for part in (str(folder), "mypackage.nets:Small", "No module named",
                                                      "PYTHONPATH"))
    assert "\n" not in str(caught.value)


@pytest.mark.timeout(300)
def test_several_scales_at_once_and_a_mixture(mypackage: Path, store_uri: str, tmp_path: Path) -> None:
    config = replace(TINY, data=DataConfig(store=store_uri), augment=AugmentConfig(pipeline="flips"))
    for combine in ("mixture", "concentric"):
        patches = PatchesConfig(size=64, scales=(1, 2), combine=combine)  # type: ignore[arg-type]
        experiment.train(replace(config, patches=patches), tmp_path / combine)


def test_the_data_set_is_ingested(mypackage: Path, dataset: Path, tmp_path: Path) -> None:
    source = tmp_path / "photos_and_labels"
    for theirs, ours in (("images", "photos"), ("masks", "labels")):
        (source / ours).mkdir(parents=True)
        for path in (dataset / theirs).glob("*.tif"):
            shutil.copy(path, source / ours / path.name.replace("_", "-"))
    next((source / "labels").iterdir()).unlink()
    data = DataConfig(adapter="mypackage.data:find", source=str(source), store=str(tmp_path / "s.zarr"), stray="ignore")
    report = ingest.run(data, ingest.one_by_one, skip_bad=True)
    store = patchstore.open(str(tmp_path / "s.zarr"))
    assert [info.name for info in store.classes] == ["field", "forest"]
    assert len(store.scenes) == 5
    assert {scene.group for scene in store.scenes.values()} == {"g0", "g1", "g2"}
    assert "has no mask" in report.rejected[0]
    with pytest.raises(ConfigError, match=r"data\.images applies only to data\.adapter folder"):
        replace(data, images="*.tif")


@pytest.mark.parametrize("parts", [[3, 3, 2], [1] * 8, [5, 3]])
def test_a_cut_batch_has_the_same_loss_and_gradient(mypackage: Path, parts: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 4, 16, 16, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 4, (8, 16, 16), generator=generator)
    labels[1] = 255  # a sample without a label
    labels[4, :, :9] = 255
    loss = Loss(LossConfig(custom="mypackage.losses:worst_tenth", dice=1), 4, 255)
    totals = loss.totals(labels)
    whole = loss(logits, labels, totals)
    wanted, = torch.autograd.grad(whole, logits)
    shares = [loss(x, y, totals) for x, y in zip(logits.split(parts), labels.split(parts), strict=True)]
    gradient, = torch.autograd.grad(torch.stack(shares).sum(), logits)
    torch.testing.assert_close(torch.stack(shares).sum(), whole)
    torch.testing.assert_close(gradient, wanted)
    assert (wanted[1] == 0).all()
    nothing = loss(logits[1:2], labels[1:2], totals)
    assert nothing == 0
    assert nothing.requires_grad


def test_the_augmentation_brings_no_torch_into_a_reader(mypackage: Path) -> None:
    code = ("import sys, numpy as np; from swath.loading.augment import Augment\n"
            "from swath.config import AugmentConfig\n"
            "a = Augment(AugmentConfig(pipeline='mypackage.augment:winter'), size=32, bands=4,\n"
            "            dtype=np.dtype('uint8'))\n"
            "x, y = np.arange(4096, dtype=np.uint8).reshape(4, 32, 32), np.zeros((32, 32), np.uint8)\n"
            "print(*(len({a(x, y, s)[0].tobytes() for s in seeds}) for seeds in ([1, 1, 1], range(9))))\n"
            "print('torch' in sys.modules)\n")
    found = subprocess.run([sys.executable, "-c", code], cwd=mypackage, capture_output=True, text=True, check=True)
    one, several, torch_too = found.stdout.split()
    assert (one, torch_too) == ("1", "False")
    assert int(several) > 6


def test_several_scales_are_refused_for_it(mypackage: Path) -> None:
    with pytest.raises(ConfigError, match=r"mypackage\.augment:winter may distort"):
        Augment(TINY.augment, size=32, bands=3, dtype=np.dtype("uint8"), scales=(1, 2))
