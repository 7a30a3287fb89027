"""From the values of a mask file, colours or indices, to class indices, by tables; what is ignored is counted by value.

A code numbers what a pixel may be: 0 … K-1 the classes, then the values declared ignored, last what nobody declared.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from patchstore.errors import SourceError
from patchstore.raster import open_dataset, reading
from patchstore.schema import ClassInfo, colour
from patchstore.window import Range

Array = NDArray[Any]
Counts = dict[str, int]
_STRIP = 256
"""Rows that are decoded at once."""
_SHOWN = 10
"""Undeclared values that a message lists; beyond it, how many more there are."""


@dataclass(frozen=True, kw_only=True)
class MaskCoding:
    """What the values of a mask file mean."""

    kind: Literal["index", "colour"] = "index"
    """Class indices, or the classes' colours (a palette counts by its colours)."""
    classes: tuple[ClassInfo, ...]
    ignored: tuple[str, ...] = ()
    """Values that are known and no class: colours (#RRGGBB) for kind `colour`, indices for `index`. The index that a
    store uses for ignored pixels is one of them in any case."""

    def __post_init__(self) -> None:
        wrong = [text for text in self.ignored if text.startswith("#") != (self.kind == "colour")]
        if wrong:
            form = "colours #RRGGBB" if self.kind == "colour" else "indices"
            raise ValueError(f"ignored values of a mask of kind {self.kind} must be {form}, got {', '.join(wrong)}")
        values = [*self.class_values, *(self.value(text) for text in self.ignored)]
        twice = [self.label(value) for value, count in Counter(values).items() if count > 1]
        if twice:
            raise ValueError(f"classes and ignored values must be different, but {', '.join(twice)} stands more "
                             "than once")

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
    """An open mask file, decoded by bands of rows. Use it as a context manager."""

    def __init__(self, path: Path, coding: MaskCoding, ignore: int) -> None:
        """Raises SourceError when the file cannot be read or has no values of the coding's kind."""
        self.path, self.coding, self.ignore = path, coding, ignore
        self._dataset = open_dataset(path)
        self.shape: tuple[int, int] = (self._dataset.height, self._dataset.width)
        self._check_bands()
        self._palette = self._values_of_palette()
        self._ignored = [coding.value(text) for text in coding.ignored]
        if coding.kind == "index" and ignore not in self._ignored:
            self._ignored.append(ignore)
        known = [*coding.class_values, *self._ignored]
        self._other = len(known)
        dtype = np.uint8 if self._other < 256 else np.uint16
        self._code_of = np.full(1 << 24 if coding.kind == "colour" else 257, self._other, dtype)
        self._code_of[known] = np.arange(len(known))
        self._label_of = np.full(self._other + 1, ignore, np.uint8)
        self._label_of[:len(coding.classes)] = np.arange(len(coding.classes))

    def __enter__(self) -> "MaskReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._dataset.close()

    def decode(self, rows: Range) -> tuple[NDArray[np.uint8], Counts]:
        """(labels_HW, pixels of each ignored value) of a band of rows.

        Raises SourceError on values that are neither a class nor declared ignored, with their pixels in the whole mask.
        """
        labels_HW = np.empty((rows[1] - rows[0], self.shape[1]), np.uint8)
        ignored: Counter[str] = Counter()
        for strip, values_HW in self._strips(rows):
            codes_HW = self._codes(values_HW)
            labels_HW[strip[0] - rows[0]:strip[1] - rows[0]] = self._label_of[codes_HW]
            beyond = codes_HW[codes_HW >= len(self.coding.classes)]
            for code, count in enumerate(np.bincount(beyond)):
                if count and code == self._other:
                    raise self._undeclared()
                if count:
                    ignored[self.coding.label(self._ignored[code - len(self.coding.classes)])] += int(count)
        return labels_HW, dict(ignored)

    def _codes(self, values_HW: Array) -> Array:
        if self.coding.kind == "index" and values_HW.dtype != np.uint8:
            values_HW = np.where((values_HW >= 0) & (values_HW <= 255), values_HW.astype(np.int64), 256)
        codes_HW: Array = self._code_of[values_HW]
        return codes_HW

    def _undeclared(self) -> SourceError:
        """The error that lists every value without a meaning; reads the whole mask."""
        found: Counter[int] = Counter()
        for _, values_HW in self._strips((0, self.shape[0])):
            values, counts = np.unique(values_HW[self._codes(values_HW) == self._other], return_counts=True)
            found.update(dict(zip(values.tolist(), counts.tolist())))
        most = found.most_common(_SHOWN)
        listed = ", ".join(f"{self.coding.label(value)} ({count:,} px)" for value, count in most)
        more = f" and {len(found) - len(most):,} more" if len(found) > len(most) else ""
        declare = " ".join(f"'{self.coding.label(value)}'" for value, _ in most)
        what = "colours" if self.coding.kind == "colour" else "indices"
        return SourceError(f"{self.path}: {what} that no class has: {listed}{more}; add them to the classes, or "
                           f"declare them as ignored (--data.ignored {declare})")

    def _strips(self, rows: Range) -> Iterator[tuple[Range, Array]]:
        """(rows, values_HW) piece by piece: indices, or colours as 0xRRGGBB."""
        for low in range(rows[0], rows[1], _STRIP):
            high = min(low + _STRIP, rows[1])
            with reading(self.path):
                bands_BHW = self._dataset.read(window=((low, high), (0, self.shape[1])))
            yield (low, high), self._values(bands_BHW)

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
        if self.coding.kind == "index" or self._dataset.count != 1:
            return None
        try:
            colours = self._dataset.colormap(1)
        except ValueError:
            raise SourceError(f"{self.path}: has one band and no palette, so no colours; if its values are class "
                              "indices, say so (--data.mask index)") from None
        table = np.zeros(256, np.uint32)
        for index, (red, green, blue, _) in colours.items():
            table[index] = red << 16 | green << 8 | blue
        return table

    def _check_bands(self) -> None:
        bands, types = self._dataset.count, set(self._dataset.dtypes)
        if self.coding.kind == "colour":
            fits = bands in (1, 3, 4) and types == {"uint8"}
            rule = "a mask of colours is a palette, or has 3 or 4 bands of uint8"
        else:
            fits = bands in (1, 3) and all(np.dtype(name).kind in "iu" for name in types)
            rule = "a mask of indices has one band of whole numbers, or three that are equal"
        if not fits:
            raise SourceError(f"{self.path}: {rule}, but this has {bands} of {', '.join(sorted(types))}")
