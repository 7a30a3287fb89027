"""Adapters: each knows the layout of one kind of data set on disk, and finds its scenes.

    find("folder", folder, images="images/*", masks="masks/*")     any images and masks, by patterns
    find("deepglobe", folder)                                      a set's own layout
    find(my_adapter, folder)                                       a function of your own

An adapter is a function `find(folder: Path, **options) -> Found`:

    folder      the data set's folder, absolute when an ingest calls it
    options     settings of this adapter alone, as keyword arguments; it need not take any
    Found       the scenes, in a fixed order, each name once; for a problem of a single file, a line in `rejected`

It raises SourceError when the folder does not exist or holds nothing of its layout. It should not open images: the
ingest reads every header afterwards, and reports what is wrong.
"""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from patchstore.errors import SettingError
from patchstore.sources.datasets.deepglobe import find_deepglobe
from patchstore.sources.datasets.folder import find_folder
from patchstore.sources.datasets.icg_drone import find_icg_drone
from patchstore.sources.datasets.landcover_ai import find_landcover_ai
from patchstore.sources.datasets.obx import find_obx
from patchstore.sources.datasets.tiles import find_tiles
from patchstore.sources.pairing import Found

Adapter = Callable[..., Found]
"""Called as adapter(folder, **options)."""

ADAPTERS: Mapping[str, Adapter] = {
    "folder": find_folder, "landcover_ai": find_landcover_ai, "deepglobe": find_deepglobe, "tiles": find_tiles,
    "icg_drone": find_icg_drone, "obx": find_obx}
"""The adapters that come with patchstore, by name."""


def find(adapter: str | Adapter, folder: Path, *, crs: str = "", align: bool = False, **options: Any) -> Found:
    """The scenes of a folder, by a registered adapter's name or by an adapter of your own; `options` go to it.

    `crs` and `align` become those of every scene. Raises SettingError for an unknown name, SourceError as the adapter
    does.
    """
    if isinstance(adapter, str):
        if adapter not in ADAPTERS:
            near = difflib.get_close_matches(adapter, ADAPTERS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise SettingError(f"adapter must be one of {', '.join(ADAPTERS)}, got {adapter!r}{hint}")
        adapter = ADAPTERS[adapter]
    found = adapter(folder, **options)
    return replace(found, scenes=tuple(replace(scene, crs=crs, align=align) for scene in found.scenes))
