"""What tests share: a small generated data set in a store, and jobs that run."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings

from support.commands import run_job

settings.register_profile("swath", deadline=None)  # a busy machine is no failure; pytest-timeout finds what hangs
settings.load_profile("swath")

# Without compiled bytecode every Ray process compiles torch and Ray anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


QUICK = (
    "house", "splits_patches", "figures", "tuning/test_space.py", "tuning/test_trials.py", "jobs/test_config.py",
    "training/test_losses.py", "training/test_losses_definitions.py", "training/test_schedule.py",
    "scoring/test_metrics.py", "scoring/test_blend.py", "scoring/test_score_counts.py", "scoring/test_score_result.py",
    "storage/test_patchstore.py", "storage/test_pyramid.py", "storage/test_merge.py", "loading/test_augment.py")
"""Folders and files of the check before each commit: two minutes on two cores, no Ray, no training."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as quick the tests of QUICK that are not slow."""
    quick = [Path(__file__).parent / name for name in QUICK]
    assert all(path.exists() for path in quick)
    for item in items:
        if any(item.path.is_relative_to(path) for path in quick) and "slow" not in item.keywords:
            item.add_marker(pytest.mark.quick)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six scenes of 320 px in three groups, as GeoTIFFs: images/ and masks/."""
    from patchstore.testing import make_dataset

    folder = tmp_path_factory.mktemp("dataset")
    make_dataset(folder, scenes=6, size=320, seed=1, groups=3)
    return folder


@pytest.fixture(scope="session")
def store_uri(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store of that data set."""
    from swath import recipes
    from swath.experiments import ingest

    uri = str(tmp_path_factory.mktemp("store") / "synthetic.zarr")
    data = replace(recipes.synthetic().data, source=str(dataset), store=uri)
    ingest.run(data, ingest.one_by_one)
    return uri


@pytest.fixture
def store(store_uri: str):  # type: ignore[no-untyped-def]
    """That store, opened."""
    import patchstore

    return patchstore.open(store_uri)


@pytest.fixture
def job() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The function `run_job`."""
    return run_job


@pytest.fixture
def job_here(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
             ) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a job's entry point as `run_job` does, but in this process, which saves the seconds that imports take."""

    def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        from swath import cli

        argv = [f"jobs/{name}.py", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", argv)
        capfd.readouterr()
        try:
            cli.run(name)
            code = 0
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 1
        return subprocess.CompletedProcess(argv, code, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def alone(store_uri: str, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """The outcome of the calm run in this process, undisturbed."""
    from support.configs import calm
    from swath.experiments import experiment

    return experiment.train(calm(store_uri), tmp_path_factory.mktemp("alone"))
