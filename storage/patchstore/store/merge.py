"""Classes merged, renamed or ignored when a store is read: a view, for which no scene is ingested again.

    new=old+old            the old classes become one, with the colour of the first of them
    new#RRGGBB=old+old     the same, with a colour of its own
    =old+old               the old classes are ignored

Classes that are not named stay as they are, in their order; a new class stands at the place of its first old one in the
store. It makes no difference in which order the old classes are written.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchstore.errors import StoreError
from patchstore.format.schema import ClassInfo, Scene, colour

_RULE = re.compile(r"^(?P<name>[^#=]*?)(?P<colour>#[0-9A-Fa-f]{6})?=(?P<olds>[^=]+)$")


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Other classes than a store's own."""

    before: tuple[ClassInfo, ...]
    """The store's own classes."""
    classes: tuple[ClassInfo, ...]
    """The classes as they are seen."""
    places: tuple[int | None, ...]
    """For each of the store's classes its place among those that are seen; None where it is ignored."""
    ignore: int
    """The store's label of pixels that have no class."""

    def labels(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Labels of the store, of any shape, as labels of the classes that are seen."""
        table = np.full(256, self.ignore, np.uint8)
        table[:len(self.places)] = [self.ignore if place is None else place for place in self.places]
        return table[labels]

    def counts(self, counts_xK: NDArray[Any]) -> NDArray[Any]:
        """Pixels of each class, on the last axis, as pixels of each class that is seen; the dtype stays."""
        merged = np.zeros((*counts_xK.shape[:-1], len(self.classes)), counts_xK.dtype)
        for old, place in enumerate(self.places):
            if place is not None:
                merged[..., place] += counts_xK[..., old]
        return merged

    def scene(self, scene: Scene) -> Scene:
        """A scene with its totals by the classes that are seen; ignored classes are counted by name."""
        pixels_K = np.array(scene.class_pixels, np.int64)
        ignored = {info.name: int(pixels) for info, pixels, place in zip(self.before, pixels_K, self.places)
                   if place is None and pixels}
        return replace(scene, class_pixels=tuple(self.counts(pixels_K).tolist()),
                       ignored=scene.ignored + sum(ignored.values()),
                       ignored_values=(*scene.ignored_values, *sorted(ignored.items())))

    def key(self) -> str:
        """Text that tells merges apart: the same classes may be seen of different labels."""
        return f"merge {','.join('-' if place is None else str(place) for place in self.places)}"


def merge(classes: Sequence[ClassInfo], rules: Sequence[str], ignore: int) -> Merge:
    """Apply rules, written as the module says, to a store's classes.

    Raises StoreError for a rule that is not written so, a class that the store has not or that is named twice, a new
    name that another class has, and where no class is left.
    """
    before = tuple(classes)
    names = [info.name for info in before]
    becomes: dict[int, int] = {}  # by an old class's place: that of the first class it is merged with
    new: dict[int, ClassInfo | None] = dict(enumerate(before))  # by such a first place: the class; None where ignored
    for rule in rules:
        name, code, olds = _parse(rule, names)
        twice = [names[old] for old in olds if old in becomes or olds.count(old) > 1]
        if twice:
            raise StoreError(f"merge {rule!r}: {twice[0]} is merged already; name a class once")
        first = min(olds)
        becomes |= dict.fromkeys(olds, first)
        new[first] = ClassInfo(name, colour(code) if code else before[first].colour) if name else None
    kept = [old for old in range(len(before)) if becomes.get(old, old) == old and new[old] is not None]
    place_of = {old: place for place, old in enumerate(kept)}
    seen = tuple(info for old in kept if (info := new[old]) is not None)
    _check_seen(seen, rules)
    return Merge(before=before, classes=seen, ignore=ignore,
                 places=tuple(place_of.get(becomes.get(old, old)) for old in range(len(before))))


def _parse(rule: str, names: Sequence[str]) -> tuple[str, str, list[int]]:
    """(name, colour, each empty where not given; places of the old classes)."""
    match = _RULE.match(rule)
    if match is None or (match["colour"] and not match["name"]):
        raise StoreError(f"merge {rule!r}: must be written new=old+old, new#RRGGBB=old+old or =old")
    olds = [match["olds"]] if match["olds"] in names else match["olds"].split("+")  # a name may have a + in it
    for old in olds:
        if old not in names:
            near = difflib.get_close_matches(old, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names) or 'none'}"
            raise StoreError(f"merge {rule!r}: no class {old!r} in the store; {hint}")
    return match["name"], match["colour"] or "", [names.index(old) for old in olds]


def _check_seen(seen: Sequence[ClassInfo], rules: Sequence[str]) -> None:
    names = [info.name for info in seen]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise StoreError(f"merge {' '.join(rules)}: two classes would be named {', '.join(twice)}; merge the "
                         f"class that has the name too ({twice[0]}={twice[0]}+…), or give another name")
    if not seen:
        raise StoreError(f"merge {' '.join(rules)}: leaves no class; ignore fewer")
