"""The platform uses only the names that patchstore's packages export."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ["patchstore", *(f"patchstore.{path.parent.name}" for path in
                            sorted((ROOT / "storage" / "patchstore").glob("*/__init__.py")))]


def _used(folder: str) -> Iterator[tuple[Path, str, str]]:
    """(file, package, name) of every import out of patchstore, and of every `patchstore.name`."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "patchstore":
                yield from ((path, node.module or "", alias.name) for alias in node.names)
            elif isinstance(node, ast.Import):
                yield from ((path, alias.name, "") for alias in node.names if alias.name.startswith("patchstore."))
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "patchstore":
                yield path, "patchstore", node.attr


def test_only_exported_names_are_used() -> None:
    used = [*_used("platform"), *_used("jobs")]
    assert len({path for path, _, _ in used}) > 3, "the guard looks at no file"
    exported = {package: {"__file__", *importlib.import_module(package).__all__} for package in PACKAGES}
    wrong = [f"{path.relative_to(ROOT)}: {package} {name}" for path, package, name in used
             if name not in exported.get(package, ())]
    assert not wrong


@pytest.mark.parametrize("package", PACKAGES)
def test_every_export_is_there_and_no_submodule_bears_its_name(package: str) -> None:
    module = importlib.import_module(package)
    assert len(set(module.__all__)) == len(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)
    submodules = {path.stem for path in Path(str(module.__file__)).parent.glob("*.py")}
    submodules |= {path.parent.name for path in Path(str(module.__file__)).parent.glob("*/__init__.py")}
    assert not submodules & set(module.__all__)
