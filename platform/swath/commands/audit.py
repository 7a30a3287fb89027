"""Check that a store still holds what was written; exits with 1, and a list, where it does not.

swath audit STORE [--sample 0.05] [--json]
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from patchstore.format import Folder, need_settings, normal
from patchstore.upkeep import SceneAudit, audit_scene, class_totals, scene_names
from swath.commands.command_line import finish, read
from swath.commands.paths import absolute_path
from swath.errors import ConfigError
from swath.report import tables


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Check that a store still holds what was written."""

    store: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="STORE")]
    """Store, at any address."""
    sample: float = 1.0
    """Share of the shards whose content is looked at; below 1 a quick look."""
    seed: int = 0
    """What the sample is drawn by."""
    json: bool = False
    """Print one JSON object as the last line: store, sample, scenes, files, bytes, pixels, classes (with pixels, share,
    km2), problems, notes."""

    def __post_init__(self) -> None:
        if not 0 < self.sample <= 1:
            raise ConfigError(f"sample: must be above 0 and at most 1, got {self.sample}")


def main(argv: Sequence[str]) -> None:
    """Run the job."""
    arguments = read(Arguments, argv)
    uri = normal(absolute_path(arguments.store, "STORE"))
    settings = need_settings(Folder(uri))
    audits = list(_audits(uri, arguments))
    classes = class_totals(audits, [info.name for info in settings.classes])
    out = Console(soft_wrap=True, highlight=False)
    out.print(tables.audit_table(uri, audits, classes))
    notes, problems = ([line for scene in audits for line in getattr(scene, kind)] for kind in ("notes", "problems"))
    for line in (*(f"note: {note}" for note in notes), *problems):
        out.print(line, markup=False)
    finish(arguments.json, {
        "store": uri, "sample": arguments.sample, "scenes": len(audits), "files": sum(scene.files for scene in audits),
        "bytes": sum(scene.size for scene in audits), "pixels": sum(scene.pixels for scene in audits),
        "classes": {name: asdict(total) for name, total in classes.items()}, "problems": problems, "notes": notes})
    if problems:
        sys.exit(1)


def _audits(uri: str, arguments: Arguments) -> Iterator[SceneAudit]:
    bar = Progress(TextColumn("audit"), BarColumn(), MofNCompleteColumn(), TextColumn("scenes"), TimeRemainingColumn(),
                   console=Console(file=sys.stderr))
    with bar:
        for name in bar.track(scene_names(uri)):
            yield audit_scene(uri, name, sample=arguments.sample, seed=arguments.seed)
