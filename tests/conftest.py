"""What tests share: a small generated data set in a store, and jobs that run."""

import importlib
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
    import recipes
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
            cli.run(importlib.import_module(name).main)
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
