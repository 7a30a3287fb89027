"""cluster.yaml and jobs/runtime_env.yaml: what Ray says of them, and what they promise."""

import zipfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray._private.runtime_env.packaging import create_package
from ray.autoscaler._private.util import prepare_config, validate_config

from support.paths import ROOT

Yaml = dict[str, Any]


def check(config: Yaml) -> Yaml:
    """What `ray up` does before it asks the cloud for anything."""
    prepared: Yaml = prepare_config(deepcopy(config))
    validate_config(prepared)
    return prepared


@pytest.fixture
def cluster() -> Yaml:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


@pytest.fixture
def runtime_env() -> Yaml:
    return yaml.safe_load((ROOT / "jobs" / "runtime_env.yaml").read_text())


def test_the_launcher_takes_the_configuration(cluster: Yaml) -> None:
    assert check(cluster)["cluster_name"] == "swath"


def _unknown_key(cluster: Yaml) -> None:
    cluster["worker_count"] = 4


def _unknown_key_of_a_node_type(cluster: Yaml) -> None:
    cluster["available_node_types"]["gpu"]["max_worker"] = 4


def _more_at_least_than_at_most(cluster: Yaml) -> None:
    cluster["available_node_types"]["gpu"]["min_workers"] = cluster["max_workers"] + 1


def _no_such_head(cluster: Yaml) -> None:
    cluster["head_node_type"] = "heads"


@pytest.mark.parametrize(("breaks", "error", "says"), [
    (_unknown_key, jsonschema.ValidationError, "worker_count"),
    (_unknown_key_of_a_node_type, jsonschema.ValidationError, "max_worker"),
    (_more_at_least_than_at_most, ValueError, "max_workers"),
    (_no_such_head, ValueError, "head_node_type"),
])
def test_the_launcher_refuses_a_broken_one(cluster: Yaml, breaks: Callable[[Yaml], None], error: type[Exception],
                                           says: str) -> None:
    breaks(cluster)
    with pytest.raises(error, match=says):
        check(cluster)


def test_gpu_nodes_come_and_go_and_the_head_has_none(cluster: Yaml) -> None:
    types = check(cluster)["available_node_types"]
    head = types.pop(cluster["head_node_type"])
    assert "GPU" not in head["resources"]
    assert head["max_workers"] == 0
    gpu = [node for node in types.values() if node["resources"].get("GPU", 0) > 0]
    assert gpu
    assert all(node["min_workers"] == 0 < node["max_workers"] <= cluster["max_workers"] for node in gpu)


def test_nodes_install_this_project_at_the_tested_versions(cluster: Yaml) -> None:
    prepared = check(cluster)
    for commands in (prepared["head_setup_commands"], prepared["worker_setup_commands"]):
        installs = [c for c in commands if "pip install" in c and c.endswith(" ~/swath")]
        assert len(installs) == 1
        assert "--constraint ~/swath/constraints.txt" in installs[0]
        assert "python3.11 -m venv ~/venv" in installs[0]
    for name in ("platform", "storage", "pyproject.toml", "constraints.txt", "README.md"):
        assert cluster["file_mounts"][f"~/swath/{name}"] == name
        assert (ROOT / name).exists()


def test_head_and_workers_start_with_one_environment(cluster: Yaml) -> None:
    environment = next(c for c in cluster["setup_commands"] if c.startswith("cat > ~/swath/environment"))
    assert "export PATH=~/venv/bin:$PATH" in environment
    assert "export RAY_AUTH_MODE=token" in environment
    assert "unset PYTHONDONTWRITEBYTECODE" in environment
    starts = [c for part in ("head", "worker") for c in cluster[f"{part}_start_ray_commands"] if "ray start" in c]
    assert len(starts) == 2
    assert all(c.startswith(". ~/swath/environment; ") for c in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]


def test_a_job_carries_both_packages(runtime_env: Yaml) -> None:
    assert runtime_env["py_modules"] == ["platform/swath", "storage/patchstore"]
    assert all((ROOT / module / "__init__.py").exists() for module in runtime_env["py_modules"])
    assert (ROOT / runtime_env["working_dir"] / "jobs" / "train.py").exists()


def test_what_travels_with_a_job(runtime_env: Yaml, tmp_path: Path) -> None:
    def packed(folder: str, module: bool) -> set[str]:
        file = tmp_path / f"{Path(folder).name or 'work'}.zip"
        create_package(str(ROOT / folder), file, include_gitignore=True, include_parent_dir=module,
                       excludes=runtime_env["excludes"])
        with zipfile.ZipFile(file) as package:
            return {name for name in package.namelist() if not name.endswith("/")}

    work = packed(runtime_env["working_dir"], module=False)
    assert {"jobs/train.py", "jobs/recipes.py"} <= work
    assert not {name.split("/")[0] for name in work} & {"platform", "storage", "tests", "runs", ".git", ".venv"}
    for module in runtime_env["py_modules"]:
        files = {str(path.relative_to((ROOT / module).parent)) for path in (ROOT / module).rglob("*")
                 if path.suffix == ".py" or path.name == "py.typed"}
        assert packed(module, module=True) == files
