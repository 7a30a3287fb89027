"""From the values of a mask file, colours or indices, to class indices, by tables; what is ignored is counted by value.

A code numbers what a pixel may be: 0 … K-1 the classes, then the values declared ignored, last what nobody declared.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from rasterio.enums import MaskFlags, Resampling

from patchstore.errors import SourceError
from patchstore.format.schema import ClassInfo, colour
from patchstore.format.windows import Range
from patchstore.sources.grid import Grid, open_on
from patchstore.sources.raster import content_files, reading

Array = NDArray[Any]
Counts = dict[str, int]
STRIP = 256
"""Rows that are decoded at once."""
OUTSIDE = "outside the mask"
"""Name, among the ignored values, of pixels that an aligned mask does not reach, or that are transparent in it."""
STRAY_COLOURS = "other colours"
"""Name of all colours that nobody declared, where they are to be ignored: a lossy mask has thousands."""
_SHOWN = 10
"""Undeclared values that a message lists; beyond it, how many more there are."""


@dataclass(frozen=True, kw_only=True)
class MaskCoding:
    """What the values of a mask file mean."""

    kind: Literal["index", "colour", "polygons"] = "index"
    """Class indices, or the classes' colours (a palette counts by its colours), or polygons of a vector file."""
    classes: tuple[ClassInfo, ...]
    ignored: tuple[str, ...] = ()
    """Values that are known and no class: colours (#RRGGBB) for kind `colour`, indices for `index`, values of the
    attribute for `polygons`. The index that a store uses for ignored pixels is one of them in any case."""
    stray: Literal["error", "ignore"] = "error"
    """What to do with values that are neither a class nor declared: refuse them, or ignore and count them (the edges of
    classes in a lossy mask)."""
    attribute: str = ""
    """Polygons: the field that holds the class's name or index."""
    background: str = ""
    """Polygons: the class of ground that no polygon covers; empty: it is ignored, and counted."""

    def __post_init__(self) -> None:
        names = [info.name for info in self.classes]
        if self.kind != "polygons" and (self.attribute or self.background):
            raise ValueError(f"attribute and background are for masks of kind polygons, but the kind is {self.kind}")
        if self.background and self.background not in names:
            raise ValueError(f"background must be one of the classes {', '.join(names)}, got {self.background!r}")
        wrong = [text for text in self.ignored if not self._is_value(text)]
        if wrong:
            form = "colours #RRGGBB" if self.kind == "colour" else "indices"
            raise ValueError(f"ignored values of a mask of kind {self.kind} must be {form}, got {', '.join(wrong)}")
        if self.kind == "polygons":
            twice = sorted({*self.polygon_values} & {*self.ignored})
        else:
            values = [*self.class_values, *(self.value(text) for text in self.ignored)]
            twice = [self.label(value) for value, count in Counter(values).items() if count > 1]
        if twice:
            raise ValueError(f"classes and ignored values must be different, but {', '.join(twice)} stands more "
                             "than once")

    @property
    def polygon_values(self) -> dict[str, int]:
        """The class that each value of the polygons' field means: its name, or its index where no name is a number."""
        names = {info.name: index for index, info in enumerate(self.classes)}
        if any(name.strip().isdecimal() for name in names):
            return names
        return names | {str(index): index for index in range(len(self.classes))}

    def _is_value(self, text: str) -> bool:
        if self.kind == "index":
            return text.removeprefix("-").isdecimal()
        return self.kind == "polygons" or text.startswith("#")

    @property
    def class_values(self) -> list[int]:
        """The value of each class in a mask: its index, or its colour as 0xRRGGBB."""
        if self.kind == "index":
            return list(range(len(self.classes)))
        return [self.value(info.code) for info in self.classes]

    def value(self, text: str) -> int:
        """The number of a value as it is written: #RRGGBB or an index."""
        if self.kind == "index":
            return int(text)
        red, green, blue = colour(text)
        return red << 16 | green << 8 | blue

    def label(self, value: int) -> str:
        """How a number is written."""
        return str(value) if self.kind == "index" else f"#{value:06X}"


class MaskReader:
    """An open mask file, decoded by bands of rows of its image's grid. Use it as a context manager."""

    def __init__(self, path: Path, coding: MaskCoding, ignore: int, image: Grid, *, align: bool = False) -> None:
        """With `align` a mask on another grid is warped to its image's, to the nearest pixel.

        Raises SourceError when the file cannot be read, does not lie on its image's grid, or has no values of the
        coding's kind.
        """
        self.path, self.coding, self.ignore = path, coding, ignore
        self._file = open_on(image, path, Resampling.nearest, align=align)
        self._source = self._file.source
        self.notes = (self._file.note,) if self._file.warped else ()
        self._width = image.shape[1]
        self._check_bands()
        self._masked = MaskFlags.per_dataset in self._source.mask_flag_enums[0]
        self._palette = self._values_of_palette()
        self._ignored = [coding.value(text) for text in coding.ignored]
        if coding.kind == "index":
            self._ignored += sorted({ignore, *self._nodata()} - {*coding.class_values, *self._ignored})
        known = [*coding.class_values, *self._ignored]
        self._other = len(known)
        dtype = np.uint8 if self._other < 256 else np.uint16
        size = 1 << 24 if coding.kind == "colour" else 257  # of indices the last stands for all beyond 0 … 255
        self._code_of = np.full(size, self._other, dtype)
        self._beyond: dict[int, int] = {}
        for code, value in enumerate(known):
            if coding.kind == "index" and not 0 <= value <= 255:
                self._beyond[value] = code
            else:
                self._code_of[value] = code
        self._label_of = np.full(max(256, self._other + 1), ignore, np.uint8)
        self._label_of[:len(coding.classes)] = np.arange(len(coding.classes))

    def __enter__(self) -> "MaskReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def files(self) -> tuple[Path, ...]:
        """The files whose content decides the values."""
        return content_files(self._source)

    def settings(self) -> tuple[str, ...]:
        """What decides the labels besides the files' content, as text: nodata and palette may stand in a side
        file that viewers write to as well."""
        palette = () if self._palette is None else (f"palette={hashlib.sha256(self._palette.tobytes()).hexdigest()}",)
        return (*(f"nodata={value}" for value in self._nodata()), *palette, self._file.place)

    def decode(self, rows: Range) -> tuple[NDArray[np.uint8], Counts]:
        """(labels_HW, pixels of each ignored value) of a band of rows.

        Raises SourceError on values that are neither a class nor declared ignored, unless they are to be ignored; with
        their pixels in the whole mask.
        """
        labels_HW = np.empty((rows[1] - rows[0], self._width), np.uint8)
        ignored: Counter[str] = Counter()
        for strip, values_HW, reached_HW in self._strips(rows):
            codes_HW = self._codes(values_HW)
            out_HW = labels_HW[strip[0] - rows[0]:strip[1] - rows[0]]
            out_HW[...] = _looked_up(self._label_of, codes_HW)
            if reached_HW is None and codes_HW.max() < len(self.coding.classes):
                continue
            beyond_HW = codes_HW >= len(self.coding.classes)
            if reached_HW is not None:
                out_HW[~reached_HW] = self.ignore
                ignored[OUTSIDE] += int(np.count_nonzero(~reached_HW))
                beyond_HW &= reached_HW
            for code, count in enumerate(np.bincount(codes_HW[beyond_HW]).tolist()):
                if count and code == self._other:
                    ignored.update(self._strays(values_HW[beyond_HW & (codes_HW == code)]))
                elif count:
                    ignored[self.coding.label(self._ignored[code - len(self.coding.classes)])] += count
        return labels_HW, {value: pixels for value, pixels in ignored.items() if pixels}

    def _strays(self, values_N: Array) -> Counts:
        if self.coding.stray == "error":
            raise self._undeclared()
        if self.coding.kind == "colour":
            return {STRAY_COLOURS: values_N.size}
        values, counts = np.unique(values_N, return_counts=True)
        return {self.coding.label(value): count for value, count in zip(values.tolist(), counts.tolist())}

    def _nodata(self) -> set[int]:
        """The nodata value that an index mask declares, unless it is a class: it need not be declared as ignored.

        One that is a class's index stays that class: masks often carry a nodata of 0 by accident, from the tool that
        wrote them, while their class 0 is meant.
        """
        nodata = self._source.nodata
        if self.coding.kind != "index" or nodata is None or not float(nodata).is_integer():
            return set()
        return {int(nodata)} - {*self.coding.class_values}

    def _codes(self, values_HW: Array) -> Array:
        if self.coding.kind != "index" or values_HW.dtype == np.uint8:
            return _looked_up(self._code_of, values_HW)
        codes_HW = self._code_of[np.where((values_HW >= 0) & (values_HW <= 255), values_HW, 256).astype(np.intp)]
        for value, code in self._beyond.items():
            codes_HW[values_HW == value] = code
        return codes_HW

    def _undeclared(self) -> SourceError:
        """The error that lists every value without a meaning; reads the whole mask."""
        found: Counter[int] = Counter()
        for _, values_HW, reached_HW in self._strips((0, self._file.dataset.height)):
            stray_HW = self._codes(values_HW) == self._other
            if reached_HW is not None:
                stray_HW &= reached_HW
            values, counts = np.unique(values_HW[stray_HW], return_counts=True)
            found.update(dict(zip(values.tolist(), counts.tolist())))
        most = found.most_common(_SHOWN)
        listed = ", ".join(f"{self.coding.label(value)} ({count:,} px)" for value, count in most)
        more = f" and {len(found) - len(most):,} more" if len(found) > len(most) else ""
        declare = " ".join(f"'{self.coding.label(value)}'" for value, _ in most)
        what = "colours" if self.coding.kind == "colour" else "indices"
        return SourceError(f"{self.path}: {what} that no class has: {listed}{more}; add them to the classes, or "
                           f"declare them as ignored (--data.ignored {declare}, or --data.stray ignore for all)")

    def _strips(self, rows: Range) -> Iterator[tuple[Range, Array, NDArray[np.bool_] | None]]:
        """(rows, values_HW, reached_HW) piece by piece: indices, or colours as 0xRRGGBB; and which pixels the mask
        reaches, where it was warped.
        """
        for low in range(rows[0], rows[1], STRIP):
            high = min(low + STRIP, rows[1])
            with reading(self.path):
                bands_BHW = self._file.dataset.read(window=((low, high), (0, self._width)))
                # What an alpha band or an internal mask leaves out has no label, warped or not.
                own = self._masked and not self._file.warped
                reached_HW = self._file.dataset.read_masks(1, window=((low, high), (0, self._width))) != 0 if own else (
                    bands_BHW[-1] != 0 if self._file.warped else None)
            yield (low, high), self._values(bands_BHW[:self._source.count]), reached_HW

    def _values(self, bands_BHW: Array) -> Array:
        if self.coding.kind == "index":
            if len(bands_BHW) > 1 and not (bands_BHW[1:] == bands_BHW[0]).all():
                raise SourceError(f"{self.path}: a mask of indices has one band, or three that are equal, but its "
                                  f"{len(bands_BHW)} differ; if its values are colours, say so (--data.mask colour)")
            values_HW: Array = bands_BHW[0]
        elif self._palette is not None:
            values_HW = self._palette[bands_BHW[0]]
        else:
            red, green, blue = (band.astype(np.uint32) for band in bands_BHW[:3])
            values_HW = red << 16 | green << 8 | blue
        return values_HW

    def _values_of_palette(self) -> Array | None:
        """The colour of each index of a palette file; the same colour has different indices in different files."""
        if self.coding.kind == "index" or self._source.count != 1:
            return None
        try:
            colours = self._source.colormap(1)
        except ValueError:
            raise SourceError(f"{self.path}: has one band and no palette, so no colours; if its values are class "
                              "indices, say so (--data.mask index)") from None
        table = np.zeros(256, np.uint32)
        for index, (red, green, blue, _) in colours.items():
            table[index] = red << 16 | green << 8 | blue
        return table

    def _check_bands(self) -> None:
        bands, types = self._source.count, set(self._source.dtypes)
        if self.coding.kind == "colour":
            fits = bands in (1, 3, 4) and types == {"uint8"}
            rule = "a mask of colours is a palette, or has 3 or 4 bands of uint8"
        else:
            fits = bands in (1, 3) and all(np.dtype(name).kind in "iu" for name in types)
            rule = "a mask of indices has one band of whole numbers, or three that are equal"
        if not fits:
            raise SourceError(f"{self.path}: {rule}, but this has {bands} of {', '.join(sorted(types))}")


def _looked_up(table: Array, values: Array) -> Array:
    """table[values]; for bytes by OpenCV, ten times as fast as NumPy's indexing."""
    if table.dtype == values.dtype == np.uint8:
        return np.asarray(cv2.LUT(values, table[:256]))
    return np.asarray(table[values])
