"""Every package that is imported is declared: for the product in the dependencies, for tests in the extras."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DISTRIBUTIONS = {"cv2": "opencv-python-headless", "PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn",
                 "streaming": "mosaicml-streaming", "rio_cogeo": "rio-cogeo", "zarr_cm": "zarr-cm",
                 "huggingface_hub": "huggingface-hub", "segmentation_models_pytorch": "segmentation-models-pytorch"}
"""The distributions that are not named as the module that they hold."""


def test_the_product_imports_only_what_it_declares() -> None:
    imported = imports("platform", "storage", "jobs")
    assert {"torch", "numpy", "tensorstore"} <= imported, "the guard looks at no file"
    extra = PROJECT["project"]["optional-dependencies"]["xarray"]  # imported in Store.xarray alone, which says so
    assert imported - declared([*PROJECT["project"]["dependencies"], *extra]) == set()


def test_tests_import_only_what_the_extras_declare() -> None:
    imported, extras = imports("tests"), PROJECT["project"]["optional-dependencies"]
    assert {"pytest", "hypothesis"} <= imported, "the guard looks at no file"
    lists = [PROJECT["project"]["dependencies"], extras["test"], extras["bench"],
             PROJECT["dependency-groups"]["loaders"]]
    assert imported - set().union(*map(declared, lists)) == set()


def test_what_the_test_extra_needs_was_tested_in_one_version() -> None:
    pinned = {_name(line) for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()}
    wanted = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["test"]]
    assert declared(wanted) - pinned == set()


def imports(*roots: str) -> set[str]:
    """The distributions of the modules of others that files below the roots import."""
    files = [path for root in roots for path in (ROOT / root).rglob("*.py")]
    own = {path.stem for root in ("jobs", "tests") for path in (ROOT / root).rglob("*.py")} | {"swath", "patchstore"}
    own |= {path.parent.name for path in (ROOT / "tests").rglob("*.py")}
    names = {name.split(".")[0] for path in files for name in _imported(path)}
    return {DISTRIBUTIONS.get(name, name).lower() for name in names - own - sys.stdlib_module_names}


def declared(requirements: Iterable[str]) -> set[str]:
    return {_name(line) for line in requirements}


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement.strip())[0].lower().replace("_", "-")


def _imported(path: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module)
    return names
