"""The house: import roots that are no packages, and no top-level entry beside the agreed ones."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
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
    package = ROOT / "platform" / "swath"
    modules = sorted(package.rglob("*.py"))
    assert {"cli.py", "errors.py"} <= {path.name for path in modules}, "the guard looks at no file"
    for path in modules:
        imported = {name.split(".")[0] for name in _imports(path)}
        assert "ray" not in imported or path.parent.name == "distributed" or path.name == "ray_tune.py", path
        assert "mlflow" not in imported or path.name == "mlflow_store.py", path


def _imports(path: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
    return names
