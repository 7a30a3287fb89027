"""Scores of whole scenes: windows through a network, batch after batch, blended into rows from top to bottom.

Shapes: N windows of a batch, S scales of a sample (1, or all if `is_concentric`), B bands, K classes, H x W of a scene,
h rows of one piece, s the side of a patch. Memory is a few times that of one row of windows (K x side x columns of the
region, at a coarse scale in its own pixels), whatever the scene's height.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from swath.config import PatchesConfig
from swath.errors import DataError
from swath.geometry import Region, around, side_of
from swath.models.inference import Forward
from swath.patches.planning import factors
from swath.prediction.accumulate import Blend
from swath.prediction.readers import ArrayReader, Reader
from swath.prediction.windows import Lattice, lattice

Rows = Generator[tuple[int, torch.Tensor], None, None]
"""Finished rows, from top to bottom: the scene row of the first, and scores_KhW of the region's columns. Closing it
(or dropping the last reference) ends its reading thread."""
AHEAD = 2
"""Batches that are read while one is in the network."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Rows of a region of a scene that are to be predicted, and the windows that they are made of."""

    reader: Reader
    region: Region
    """What batches are formed over."""
    rows: tuple[int, int]
    """What is wanted of it, in scene rows."""
    size: int
    sides: tuple[int, ...]
    """Side in scene pixels of the windows of each scale."""
    lattices: tuple[Lattice, ...]
    """Of every scale; where all are seen at once, of the first alone."""
    tag: Any = None
    """What the caller knows it by."""

    @property
    def wanted(self) -> Region:
        """The rows that are wanted, in the region's columns."""
        return self.rows, self.region[1]


def part(reader: Reader, *, size: int, scales: Sequence[float], overlap: float, is_concentric: bool = False,
         region: Region | None = None, rows: tuple[int, int] | None = None, tag: Any = None) -> Part:
    """A region of a scene (default: all of it), or some of its rows, by windows of `size` pixels that span size x scale
    scene pixels. Several scales are predicted one by one and their scores averaged; with `is_concentric` a window is
    seen at all of them at once, and lies where that of the first scale does.

    The windows are those of the whole scene, so a region has the values that it has in the whole. Raises ValueError for
    settings that make no sense.
    """
    if size < 1 or not scales or any(round(size * scale) < 1 for scale in scales):
        raise ValueError("size and the pixels of a window's side (size x scale) must be 1 or more, for one scale at "
                         f"least, got {size} and the scales {tuple(scales)}")
    sides = tuple(side_of(size, scale) for scale in scales)
    region = region or ((0, reader.shape[0]), (0, reader.shape[1]))
    rows = rows or region[0]
    if any(not 0 <= first < past <= length for (first, past), length in zip(region, reader.shape, strict=True)):
        raise ValueError(f"region {region} must have a pixel and lie in the scene of {reader.shape}")
    if not region[0][0] <= rows[0] < rows[1] <= region[0][1]:
        raise ValueError(f"rows {rows} must be some of the region's {region[0]}")
    return Part(reader=reader, region=region, rows=rows, size=size, sides=sides, tag=tag, lattices=tuple(
        lattice(reader.shape, side, overlap, size) for side in (sides[:1] if is_concentric else sides)))


def part_of_scene(reader: Reader, patches: PatchesConfig, *, pixel_m2: float | None, name: str, overlap: float,
                  region: Region, rows: tuple[int, int] | None = None, tag: Any = None) -> Part:
    """A region of a scene, or some of its rows, by the windows of a patches configuration.

    pixel_m2: ground of a scene's pixel in square metres, None where it is not known; `name` is the scene's in errors.
    Raises DataError where `patches.pixel_m` has no meaning in the scene.
    """
    return part(reader, size=patches.size, scales=factors(patches, pixel_m2, name), overlap=overlap,
                is_concentric=patches.is_concentric, region=region, rows=rows, tag=tag)


def stream(lots: Iterable[Sequence[Part]], forward: Forward, *, classes: int, batch: int,
           device: str | torch.device = "cpu") -> Generator[tuple[Part, int, torch.Tensor], None, None]:
    """Predict parts, one after the other: of each the finished rows from top to bottom, with their scores_KhW.

    Batches are formed over the windows of a lot's parts in their order, and never of two lots; while one is in the
    network the next are read, of the next lot too. What is in a batch depends on the lot's regions alone, not on which
    of their rows are wanted: so a scene has the same bytes in one piece as in several, on whatever machine.

    Raises ValueError for a batch or classes below 1 and for scores of another shape than (N, classes, size, size).
    """
    if batch < 1 or classes < 1:
        raise ValueError(f"batch and classes must be 1 or more, got {batch} and {classes}")
    return _stream(lots, forward, classes, batch, torch.device(device))


def _stream(lots: Iterable[Sequence[Part]], forward: Forward, classes: int, batch: int, device: torch.device
            ) -> Generator[tuple[Part, int, torch.Tensor], None, None]:
    blends: dict[Part, Blend] = {}
    with closing(_read_ahead(lots, batch, device)) as batches:
        for places, images_NSBss in batches:
            scores_NKss = _scores(forward, images_NSBss.to(device, non_blocking=True), classes)
            for place, scores_Kss in zip(places, scores_NKss, strict=True):
                if not place.wanted:
                    continue
                of = place.part
                if of not in blends:
                    blends[of] = Blend(classes, of.lattices, of.wanted, device)
                for row, scores_KhW in blends[of].add(place.layer, place.i, place.j, scores_Kss):
                    yield of, row, scores_KhW
                if blends[of].done:
                    del blends[of]


class _Place(NamedTuple):
    """A window of a part."""

    part: Part
    layer: int
    i: int
    j: int
    wanted: bool


class _Windows:
    """The windows of a lot's parts: part by part, rows of windows from the top, the layers' mixed by where they begin.

    Rows of windows are listed, not windows: a part of a long scene has as many as it is high.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._rows: list[tuple[Part, int, int, range, bool]] = []
        for each in parts:
            rows = []
            for layer, windows in enumerate(each.lattices):
                every, cols = windows.touching(each.region)
                wanted = windows.touching(each.wanted)[0]
                rows += [(windows.corner(i, 0)[0], layer, i, cols, i in wanted) for i in every]
            self._rows += [(each, layer, i, cols, wanted) for _, layer, i, cols, wanted in sorted(
                rows, key=lambda row: row[:3])]
        self._ends = list(accumulate(len(cols) for _, _, _, cols, _ in self._rows))

    def batches(self, batch: int) -> Iterator[list[_Place]]:
        """Every batch of windows, but those of which none is wanted."""
        following = 0
        for number, (_, _, _, cols, wanted) in enumerate(self._rows):
            if not wanted:
                continue
            past = self._ends[number]
            first = max(following, (past - len(cols)) // batch * batch)
            for start in range(first, past, batch):
                yield [self._place(k) for k in range(start, min(start + batch, self._ends[-1]))]
                following = start + batch

    def _place(self, index: int) -> _Place:
        number = bisect_right(self._ends, index)
        of, layer, i, cols, wanted = self._rows[number]
        return _Place(of, layer, i, cols[index - self._ends[number] + len(cols)], wanted)


def _read_ahead(lots: Iterable[Sequence[Part]], batch: int, device: torch.device
                ) -> Generator[tuple[list[_Place], torch.Tensor], None, None]:
    """Batches of windows with their images_NSBss; one thread reads the next ones while the caller has this one."""
    def read(places: list[_Place]) -> torch.Tensor:
        images = torch.from_numpy(_images(places))
        return images.pin_memory() if device.type == "cuda" else images

    with ThreadPoolExecutor(1, thread_name_prefix="swath-predict") as pool:
        ahead: deque[tuple[list[_Place], Future[torch.Tensor]]] = deque()
        try:
            for places in (places for parts in lots for places in _Windows(parts).batches(batch)):
                ahead.append((places, pool.submit(read, places)))
                if len(ahead) > AHEAD:
                    following, images = ahead.popleft()
                    yield following, images.result()
            while ahead:
                following, images = ahead.popleft()
                yield following, images.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _images(places: Sequence[_Place]) -> NDArray[Any]:
    """images_NSBss of windows, those of one scene read at once."""
    pieces = []
    for of, group in groupby(places, key=lambda place: place.part):
        windows, scales = [], 1
        for place in group:
            windows_of = of.lattices[place.layer]
            row, col = windows_of.corner(place.i, place.j)
            sides = (of.sides[place.layer],) if len(of.lattices) == len(of.sides) else of.sides
            scales = len(sides)
            windows += [(around(row, sides[0], side), around(col, sides[0], side), side) for side in sides]
        images = of.reader.read(windows, of.size)
        pieces.append(images.reshape(-1, scales, *images.shape[1:]))
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def _scores(forward: Forward, images_NSBss: torch.Tensor, classes: int) -> torch.Tensor:
    with torch.no_grad():
        scores = forward(images_NSBss)
    count, rows, cols = len(images_NSBss), *images_NSBss.shape[-2:]
    if scores.shape != (count, classes, rows, cols):
        raise ValueError(f"forward gave scores of {tuple(scores.shape)}, expected {(count, classes, rows, cols)}")
    return scores.float()


def blend(of: Part, forward: Forward, *, classes: int, batch: int, device: str | torch.device = "cpu") -> Rows:
    """The finished rows of one part; see `stream`."""
    rows = stream([[of]], forward, classes=classes, batch=batch, device=device)

    def without_part() -> Rows:
        with closing(rows):
            for _, row, scores_KhW in rows:
                yield row, scores_KhW

    return without_part()


def predict_array(forward: Callable[[NDArray[Any]], NDArray[np.float32]], image_BHW: NDArray[Any], *, size: int = 256,
                  overlap: float = 0.5, classes: int, batch: int = 16) -> NDArray[np.float32]:
    """Scores of an image in memory: float32 (K, H, W), the same blend as for scenes.

    `forward` takes an (N, B, size, size) array of the image's dtype and gives float32 (N, K, size, size).
    """
    def tensors(images_NSBss: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.asarray(forward(images_NSBss[:, 0].numpy()), np.float32))

    scores_KHW = np.empty((classes, *image_BHW.shape[1:]), np.float32)
    whole = part(ArrayReader(image_BHW), size=size, scales=(1,), overlap=overlap)
    for row, scores_KhW in blend(whole, tensors, classes=classes, batch=batch):
        scores_KHW[:, row:row + scores_KhW.shape[1]] = scores_KhW.numpy()
    return scores_KHW


def batch_size(size: int, scales_per_sample: int = 1) -> int:
    """Windows to put through a network at once: a megapixel of all their scales, 16 windows of 256 px at one scale
    (assumed, not measured). A function of what a window has alone, so that the same batches are formed on every
    machine."""
    return max(1, 2**20 // (size**2 * scales_per_sample))


def classes_of(rows: Iterable[tuple[int, torch.Tensor]]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The class of the highest score for every pixel: (row of the first, classes_hW). Raises as `classes_of_scores`."""
    for row, scores_KhW in rows:
        yield row, classes_of_scores(row, scores_KhW)


def classes_of_scores(row: int, scores_KhW: torch.Tensor) -> NDArray[np.uint8]:
    """The class of the highest score for every pixel: uint8 (h, W); `row` is that of the first.

    Raises DataError where a score is not finite, which would be an arbitrary class.
    """
    if not all(bool(torch.isfinite(bound)) for bound in torch.aminmax(scores_KhW)):  # it passes NaN on
        raise DataError(f"rows {row} to {row + scores_KhW.shape[1] - 1}: the network gave scores that are not finite; "
                        "look for such pixels in the scene, and at the run's losses")
    return scores_KhW.max(0).indices.to(torch.uint8).cpu().numpy()  # argmax takes six times as long on a CPU
