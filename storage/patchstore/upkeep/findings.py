"""What an audit looks at, and what it has found so far."""

import random
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from patchstore.format.layout import Layout
from patchstore.format.windows import MOST_LEVELS

_SHARD = re.compile(r"(\d+)/(?:image|mask|valid)/c/(?:\d+/)?(\d+)/(\d+)")
_CELLS = re.compile(r"(?:counts|moments)/c/(\d+)/.*")


@dataclass(frozen=True, kw_only=True)
class Ground:
    """The shards of full resolution that an audit looks at, by row and column of shards."""

    shards: tuple[tuple[int, int], ...]
    whole: bool
    """Whether these are all there are."""

    @classmethod
    def choose(cls, layout: Layout, sample: float, seed: int) -> Self:
        """A share of a scene's shards, at least one: the same for the same seed and scene."""
        rows, cols = (-(-length // layout.settings.shard) for length in layout.scene.shape)
        every = [(i, j) for i in range(rows) for j in range(cols)]
        number = max(1, round(sample * len(every)))
        chosen = random.Random(f"{seed} {layout.scene.name}").sample(every, number)
        return cls(shards=tuple(sorted(chosen)), whole=number == len(every))

    def covers(self, place: str) -> bool:
        """Whether a file is looked at: all but shards of any level, and files of cells, that lie elsewhere."""
        if shard := _SHARD.fullmatch(place):
            return tuple(map(int, shard.groups())) in self._by_level
        if cells := _CELLS.fullmatch(place):
            return int(cells[1]) in self._bands
        return True

    @cached_property
    def _by_level(self) -> set[tuple[int, ...]]:
        """Level, row and column of the shards of all levels over this ground."""
        return {(level, i >> level, j >> level) for i, j in self.shards for level in range(MOST_LEVELS)}

    @cached_property
    def _bands(self) -> set[int]:
        return {i for i, _ in self.shards}


@dataclass(kw_only=True)
class Findings:
    """Problems of one scene, each said once."""

    scene: str
    _lines: list[str] = field(default_factory=list)
    _files: set[str] = field(default_factory=set)
    _differences: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def say(self, what: str) -> None:
        """A problem of the scene."""
        self._lines.append(f"scene {self.scene}: {what}")

    def broken(self, place: str, what: str) -> None:
        """A problem of one file; what is said first of it stands."""
        if place not in self._files:
            self.known(place)
            self.say(f"{called(place)}: {what}")

    def known(self, *places: str) -> None:
        """Files whose problem has been said."""
        self._files.update(places)

    def is_broken(self, place: str) -> bool:
        """Whether a problem of a file has been said."""
        return place in self._files

    def differ(self, what: str, unlike_HW: NDArray[np.bool_], row: int, col: int) -> None:
        """Where something is not as it should be, in an array that begins at (row, col); {} in `what` is the number.

        The numbers of one `what` add up to one problem.
        """
        number = int(np.count_nonzero(unlike_HW))
        if number:
            at: Any = np.unravel_index(int(unlike_HW.argmax()), unlike_HW.shape)
            before, *first = self._differences.get(what, (0, row + int(at[0]), col + int(at[1])))
            self._differences[what] = (before + number, first[0], first[1])

    def lines(self) -> tuple[str, ...]:
        """All problems, a line each."""
        return (*self._lines, *(f"scene {self.scene}: {what.format(f'{number:,}')}, first at row {row}, col {col}"
                                for what, (number, row, col) in self._differences.items()))


def called(place: str) -> str:
    """A file as a problem names it: array 0/image, shard c/0/1/1."""
    array, _, key = place.partition("/c/")
    return f"array {array}, {'shard' if _SHARD.fullmatch(place) else 'chunk'} c/{key}" if key else place
