"""The layout: import roots that are no packages, agreed top-level entries, frameworks in their places, names that hide
no other, and tests that stand alone."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from support.paths import ROOT

PACKAGES = {"swath": ROOT / "platform" / "swath", "patchstore": ROOT / "storage" / "patchstore"}
ENTRIES = {"README.md", "pyproject.toml", "constraints.txt", "LICENSE", "cluster.yaml", "platform", "jobs", "storage",
           "tests"}


def test_the_top_level_has_the_agreed_entries_alone() -> None:
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout: what was made here cannot be told from what belongs here")
    top = {Path(name).parts[0] for name in listed.stdout.splitlines()}
    assert {name for name in top if not name.startswith(".")} <= ENTRIES


def test_import_roots_hold_one_package_and_nothing_else() -> None:
    for root, package in (("platform", "swath"), ("storage", "patchstore")):
        inside = {p.name for p in (ROOT / root).iterdir()} - {"__pycache__", "README.md"}
        assert inside == {package}, f"{root}/ is an import root: a module beside {package} would shadow others"


def test_the_standard_librarys_platform_is_not_shadowed() -> None:
    code = "import platform, swath, patchstore; print(platform.python_version())"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("3.")


def test_frameworks_stay_at_the_edge() -> None:
    for path in _modules("swath"):
        imported = {name.split(".")[0] for name in _imports(path)}
        assert "ray" not in imported or path.parent.name == "distributed" or path.name == "ray_tune.py", path
        assert "mlflow" not in imported or path.name == "mlflow_store.py", path


@pytest.mark.parametrize("package", PACKAGES)
def test_no_submodule_bears_the_name_of_an_export(package: str) -> None:
    """`import swath.search` would put the module in the place of the function `swath.search`."""
    seen = 0
    for init in _modules(package):
        if init.name != "__init__.py":
            continue
        seen += 1
        below = {path.stem for path in init.parent.glob("*.py")} | {path.parent.name for path in
                                                                    init.parent.glob("*/__init__.py")}
        assert not _exports(init) & below, init
    assert seen > 3


def test_no_test_imports_from_another_test_file() -> None:
    files = sorted((ROOT / "tests").rglob("*.py"))
    tests = {path.stem for path in files if path.name.startswith(("test_", "conftest"))}
    assert {"test_layout", "test_loop", "conftest"} <= tests, "the guard looks at no file"
    for path in files:
        taken = {part for name in _imports(path) for part in name.split(".")} & tests
        assert not taken, f"{path} imports from {', '.join(taken)}: what tests share lies in tests/support"


def _modules(package: str) -> list[Path]:
    """All modules of a package and of those in it."""
    found = sorted(PACKAGES[package].rglob("*.py"))
    assert PACKAGES[package] / "errors.py" in found, "the guard looks at no file"
    assert any(path.parent != PACKAGES[package] for path in found), "the guard looks into no package"
    return found


def _exports(init: Path) -> set[str]:
    """The names that an `__init__.py` gives: what it lists, imports and defines."""
    root = next(folder for folder in PACKAGES.values() if init.is_relative_to(folder)).parent
    module = importlib.import_module(".".join(init.parent.relative_to(root).parts))
    names = set(getattr(module, "__all__", ()))
    for node in ast.parse(init.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
    return names


def _imports(path: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
    return names
