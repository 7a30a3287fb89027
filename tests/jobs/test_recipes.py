"""Recipes: each starts on a small data set in its own format, from ingest to a scored record.

The photographs are pieces of the generated landscape (patchstore.testing), written as each set is distributed. What a
recipe says of network, encoder, losses, augmentation, scales and how they are combined is left as it is; patches,
batches and lengths are small.
"""

import csv
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

import patchstore
from patchstore import ADAPTERS
from patchstore.testing import scenes, write_scene
from support.commands import last_json
from support.rasters import write
from swath import config as configuration
from swath import recipes
from swath.commands import named_recipes
from swath.config import Config
from swath.distributed import ingest as ray_ingest
from swath.errors import ConfigError
from swath.experiments import ingest
from swath.experiments.prepare import prepare
from swath.models import network
from swath.tracking import mlflow_store
from swath.tuning import space

Job = Callable[..., subprocess.CompletedProcess[str]]
PATCH, STRIDE, BATCH, STEPS = 32, 16, 2, 2
"""Sides of patches that every network here takes, at one or several scales."""
SYSTEMS = ("landcover_ai_unet_resnet18", "landcover_ai_unet_resnet50", "landcover_ai_fpn_resnet18", "codalab_unet",
           "dubai_unet", "drone_deeplabv3plus_resnet34", "drone_deeplabv3plus_efficientnet_b5", "drone_aspp_unet")
OTHERS = ("synthetic", "deepglobe", "obx")
QUICK = ("codalab_unet", "drone_aspp_unet")
"""A mixture with a budget, and our own network; the rest start where slow tests run."""
_DEEPGLOBE = ("#00FFFF", "#FFFF00", "#FF00FF", "#00FF00", "#0000FF", "#FFFFFF")


def landscape(folder: Path, count: int, shape: tuple[int, int]
              ) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Pieces of ground that are far apart: images (3, H, W) and classes (H, W), 0 to 4."""
    for index in range(count):
        image, mask = folder / "image.tif", folder / "mask.tif"
        write_scene(image, mask, seed=3, shape=shape, origin_m=(scenes.ORIGIN_M[0] + 1024.0 * index,
                                                                scenes.ORIGIN_M[1]))
        with rasterio.open(image) as pixels, rasterio.open(mask) as labels:
            yield pixels.read(), labels.read(1)


def in_colours(mask_HW: NDArray[np.uint8], codes: list[str]) -> NDArray[np.uint8]:
    """A mask of colours: (3, H, W)."""
    table = np.array([list(bytes.fromhex(code.removeprefix("#"))) for code in codes], np.uint8)
    return np.moveaxis(table[mask_HW], -1, 0)


def make_folder(source: Path, scratch: Path) -> None:
    scenes.make_dataset(source, scenes=6, size=128, groups=3)


def make_landcover_ai(source: Path, scratch: Path) -> None:
    for number, (image, mask) in enumerate(landscape(scratch, 4, (96, 128))):
        name = f"M-33-{number}-D-c-4-2.tif"
        write(source / "images" / name, image, crs=scenes.CRS, transform=place(number))
        write(source / "masks" / name, np.stack([mask] * 3) if number else mask)


def place(number: int) -> rasterio.Affine:
    return rasterio.Affine(0.25, 0, 500_000 + 1024 * number, 0, -0.25, 5_800_000)


def make_deepglobe(source: Path, scratch: Path) -> None:
    for number, (image, mask) in enumerate(landscape(scratch, 5, (256, 256))):
        write(source / f"train/{number}_sat.tif", image)
        write(source / f"train/{number}_mask.tif", in_colours(mask, list(_DEEPGLOBE)))
    table(source / "class_dict.csv", [*zip("abcdef", _DEEPGLOBE), ("unknown", "#000000")])


def make_tiles(source: Path, scratch: Path) -> None:
    codes = [text.split("=")[1] for text in recipes.dubai_unet().data.classes]
    for tile, (image, mask) in zip((1, 2, 3, 4, 6), landscape(scratch, 5, (216, 201))):
        for part in range(1, 10):
            rows, cols = (slice(k * side // 3, (k + 1) * side // 3) for k, side in
                          zip(divmod(part - 1, 3), mask.shape))
            write(source / f"Tile {tile}/images/image_part_00{part}.jpg", image[:, rows, cols], quality=95)
            write(source / f"Tile {tile}/masks/image_part_00{part}.png", in_colours(mask[rows, cols], codes))


def make_icg_drone(source: Path, scratch: Path) -> None:
    folder = source / "training_set"
    for number, (image, mask) in enumerate(landscape(scratch, 5, (128, 192))):
        write(folder / f"original_images/{number:03}.jpg", image, quality=95)
        write(folder / f"label_images_semantic/{number:03}.png", mask * 3)  # of many classes a photo has a few
    table(folder / "class_dict_seg.csv", [("unlabeled", "#000000"), *((f"class {k}", f"#1020{k:02X}")
                                                                      for k in range(1, 24))])


def make_obx(source: Path, scratch: Path) -> None:
    for number, (image, mask) in enumerate(landscape(scratch, 5, (128, 128))):
        write(source / f"img/{number}.jpg", image, quality=95)
        write(source / f"gt/{number}_mask.jpg", mask % 3, quality=95)


def table(path: Path, rows: list[tuple[str, str]]) -> None:
    lines = [("name", "r", "g", "b"), *((name, *bytes.fromhex(code[1:])) for name, code in rows)]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)


MAKERS = {"folder": make_folder, "landcover_ai": make_landcover_ai, "deepglobe": make_deepglobe, "tiles": make_tiles,
          "icg_drone": make_icg_drone, "obx": make_obx}


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Job], str]:
    """The store of a recipe's adapter, made by jobs/ingest.py with the first recipe that asks for it."""
    made: dict[str, str] = {}

    def store(name: str, job_here: Job) -> str:
        adapter = named_recipes.recipe(name).data.adapter
        if adapter not in made:
            folder = tmp_path_factory.mktemp(adapter)
            (folder / "scratch").mkdir()
            MAKERS[adapter](folder / "source", folder / "scratch")
            report = last_json(job_here("ingest", name, "--data.source", folder / "source", "--data.store",
                                        folder / "s.zarr", "--json"))
            assert report["rejected"] == []
            made[adapter] = str(folder / "s.zarr")
        return made[adapter]

    return store


@pytest.fixture(scope="session")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(autouse=True)
def without_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ingest's steps in this process: a cluster takes longer to start than these scenes to ingest."""
    monkeypatch.setattr(ray_ingest, "spread", lambda tasks, address: ingest.one_by_one(tasks))


def test_every_recipe_is_looked_at_here() -> None:
    with pytest.raises(ConfigError) as caught:
        named_recipes.recipe("-")
    assert set(re.findall(r"\w+", str(caught.value).split("there are:")[1])) == {*SYSTEMS, *OTHERS}
    assert MAKERS.keys() == ADAPTERS.keys()


@pytest.mark.parametrize("name", [*SYSTEMS, *OTHERS])
def test_every_recipe_can_be_read_back_and_searched(name: str) -> None:
    config = named_recipes.recipe(name)
    assert configuration.from_json(config.to_json()) == config
    assert space.read(config.search.space).configurations(config)
    assert name.startswith(config.track.experiment)


def test_variants_of_a_system_differ_in_the_network_alone() -> None:
    for names in (SYSTEMS[:3], SYSTEMS[5:]):
        first, *others = (named_recipes.recipe(name) for name in names)
        assert len({(one.model.arch, one.model.encoder) for one in (first, *others)}) == len(names)
        for other in others:
            train = replace(other.train, micro_batch=first.train.micro_batch)  # what a card holds, not what is learnt
            assert replace(other, model=first.model, train=train) == first


def test_what_the_systems_state_is_what_their_recipes_have() -> None:
    landcover, codalab, dubai, drone = (named_recipes.recipe(name) for name in (SYSTEMS[0], *SYSTEMS[3:6]))
    assert (landcover.patches.size, landcover.patches.step, landcover.train.epochs, landcover.train.batch) == (
        256, 256, 20, 16)
    assert (landcover.split.val_fraction, landcover.split.test_fraction) == (0.2, 0.1)
    assert (landcover.loss.terms, landcover.train.optimiser) == ({"focal": 1, "jaccard": 1}, "adam")
    assert landcover.train.weight_decay == 0
    assert (codalab.patches.size, codalab.patches.scales, codalab.patches.combine) == (128, (1, 8), "mixture")
    assert (codalab.train.epochs, codalab.train.batch, codalab.model.arch) == (10, 32, "unet")
    assert (dubai.patches.size, dubai.model.arch) == (256, "unet")
    assert (drone.patches.size, drone.patches.scales, drone.patches.combine) == (1000, (1, 2, 4), "mixture")
    assert drone.patches.step < drone.patches.size
    assert drone.train.batch > drone.train.micro_batch  # type: ignore[operator]
    assert {named_recipes.recipe(name).model.weights for name in SYSTEMS} == {"none"}


def small(config: Config) -> Config:
    """The recipe with the least of patches and steps."""
    return replace(config, patches=replace(config.patches, size=PATCH, stride=STRIDE),
                   train=replace(config.train, batch=BATCH))


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_systems_recipe_plans_and_builds(name: str, stores: Callable[[str, Job], str], job_here: Job) -> None:
    """With its own patches too, as far as a network without memory tells."""
    uri = stores(name, job_here)
    config = named_recipes.recipe(name)
    config = replace(config, data=replace(config.data, store=uri))
    store = patchstore.open(uri, merge=config.data.merge)
    costs = prepare(small(config), store).costs
    assert costs["plan/patches"] > 0
    assert costs["model/parameters"] > 1e6
    network.check(config.model, config.patches.size)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK))
                                  for name in (*SYSTEMS, *OTHERS)])
def test_every_recipe_starts(name: str, stores: Callable[[str, Job], str], job_here: Job, workdir: Path) -> None:
    uri, length = stores(name, job_here), STEPS * BATCH * PATCH**2 / 1e6
    trained = last_json(job_here(
        "train", name, "--data.store", uri, "--patches.size", PATCH, "--patches.stride", STRIDE, "--train.batch", BATCH,
        "--train.megapixels", length, "--train.report-every", length, "--score.part", 0.02, "--score.overlap", 0,
        "--cluster.readers", 0, "--cluster.cpus", 1, "--cluster.device", "cpu", "--workdir", workdir, "--json"))
    assert trained["megapixels"] == pytest.approx(length)
    assert 0 <= trained["val_miou"] < 1
    record = mlflow_store.find(mlflow_store.prepare(workdir).uri, trained["run_id"])
    assert record.status == "FINISHED"
    assert record.metrics["val/miou"] == trained["val_miou"]
    assert record.params["model.encoder"] == named_recipes.recipe(name).model.encoder
    assert "train/loss" in record.metrics
