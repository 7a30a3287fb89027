"""Look after a store: what is in it, removing scenes and old versions, exporting scenes.

swath store list STORE
swath store remove STORE SCENE …
swath store collect STORE [--unfinished] [--pretend]
swath store export STORE SCENE OUT.tif [--array mask] [--rows 0 4096] [--cols 0 4096] [--level 2]
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

import patchstore
from swath import say
from swath.commands.command_line import finish, read
from swath.commands.paths import absolute_path
from swath.errors import ConfigError
from swath.report import tables


@dataclass(frozen=True, kw_only=True)
class List:
    """List the scenes of a store with their versions."""

    store: Annotated[str, tyro.conf.Positional]
    """Folder or URI of the store."""
    json: bool = False
    """Print one JSON object as the last line: scenes, each with its versions."""

    def run(self) -> None:
        """Do it."""
        entries = patchstore.versions(absolute_path(self.store, "STORE"))
        Console().print(tables.inventory_table(entries))
        finish(self.json, {"scenes": {entry.name: [asdict(version) for version in entry.versions]
                                          for entry in entries}})


@dataclass(frozen=True, kw_only=True)
class Remove:
    """Remove scenes, with all of their versions."""

    store: Annotated[str, tyro.conf.Positional]
    """Folder or URI of the store."""
    scenes: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Names of the scenes."""

    def run(self) -> None:
        """Do it."""
        if not self.scenes:
            raise ConfigError("name the scenes to remove")
        patchstore.remove(absolute_path(self.store, "STORE"), self.scenes)
        say.print_line(f"removed {', '.join(self.scenes)}")


@dataclass(frozen=True, kw_only=True)
class Collect:
    """Remove versions that a later one has superseded. Not while scenes are ingested into the store."""

    store: Annotated[str, tyro.conf.Positional]
    """Folder or URI of the store."""
    unfinished: bool = False
    """Also what killed ingests have left; a running one looks the same."""
    pretend: bool = False
    """Only say what would be removed."""

    def run(self) -> None:
        """Do it."""
        gone = patchstore.collect(absolute_path(self.store, "STORE"), unfinished=self.unfinished, pretend=self.pretend)
        say.print_line("\n".join(gone) if gone else "nothing to collect")


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a scene, or a window of it, as Cloud-Optimised GeoTIFF."""

    store: Annotated[str, tyro.conf.Positional]
    """Folder or URI of the store."""
    scene: Annotated[str, tyro.conf.Positional]
    """Name of the scene."""
    output: Annotated[Path, tyro.conf.Positional]
    """The GeoTIFF to write."""
    array: Literal["image", "mask"] = "image"
    """The pixels, or their labels."""
    rows: tuple[int, int] | None = None
    """First row, and the row after the last, in pixels of the level."""
    cols: tuple[int, int] | None = None
    """First column, and the column after the last, in pixels of the level."""
    level: int = 0
    """Level: its pixels are 2 to the power of it as large."""
    overwrite: bool = False
    """Whether an output that exists may be replaced."""

    def run(self) -> None:
        """Do it."""
        store = patchstore.open(absolute_path(self.store, "STORE"))
        try:
            patchstore.export(store, self.scene, absolute_path(self.output, "OUT"), array=self.array, rows=self.rows,
                              cols=self.cols, level=self.level, overwrite=self.overwrite)
        except ValueError as error:  # a scene, a level or a range that is not there
            raise ConfigError(str(error)) from None
        say.print_line(f"wrote {self.output}")


Verb = (Annotated[List, tyro.conf.subcommand("list")] | Annotated[Remove, tyro.conf.subcommand("remove")]
        | Annotated[Collect, tyro.conf.subcommand("collect")] | Annotated[Export, tyro.conf.subcommand("export")])


def main(argv: Sequence[str]) -> None:
    """Run the job."""
    verb: List | Remove | Collect | Export = read(Verb, argv)  # type: ignore[arg-type]
    verb.run()
