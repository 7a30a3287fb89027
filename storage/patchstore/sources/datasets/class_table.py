"""Class tables as data sets carry them: CSV files with the columns name, r, g, b."""

import csv
from pathlib import Path

from patchstore.errors import SourceError
from patchstore.format.schema import ClassInfo

_COLUMNS = ("name", "r", "g", "b")


def find_table(source: Path, name: str) -> Path | None:
    """The class table of that name below a source folder, else in the two folders above it; None where there is none.

    Sets come with their table beside the folders of images, which are often given as the source. Raises SourceError
    when there are several below the source.
    """
    below = sorted(path for path in source.rglob("*") if path.name.lower() == name and path.is_file())
    if len(below) > 1:
        raise SourceError(f"{source}: has several class tables ({', '.join(map(str, below))}); leave one")
    places = [*below, *(folder / name for folder in source.parents[:2])]
    return next((path for path in places if path.is_file()), None)


def read_table(path: Path) -> tuple[ClassInfo, ...]:
    """The classes of a table, in its order. Columns may stand in any order and case, and further ones are left out.

    Raises SourceError, naming the line, when there is no header, a value is no colour, or a name stands twice.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, skipinitialspace=True, strict=True)
            rows = [(reader.line_num, [text.strip() for text in row]) for row in reader if any(map(str.strip, row))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path}: cannot be read as a class table ({error})") from None
    header = [text.lower() for text in rows[0][1]] if rows else []
    absent = [column for column in _COLUMNS if column not in header]
    if absent:
        raise SourceError(f"{path}: its first line must name the columns {', '.join(_COLUMNS)}; {', '.join(absent)} "
                          "is not among them")
    if not rows[1:]:
        raise SourceError(f"{path}: has no class below its header")
    places = [header.index(column) for column in _COLUMNS]
    classes: list[ClassInfo] = []
    for line, row in rows[1:]:
        info = _row(f"{path}, line {line}", row, places)
        if any(other.name == info.name for other in classes):
            raise SourceError(f"{path}, line {line}: the class {info.name} stands above already")
        classes.append(info)
    return tuple(classes)


def _row(where: str, row: list[str], places: list[int]) -> ClassInfo:
    if len(row) <= max(places):
        raise SourceError(f"{where}: has {len(row)} columns, fewer than the header")
    name, *bands = (row[place] for place in places)
    try:
        red, green, blue = (int(text) for text in bands)
    except ValueError:
        raise SourceError(f"{where}: r, g, b must be whole numbers, got {', '.join(bands)}") from None
    if not name or not all(0 <= band <= 255 for band in (red, green, blue)):
        raise SourceError(f"{where}: must have a name, and r, g, b from 0 to 255, got {name!r}, {', '.join(bands)}")
    return ClassInfo(name, (red, green, blue))
