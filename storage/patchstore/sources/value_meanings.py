"""What the values of a class raster mean, whatever tool made it.

That is said by the first of these that says anything of a value:

    a table              value, colour or name -> class, by whoever knows the file
    names in the file    a JSON list in the tag CLASSES, as our own maps have it, or GDAL's category names
    colours              of a palette or of three bands, where they are the classes' own
    the value itself     where there is no table, and the file has neither names nor such colours: a class's index
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
from rasterio.enums import ColorInterp

from patchstore.errors import SourceError
from patchstore.format.schema import ClassInfo
from patchstore.sources.grid import Grid
from patchstore.sources.raster import open_dataset, reading

How = Literal["table", "names", "colours", "indices"]


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a class raster says of itself."""

    grid: Grid
    dtypes: tuple[str, ...]
    """Of the bands, but for alpha."""
    nodata: float | None
    names: Mapping[int, str]
    """Name of each value, where the file has names."""
    palette: Mapping[int, int]
    """Colour of each value as 0xRRGGBB, where the file has a palette."""

    @property
    def path(self) -> Path:
        """The file."""
        return self.grid.path

    @property
    def coloured(self) -> bool:
        """Whether a pixel's value is its colour, 0xRRGGBB, in three bands."""
        return len(self.dtypes) == 3

    def values_of(self, key: str) -> list[int]:
        """The values that a table's key stands for: itself if it is a number, else all of that colour or name."""
        if key.removeprefix("-").isdecimal():
            return [int(key)]
        if re.fullmatch("#[0-9A-Fa-f]{6}", key):
            code = int(key[1:], 16)
            return [code] if self.coloured else [value for value, colour in self.palette.items() if colour == code]
        return [value for value, name in self.names.items() if name == key]


@dataclass(frozen=True, kw_only=True)
class Legend:
    """What the values of a class raster mean."""

    codes: Mapping[int, int]
    """Class index of each known value; for those that a table says are no class, the table's number for that."""
    nodata: float | None
    """Value that says nothing, unless the table says otherwise."""
    how: How
    """The first of these that says anything of this file."""
    clash: str = ""
    """Class that the nodata value would stand for if it were not nodata."""


def read_header(path: Path) -> Header:
    """The header of a raster. Raises SourceError when it cannot be read, or its names are damaged."""
    with open_dataset(path) as dataset, reading(path):
        alpha = [what is ColorInterp.alpha for what in dataset.colorinterp]
        listed = dataset.tags().get("CLASSES")
        names = _category_names(path) if listed is None else _tag_names(path, listed)
        return Header(grid=Grid.of(path, dataset), nodata=dataset.nodata, palette=_palette(dataset), names=names,
                      dtypes=tuple(dtype for dtype, is_alpha in zip(dataset.dtypes, alpha) if not is_alpha))


def read_legend(header: Header, classes: Sequence[ClassInfo], table: Mapping[str, int]) -> Legend:
    """What a raster's values mean. `table`: by a value, #RRGGBB or name of the file, the index of a class, or any other
    number for what is none.

    Raises SourceError when the raster's bands are not those of a class map, where no value is a class, and where the
    table has two for one value.
    """
    _check_bands(header)
    how: How
    of_table = _of_table(header, table)
    of_name = {info.name: index for index, info in enumerate(classes)}
    of_colour = _by_colour(classes)
    colours = {colour: colour for colour in of_colour} if header.coloured else header.palette
    of_colours = {value: of_colour[colour] for value, colour in colours.items() if colour in of_colour}
    if header.names:
        how, found = "names", {value: of_name[name] for value, name in header.names.items() if name in of_name}
    elif of_colours:
        how, found = "colours", of_colours
    elif table or header.coloured:
        how, found = "table", {}
    else:
        how, found = "indices", {index: index for index in range(len(classes))}
    found |= of_table
    if not found:
        said = f"its names ({', '.join(header.names.values())}) are" if header.names else "what the table has is"
        raise SourceError(f"{header.path}: {said} none of the classes ({', '.join(of_name)}); say what its values are: "
                          "--map-classes VALUE=CLASS")
    nodata = header.nodata
    if nodata is not None and header.coloured:
        nodata = nodata * 0x010101
    if nodata in of_table:
        nodata = None
    clash = "" if nodata is None or nodata not in found else classes[found[int(nodata)]].name
    return Legend(codes=found, nodata=nodata, how="table" if of_table else how, clash=clash)


def _check_bands(header: Header) -> None:
    listed = ", ".join(header.dtypes) or "nothing but alpha"
    if header.coloured and set(header.dtypes) == {"uint8"}:
        return
    if len(header.dtypes) != 1:
        raise SourceError(f"{header.path}: a map has one band of class numbers, or three of uint8 that are colours, "
                          f"but this has {len(header.dtypes)} ({listed}); choose the one that holds the classes "
                          "(gdal_translate -b)")
    if np.dtype(header.dtypes[0]).kind not in "iuf":
        raise SourceError(f"{header.path}: a map holds the numbers of classes, but this is of {listed}; convert it "
                          "(gdal_translate -ot Byte)")


def _of_table(header: Header, table: Mapping[str, int]) -> dict[int, int]:
    """The table by values: several keys may stand for one (1, 01, its name, its colour), as long as they agree."""
    codes: dict[int, int] = {}
    for key, code in table.items():
        for value in header.values_of(key):
            if codes.setdefault(value, code) != code:
                raise SourceError(f"{header.path}: {key} stands for its value {value}, to which another entry of the "
                                  "table gives another class; leave one of them out of --map-classes")
    return codes


def _by_colour(classes: Sequence[ClassInfo]) -> dict[int, int]:
    """The class of each colour that one class alone has."""
    codes = [int(info.code[1:], 16) for info in classes]
    return {code: index for index, code in enumerate(codes) if codes.count(code) == 1}


def _palette(dataset: Any) -> dict[int, int]:
    if dataset.count == 0 or dataset.colorinterp[0] is not ColorInterp.palette:
        return {}
    return {value: red << 16 | green << 8 | blue for value, (red, green, blue, _) in dataset.colormap(1).items()}


def _tag_names(path: Path, text: str) -> dict[int, str]:
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SourceError(f"{path}: its tag CLASSES must be a JSON list of names, got {text[:60]!r}; mend it, or "
                          "remove it (gdal_edit.py -unsetmd)")
    return dict(enumerate(names))


def _category_names(path: Path) -> dict[int, str]:
    """GDAL's category names, which rasterio does not give: from a VRT, or the side file that GDAL keeps them in."""
    for file in (path.with_name(f"{path.name}.aux.xml"), path):
        if file.suffix.lower() not in (".xml", ".vrt") or not file.is_file():
            continue
        try:
            found = ElementTree.parse(file).findall(".//CategoryNames/Category")
        except (ElementTree.ParseError, OSError) as error:
            raise SourceError(f"{file}: cannot be read ({error}); mend it, or remove it") from None
        if found:
            return {value: each.text for value, each in enumerate(found) if each.text}
    return {}
