"""The labels of a scene by rows, whatever their source: a mask file or polygons; inside its area of interest."""

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling

from patchstore.errors import SourceError
from patchstore.format.windows import Range
from patchstore.sources.grid import Grid, open_on
from patchstore.sources.masks import STRIP, Counts, MaskCoding, MaskReader
from patchstore.sources.scene_source import SceneSource
from patchstore.sources.vector import VectorFile, burn, is_vector

Labels = NDArray[np.uint8]
NO_POLYGON = "no polygon"
"""Name, among the ignored values, of pixels that no polygon covers."""
OUTSIDE_AREA = "outside the area"
"""Name of pixels that have a class but lie outside the area of interest."""
_SHOWN = 10
"""Undeclared values that a message lists; beyond it, how many more there are."""


class PolygonReader:
    """Polygons that carry their class in a field, as labels."""

    def __init__(self, path: Path, coding: MaskCoding, ignore: int, image: Grid) -> None:
        """Raises SourceError when the file cannot be read, does not fit the image, or has no such field."""
        self._file, self._coding, self._ignore, self._width = VectorFile(path, image), coding, ignore, image.shape[1]
        if coding.attribute not in self._file.fields and not self._file.empty:
            listed = ", ".join(self._file.fields) or "none"
            wanted = f"has no field {coding.attribute!r}" if coding.attribute else "needs a field that holds the class"
            raise SourceError(f"{path}: {wanted}; its fields are {listed}: say which (--data.attribute)")
        names = [info.name for info in coding.classes]
        self._index_of = coding.polygon_values
        self._declared = {*coding.ignored, str(ignore)} - {*self._index_of}
        self._ground = names.index(coding.background) if coding.background else ignore

    def files(self) -> tuple[Path, ...]:
        """The files whose content decides the labels."""
        return self._file.files()

    def decode(self, rows: Range) -> tuple[Labels, Counts]:
        """(labels_HW, pixels of each ignored value) of a band of rows.

        Raises SourceError on values that are neither a class nor declared ignored, unless they are to be ignored; with
        their polygons in the whole file.
        """
        shapes_N, values_N = self._file.read(rows, self._coding.attribute)
        known, codes_N = np.unique(np.array([_text(value) for value in values_N], str), return_inverse=True)
        values = known.tolist()
        if self._coding.stray == "error" and not {*values} <= {*self._index_of, *self._declared}:
            raise self._undeclared()
        codes_HW = burn(shapes_N, codes_N, rows, self._width)
        # Code -1, no polygon, takes the last place of both.
        label_of = np.array([*(self._index_of.get(value, self._ignore) for value in values), self._ground], np.uint8)
        name_of = [*(None if value in self._index_of else value for value in values),  # None: it is not ignored
                   None if self._coding.background else NO_POLYGON]
        labels_HW, ignored = np.empty(codes_HW.shape, np.uint8), Counter[str]()
        for row in range(0, len(codes_HW), STRIP):
            strip_HW = codes_HW[row:row + STRIP]
            labels_HW[row:row + STRIP] = label_of[strip_HW]
            counts = np.bincount(strip_HW.ravel() + 1, minlength=len(name_of))
            ignored.update({name: int(count) for name, count in zip(name_of, np.roll(counts, -1))
                            if name is not None and count})
        return labels_HW, dict(ignored)

    def _undeclared(self) -> SourceError:
        found = Counter(_text(value) for value in self._file.values(self._coding.attribute))
        strays = [(value, count) for value, count in found.most_common()
                  if value not in self._index_of and value not in self._declared]
        listed = ", ".join(f"{value!r} ({count:,})" for value, count in strays[:_SHOWN])
        more = f" and {len(strays) - _SHOWN:,} more" if len(strays) > _SHOWN else ""
        declare = " ".join(f"'{value}'" for value, _ in strays[:_SHOWN])
        return SourceError(f"{self._file.path}: values of {self._coding.attribute} that no class has, with their "
                           f"polygons: {listed}{more}; add them to the classes, or declare them as ignored "
                           f"(--data.ignored {declare}, or --data.stray ignore for all)")


class LabelReader:
    """The labels of one scene. Use it as a context manager."""

    def __init__(self, source: SceneSource, coding: MaskCoding, ignore: int, image: Grid) -> None:
        """Raises SourceError when a file cannot be read, does not lie on the image's grid, or is not of the coding's
        kind.
        """
        self._ignore, self._width = ignore, image.shape[1]
        self._reader: MaskReader | PolygonReader | None = None
        self.notes: tuple[str, ...] = ()
        """What was done to the mask that a report must say."""
        self._area = VectorFile(source.area, image) if source.area else None
        with ExitStack() as closing:
            if source.mask is not None:
                _check_kind(source.mask, coding)
                if coding.kind == "polygons":
                    self._reader = PolygonReader(source.mask, coding, ignore, image)
                else:
                    mask = MaskReader(source.mask, coding, ignore, image, align=source.align)
                    self._reader = closing.enter_context(mask)
                    self.notes = mask.notes
            elif source.area is not None:
                self.notes = (f"{source.image}: has no mask, so the area {source.area} changes nothing",)
            self._closing = closing.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    @property
    def places_matter(self) -> bool:
        """Whether the labels depend on where the image lies on the ground."""
        return self._area is not None or isinstance(self._reader, PolygonReader)

    def files(self) -> tuple[Path, ...]:
        """The files whose content decides the labels, in a fixed order."""
        return tuple(path for part in (self._reader, self._area) if part is not None for path in part.files())

    def settings(self) -> tuple[str, ...]:
        """What decides the labels besides the files' content, as text."""
        roles = (f"mask={self._reader is not None}", f"area={self._area is not None}")
        return *roles, *(self._reader.settings() if isinstance(self._reader, MaskReader) else ())

    def decode(self, rows: Range) -> tuple[Labels | None, Counts]:
        """(labels_HW, pixels of each ignored value) of a band of rows; none for a scene without a mask.

        Raises SourceError when a file cannot be read, and on values that are neither a class nor declared.
        """
        if self._reader is None:
            return None, {}
        labels_HW, ignored = self._reader.decode(rows)
        if self._area is not None:
            shapes_N, zeros_N = self._area.read(rows)
            outside_HW = burn(shapes_N, np.zeros_like(zeros_N), rows, self._width) < 0
            outside_HW &= labels_HW != self._ignore
            labels_HW[outside_HW] = self._ignore
            if pixels := int(np.count_nonzero(outside_HW)):
                ignored = {**ignored, OUTSIDE_AREA: pixels}
        return labels_HW, ignored


def check_labels(source: SceneSource, image: Grid) -> None:
    """Whether the files of a scene's labels fit its image, whatever their values mean. Raises SourceError."""
    if source.area is not None:
        VectorFile(source.area, image)
    if source.mask is None:
        return
    if is_vector(source.mask):
        VectorFile(source.mask, image)
    else:
        open_on(image, source.mask, Resampling.nearest, align=source.align).close()


def _check_kind(mask: Path, coding: MaskCoding) -> None:
    if is_vector(mask) and coding.kind != "polygons":
        raise SourceError(f"{mask}: holds polygons, but masks are said to be of kind {coding.kind}; if they are the "
                          "labels, say so (--data.mask polygons)")
    if not is_vector(mask) and coding.kind == "polygons":
        raise SourceError(f"{mask}: is no vector file, but masks are said to be polygons; give a GeoPackage, GeoJSON, "
                          "FlatGeobuf or Shapefile, or another kind (--data.mask index or colour)")


def _text(value: Any) -> str:
    """How a field's value is written: whole numbers without a fraction, as some formats only know floats.

    What is absent or empty has a name too, so that a message can show it and a configuration declare it.
    """
    if value is None or value != value:  # NaN is how a number that is absent is read
        return "no value"
    if value == "":
        return "empty value"
    return str(int(value)) if isinstance(value, float | np.floating) and float(value).is_integer() else str(value)
