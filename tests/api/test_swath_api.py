"""The public interface of swath: what it exports, and a notebook's lines, in a running event loop, without a guard."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import swath
from swath.errors import ConfigError

LINES = """
import asyncio, json, sys
import numpy as np
import rasterio
import swath

async def cells(photos, scene, folder, searched):
    report = swath.ingest(photos, f"{folder}/mine.zarr", classes=CLASSES, group=r"^(g\\d+)_")
    config = swath.recipe("synthetic", store=f"{folder}/mine.zarr", **{
        "patches.size": 64, "train.megapixels": 0.2, "train.report_every": 0.1, "train.batch": 4, "cluster.readers": 1,
        "cluster.device": "cpu", "search.megapixels": 0.1, "search.grace": 0.05, "search.space": ["loss.dice=0..1"]})
    plan = swath.plan(config)
    text = str(plan)
    run = swath.train(config, workdir=f"{folder}/runs")
    model = swath.load(run.checkpoint)
    maps = model.map(scene, f"{folder}/map.tif", polygons=True)
    with rasterio.open(scene) as source, rasterio.open(f"{folder}/map.tif") as mapped:
        same = bool((model.predict(source.read()) == mapped.read(1)).all())
    found = swath.evaluate(run.id, f"{folder}/runs", split="val", pictures=f"{folder}/pictures")
    found.show()
    best = swath.search(config, f"{folder}/runs", trials=2).best.run_id if searched else ""
    print(json.dumps({"scenes": report.scenes, "clean": plan.certificate.clean, "plan": text, "classes": model.classes,
                      "reports": len(run.history), "miou": run.score.miou, "again": found.score.miou, "same": same,
                      "maps": [str(one.output) for one in maps], "picture": str(found.picture), "best": best}))

CLASSES = dict(text.split("=") for text in __import__("patchstore.testing").testing.CLASSES)
asyncio.run(cells(*sys.argv[1:4], sys.argv[4] == "search"))
"""


@pytest.mark.parametrize("searched", ["", pytest.param("search", marks=pytest.mark.slow)])
def test_a_notebooks_lines_run(dataset: Path, tmp_path: Path, searched: str) -> None:
    (tmp_path / "lines.py").write_text(LINES)
    scene = sorted((dataset / "images").glob("*.tif"))[0]
    done = subprocess.run([sys.executable, tmp_path / "lines.py", dataset, scene, tmp_path, searched], cwd=tmp_path,
                          capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["scenes"], found["clean"], found["reports"], found["same"]) == (6, True, 2, True)
    assert found["again"] == found["miou"]
    assert "patches" in found["plan"]
    assert found["maps"] == [str(tmp_path / "map.tif")]
    assert (tmp_path / "map.parquet").is_file()
    assert Path(found["picture"]).is_file()
    assert bool(found["best"]) == bool(searched)


def test_every_exported_name_is_there_and_imported_late() -> None:
    assert set(swath.__all__) <= set(dir(swath))
    for name in swath.__all__:
        assert getattr(swath, name) is not None
    code = "import sys, swath; assert not {'torch', 'ray', 'mlflow'} & set(sys.modules); print(swath.__version__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == swath.__version__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        swath.nothing  # noqa: B018


def test_a_recipe_takes_fields_and_refuses_unknown_ones() -> None:
    assert swath.recipe("dubai_unet", **{"patches.size": 512}).patches.size == 512
    with pytest.raises(ConfigError, match=r"patches\.sizes: no field"):
        swath.recipe("dubai_unet", **{"patches.sizes": 512})
    with pytest.raises(ConfigError, match=r"patches\.size"):
        swath.recipe("dubai_unet", **{"patches.size": 1})
    with pytest.raises(ConfigError, match="did you mean dubai_unet"):
        swath.recipe("dubai_net")


def test_training_and_predicting_import_no_ray() -> None:
    code = ("import sys, swath.api, swath.commands.train, swath.commands.predict, swath.commands.evaluate; "
            "sys.exit('ray' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
