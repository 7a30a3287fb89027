"""Which files of a folder belong together: found by patterns, paired by their places.

The place of a file is the folders that its pattern's wildcards matched, then its name without ending and suffix:
`images/**/*.tif` finds images/a/1.tif at (a, 1), and its mask at `masks/**/*.png` is masks/a/1.png. Files pair when
their places are equal, so that no two files are ever merged; what has no partner, or several, is named with its reason.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path

from patchstore.errors import SourceError
from patchstore.format.schema import ClassInfo
from patchstore.sources.raster import SIDECARS
from patchstore.sources.scene_source import SceneSource
from patchstore.sources.vector import is_vector

Place = tuple[str, ...]
_SIDECARS = (*SIDECARS, ".msk", ".shx", ".dbf", ".cpg", ".qpj", ".qix", ".sbn", ".sbx", ".shp.xml", ".gpkg-shm",
             ".gpkg-wal", ".qml", ".qmd")
"""Files that GDAL and QGIS keep beside a raster, and the other parts of a shapefile; a pattern such as images/* finds
them too."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What an adapter finds in a source folder."""

    scenes: tuple[SceneSource, ...]
    rejected: tuple[str, ...]
    """One line for each file that cannot be used (no mask, no image, two of one name), naming it and why."""
    classes: tuple[ClassInfo, ...] = ()
    """The set's own class table; () where it has none."""
    ignored: tuple[str, ...] = ()
    """Mask values that the set says are no class, in the form of `MaskCoding.ignored`."""


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files that a pattern finds, by place."""

    what: str
    """What they are to a scene, for messages: image, mask, …"""
    where: Path
    """The folder with the pattern, for messages."""
    at: dict[Place, tuple[Path, ...]]
    """The files at each place: one, or several by mistake."""

    @property
    def all(self) -> tuple[Path, ...]:
        """Every file."""
        return tuple(path for paths in self.at.values() for path in paths)

    @property
    def shared(self) -> Path | None:
        """The only file, when it is a vector file: polygons of every scene."""
        only = self.all[0] if len(self.all) == 1 else None
        return only if only is not None and is_vector(only) else None

    def of(self, place: Place) -> Path:
        """The file that belongs to a scene's image. Raises SourceError, saying of the image what is wrong."""
        if self.shared is not None:
            return self.shared
        paths = self.at.get(place, ())
        if len(paths) == 1:
            return paths[0]
        if not paths:
            raise SourceError(f"has no {self.what} of the same name among {self.where}")
        raise SourceError(f"has several files as its {self.what} ({', '.join(path.name for path in paths)}); leave one")

    def refused(self, places: Collection[Place]) -> list[str]:
        """Lines for files that are of no image at these places, or that share a place."""
        lines = [f"{path}: has the name of another {self.what} ({', '.join(str(p) for p in paths if p != path)}); "
                 "rename one, or give a pattern that finds one" for paths in self.at.values() if len(paths) > 1
                 for path in paths]
        if self.shared is None and self.what != "image":
            lines += [f"{path}: has no image of the same name" for place, (path, *more) in self.at.items()
                      if not more and place not in places]
        return lines


def find_files(source: Path, pattern: str, what: str, suffix: str = "", *, flat: bool = False,
               without: Iterable[Path] = ()) -> Files:
    """The files below a folder that a pattern (`*`, `?`, `[…]`, and `**` for any folders) finds, by place.

    `suffix`: a regular expression that is removed from the end of a file's name (its ending is already off). `flat`:
    a place is the name alone, wherever the file lies. Hidden files and sidecars are no images and are left out, as are
    the files of `without`. Raises SourceError when there is no such folder, nothing is found or a pattern is wrong.
    """
    if not source.is_dir():
        raise SourceError(f"{source}: is not a folder")
    if not pattern or Path(pattern).is_absolute():
        raise SourceError(f"{source}: the pattern of the {what}s must be relative to the folder, got {pattern!r}")
    ending = expression(suffix, "suffix", form="(?:{})$")
    at: dict[Place, tuple[Path, ...]] = {}
    apart = set(without)
    try:
        paths = sorted({path for path in source.glob(pattern) if path not in apart and _wanted(path, source)})
    except ValueError as error:  # ** within a name
        raise SourceError(f"{source}: the pattern of the {what}s {pattern!r} is wrong ({error})") from None
    for path in paths:
        folders = () if flat else _wild(path.relative_to(source).parts[:-1], Path(pattern).parts[:-1])
        assert folders is not None  # the pattern found it
        place = (*folders, ending.sub("", path.stem))
        at[place] = (*at.get(place, ()), path)
    if not at:
        raise SourceError(f"{source}: no {what} found by the pattern {pattern!r}")
    return Files(what=what, where=source / pattern, at=at)


def pair(images: Files, masks: Files | None = None, *, stacked: Sequence[Files] = (), area: Files | None = None,
         group: str = "") -> Found:
    """Make scenes of images and what belongs to them; whatever cannot be used is rejected, with its reason.

    A scene's name is its image's place: a_1 for 1 in a folder a that a wildcard matched, whatever else is there; a name
    that depended on other files would change with them, and one scene would stand in the store twice. `group`:
    a regular expression whose first group, searched in a scene's name, is its group; empty: each is one of its own.
    Raises SourceError when `group` is no such expression.
    """
    grouping = expression(group, "group", groups=1) if group else None
    parts = [part for part in (masks, *stacked, area) if part is not None]
    rejected = [line for files in (images, *parts) for line in files.refused(images.at)]
    names = {place: "_".join(place) for place in images.at}
    often = Counter(names.values())
    scenes: list[SceneSource] = []
    for place, (path, *more) in sorted(images.at.items()):
        if more:  # said above
            continue
        try:
            if often[names[place]] > 1:
                raise SourceError(f"another image would be scene {names[place]} too; rename one of them")
            scenes.append(SceneSource(
                name=names[place], image=path, mask=masks.of(place) if masks else None,
                stacked=tuple(files.of(place) for files in stacked), area=area.of(place) if area else None,
                group=_group(names[place], grouping)))
        except SourceError as error:
            said = str(error)
            rejected.append(said if said.startswith(str(path)) else f"{path}: {said}")
    return Found(scenes=tuple(scenes), rejected=tuple(rejected))


def expression(text: str, what: str, groups: int = 0, form: str = "{}") -> re.Pattern[str]:
    """A regular expression with some groups, in a form that it is used in. Raises SourceError for anything else."""
    try:
        made = re.compile(form.format(text))
    except re.error as error:
        raise SourceError(f"{what}: {text!r} is not a regular expression ({error})") from None
    if made.groups < groups:
        raise SourceError(f"{what}: {text!r} is not a regular expression with a group in brackets")
    return made


def _wanted(path: Path, source: Path) -> bool:
    hidden = any(part.startswith(".") and part != ".." for part in path.relative_to(source).parts)
    return not hidden and path.is_file() and not path.name.lower().endswith(_SIDECARS)


def _wild(folders: Place, pattern: Place) -> Place | None:
    """The folders of a path that the wildcards of a pattern match, ** as few as can be; None where it does not fit."""
    if not pattern:
        return None if folders else ()
    if pattern[0] == "**":
        rests = ((n, _wild(folders[n:], pattern[1:])) for n in range(len(folders) + 1))
        return next(((*folders[:n], *rest) for n, rest in rests if rest is not None), None)
    if not folders or not fnmatchcase(folders[0], pattern[0]):
        return None
    rest = _wild(folders[1:], pattern[1:])
    return None if rest is None else (*(folders[:1] if has_magic(pattern[0]) else ()), *rest)


def _group(name: str, grouping: re.Pattern[str] | None) -> str:
    if grouping is None:
        return name
    match = grouping.search(name)
    if match is None or not match[1]:
        raise SourceError(f"the group's regular expression {grouping.pattern!r} finds nothing in its name {name}")
    return match[1]
