"""Ingest as a configuration describes it: its section `data`, given to patchstore's ingest of a folder."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import patchstore
from patchstore import ClassInfo, FolderPreview, FolderReport, Found, Runner, SettingError, Survey, one_by_one
from patchstore.format import colour
from swath import extensions
from swath.config import LAYOUT, DataConfig
from swath.errors import ConfigError


def run(data: DataConfig, runner: Runner = one_by_one, *, skip_bad: bool = False) -> FolderReport:
    """Ingest a source folder into a store; `runner` decides where the scenes are written.

    Raises ConfigError when a field is missing or wrong, StoreError when a store of another kind is there, SourceError
    when files do not fit each other or the store, unless `skip_bad` leaves them out. Nothing is written then.
    """
    return _survey(data).ingest(run=runner, skip_bad=skip_bad)


def preview(data: DataConfig) -> FolderPreview:
    """Estimate size and time of `run`; reads sources and writes nothing. Raises as `run`, but lists unfit files."""
    return _survey(data).preview()


def sources(data: DataConfig) -> Found:
    """The scenes that the configured adapter finds in the source folder. Raises ConfigError, SourceError."""
    with _fields_named():
        return patchstore.find(_adapter(data), Path(data.source).resolve(), **_options(data))


def class_infos(data: DataConfig) -> list[ClassInfo]:
    """The configured classes."""
    return [ClassInfo(name, colour(code)) for name, code in (text.split("=") for text in data.classes)]


def _survey(data: DataConfig) -> Survey:
    for field in ("source", "store"):
        if not getattr(data, field):
            raise ConfigError(f"data.{field}: is empty; give --data.{field}")
    with _fields_named():
        return patchstore.survey_folder(
            data.store, data.source, classes=class_infos(data), adapter=_adapter(data), mask=data.mask,
            ignored=data.ignored, stray=data.stray, attribute=data.attribute, background=data.background,
            chunk=data.chunk, shard=data.shard, zstd=data.zstd, **_options(data))


def _adapter(data: DataConfig) -> str | Callable[..., Found]:
    """The adapter: a registered name, or the function that a dotted path names."""
    return extensions.resolve(data.adapter, "data.adapter") if extensions.is_path(data.adapter) else data.adapter


def _options(data: DataConfig) -> dict[str, Any]:
    layout = {name: getattr(data, name) for name in LAYOUT} if data.adapter == "folder" else {}
    return {"crs": data.crs, "align": data.align, **layout}


@contextmanager
def _fields_named() -> Iterator[None]:
    """Name the field of the configuration where patchstore's error names its setting: they have the same names."""
    try:
        yield
    except SettingError as error:
        raise ConfigError(f"data.{error}") from None
