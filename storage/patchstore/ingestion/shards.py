"""The pixels of an ingest: full resolution by bands of shards, then the coarser levels. No file has two writers.

A shard is encoded in memory and written as a whole, so that its size and digest are those of what was meant, and an
object store sees one request for it. Memory: a band of shards (2048 rows of the scene, all bands) in `write_band`; a
shard of each level, two of full resolution and a few that are being written in `write_levels`.
"""

import json
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from patchstore.errors import SourceError, StoreError
from patchstore.format import conventions, locations
from patchstore.format.catalog import array_path
from patchstore.format.layout import Layout, LevelPart
from patchstore.format.manifest import Files, describe
from patchstore.format.pyramid import CELL, cell_counts, cell_moments, cell_shape, majorities, means, valids
from patchstore.format.schema import META, array_json
from patchstore.format.windows import Range
from patchstore.ingestion.plan import ScenePlan, stamps_of
from patchstore.sources.scene_reader import SceneReader

Array = NDArray[Any]
_WRITES = 4
"""Files that a step writes at once, at most."""
_compressing = threading.Lock()
"""Of two bands in one process one is read while the other is compressed: both at once would take more memory, and no
less time, since TensorStore compresses on all cores."""
NODATA = "nodata"
"""Name, among the ignored values, of pixels that have a class but are not real."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """What one step of an ingest has written, and counted."""

    files: Files
    """By place below the scene's version."""
    ignored: Mapping[str, int] = field(default_factory=dict)
    """Pixels that the mask ignores, by value."""
    class_pixels: tuple[int, ...] = ()
    """Pixels of each class."""
    band_sums: tuple[tuple[float, float, float], ...] = ()
    """Number, sum and sum of squares of each band's valid pixels."""


class _Output:
    """The files that a step writes: each begun as soon as it is compressed, and at most so many at once."""

    def __init__(self, plan: ScenePlan) -> None:
        self._plan = plan
        self._folder = locations.Folder(plan.uri)
        self._files: Files = {}
        self._writing: deque[Callable[[], None]] = deque()

    def shards(self, place: str, values: Array, rows: Range, cols: Range) -> None:
        """Write a stretch of an array, shard by shard. Raises StoreError."""
        side, bands = self._plan.settings.shard, (0,) * (values.ndim - 2)
        for col in range(cols[0], cols[1], side):
            to_col = min(col + side, cols[1])
            self.part(place, values[..., col - cols[0]:to_col - cols[0]], (*bands, rows[0], col))

    def part(self, place: str, values: Array, start: Sequence[int]) -> None:
        """Write a part of an array that consists of whole files and begins at `start`. Raises StoreError."""
        start = (*start, *(0 for _ in range(values.ndim - len(start))))
        encoded = encode(self._plan.layout.array(place), values, start)
        contents = {f"{place}/{key}": content for key, content in encoded.items()}
        self._writing.append(self._folder.begin_to_write(
            {array_path(self._plan.scene, path): content for path, content in contents.items()}))
        self._files |= {path: describe(content) for path, content in contents.items()}
        while len(self._writing) > _WRITES:
            self._writing.popleft()()

    def finish(self) -> Files:
        """Wait until all are written. Raises StoreError."""
        while self._writing:
            self._writing.popleft()()
        return self._files


def write_band(plan: ScenePlan, i: int) -> Written:
    """Write band i of the shards of full resolution, with its counts and moments of cells.

    Raises SourceError on a file that cannot be read and on values that nobody declared, StoreError when the store
    cannot be written.
    """
    settings, (height, width) = plan.settings, plan.scene.shape
    rows = (i * settings.shard, min((i + 1) * settings.shard, height))
    shape = (rows[1] - rows[0], width)
    planes = plan.layout.empty(shape)
    image_BHW, labels_HW, valid_HW = planes["image"], planes.get("mask"), planes.get("valid")
    cells = cell_shape(shape)
    counts = np.zeros((*cells, len(settings.classes)), np.uint16)
    moments = np.empty((*cells, settings.bands, 3))
    ignored: Counter[str] = Counter()
    with SceneReader(plan.source, plan.coding, settings.ignore) as reader:
        _check_unchanged(plan, reader)
        for row in range(0, shape[0], settings.chunk):
            strip = slice(row, min(row + settings.chunk, shape[0]))
            here = slice(row // CELL, -(-strip.stop // CELL))
            places = (rows[0] + strip.start, rows[0] + strip.stop)
            image_BHW[:, strip], real_HW = reader.pixels(places, (0, width))
            moments[here] = cell_moments(image_BHW[:, strip], real_HW)
            if valid_HW is not None:
                valid_HW[strip] = True if real_HW is None else real_HW
            if labels_HW is not None:
                labels_HW[strip], by_value = reader.labels(places)
                ignored.update(by_value)
                if real_HW is not None:
                    ignored[NODATA] += _ignore(labels_HW[strip], ~real_HW, settings.ignore)
                counts[here] = cell_counts(labels_HW[strip], len(settings.classes))
        _check_unchanged(plan, reader)
    output = _Output(plan)
    with _compressing:
        for name, values in planes.items():
            output.shards(f"0/{name}", values, rows, (0, width))
        for name, cell_values in (("counts", counts), ("moments", moments)):
            output.part(name, cell_values, (rows[0] // CELL,))
        files = output.finish()
    return Written(files=files, ignored={value: pixels for value, pixels in ignored.items() if pixels},
                   class_pixels=tuple(counts.sum(axis=(0, 1), dtype=np.int64).tolist()),
                   band_sums=tuple((n, total, squares) for n, total, squares in moments.sum(axis=(0, 1)).tolist()))


def write_levels(plan: ScenePlan, part: LevelPart) -> Written:
    """Write the shards of some levels over one square of ground, straight from full resolution, which must be whole.

    Raises StoreError when the store cannot be read or written.
    """
    full = {name: _handle(plan, f"0/{name}") for name in plan.layout.planes()}
    output = _Output(plan)
    with ThreadPoolExecutor(2) as pool:  # one shard is compressed and written while the next are reduced
        writing: Future[None] | None = None
        for place, values, rows, cols in _coarser(plan.layout, part, full, pool):
            if writing is not None:
                writing.result()
            writing = pool.submit(output.shards, place, values, rows, cols)
        if writing is not None:
            writing.result()
    return Written(files=output.finish())


def _coarser(layout: Layout, part: LevelPart, full: Mapping[str, ts.TensorStore], pool: Executor
             ) -> Iterator[tuple[str, Array, Range, Range]]:
    """What the shards of a part of the levels hold: (place of the array, values, rows, cols) of each.

    Depth first, so that one shard of each level and two of full resolution are held, and each of those is read once.
    """
    levels = range(part.first, part.last + 1)
    held: dict[int, dict[str, Array]] = {}

    def take(wait: Callable[[], Mapping[str, Array]], row: int, col: int) -> None:
        for name, reduced in reduce(wait(), levels).items():
            for level, values in reduced.items():
                _paste(held[level][name], values, row >> level, col >> level, layout.settings.shard)

    def visit(level: int, i: int, j: int) -> Iterator[tuple[str, Array, Range, Range]]:
        rows, cols = layout.shard_ranges(level, i, j)
        if level in levels:
            held[level] = layout.empty((rows[1] - rows[0], cols[1] - cols[0]))
        children = [(k, m) for k in (2 * i, 2 * i + 1) for m in (2 * j, 2 * j + 1) if layout.has_shard(level - 1, k, m)]
        if level == 1:
            for two in (children[:2], children[2:]):
                places = [layout.shard_ranges(0, *child) for child in two]
                for done in [pool.submit(take, _ask(full, *place), place[0][0], place[1][0]) for place in places]:
                    done.result()
        else:
            for child in children:
                yield from visit(level - 1, *child)
        for name, values in held.pop(level, {}).items():
            yield f"{level}/{name}", values, rows, cols

    return visit(part.last, part.row, part.col)


def write_metadata(plan: ScenePlan) -> Files:
    """Write the metadata of the scene's groups and arrays, and its coordinates. Raises StoreError."""
    folder, place = locations.Folder(plan.uri), f"{plan.scene.name}/{plan.scene.version}"
    contents = {f"{path}/{META}" if path else META: content for path, content in plan.layout.metadata().items()}
    for level in range(plan.scene.levels):
        for axis in conventions.coordinates(plan.scene, level):
            metadata = array_json(shape=axis.values.shape, dtype=str(axis.values.dtype), chunk=axis.values.shape,
                                  shard=None, zstd=plan.settings.zstd, fill=0, names=axis.dims,
                                  attributes=axis.attributes)
            data = encode(metadata, axis.values, (0,) * axis.values.ndim)
            contents |= {f"{level}/{axis.name}/{key}": content for key, content in {META: metadata, **data}.items()}
    folder.write_all({f"{place}/{path}": content for path, content in contents.items()})
    return {path: describe(content) for path, content in contents.items()}


def encode(metadata: bytes, values: Array, start: Sequence[int]) -> dict[str, bytes]:
    """The data files, by key (c/0/1/2), of the part of an array from `start` on, which must be whole files."""
    region = tuple(slice(first, first + length) for first, length in zip(start, values.shape))
    spec = {"driver": "zarr3", "kvstore": "memory://", "metadata": json.loads(metadata),
            "store_data_equal_to_fill_value": True}
    context = locations.context()  # one that shares nothing with any other: the memory is this call's own
    array, memory = (ts.open(spec, create=True, context=context).result(),
                     ts.KvStore.open("memory://", context=context).result())
    with ts.Transaction() as transaction:  # else each chunk would write its shard anew
        array.with_transaction(transaction)[region].write(values).result()
    keys = [key.decode() for key in memory.list().result() if key != META.encode()]
    return {key: memory.read(key).result().value for key in keys}


def reduce(planes: Mapping[str, Array], levels: Sequence[int]) -> dict[str, dict[int, Array]]:
    """What arrays of full resolution are on coarser levels: by name and level."""
    reduced = {"image": means(planes["image"], levels, planes.get("valid"))}
    if "mask" in planes:
        reduced["mask"] = majorities(planes["mask"], levels)
    if "valid" in planes:
        reduced["valid"] = valids(planes["valid"], levels)
    return reduced


def _check_unchanged(plan: ScenePlan, reader: SceneReader) -> None:
    """Raises SourceError when a file is not the one whose fingerprint was taken."""
    if (stamps_of(reader.files()), reader.info) != (plan.stamps, plan.info):
        raise SourceError(f"{plan.source.image}: it, or a file that belongs to it, changed while it was ingested; "
                          "ingest it again")


def _paste(shard: Array, values: Array, row: int, col: int, side: int) -> None:
    """Put values, which begin at (row, col) of their level, where they belong in their shard."""
    row, col = row % side, col % side
    shard[..., row:row + values.shape[-2], col:col + values.shape[-1]] = values


def _ignore(labels_HW: Array, where_HW: Array, ignore: int) -> int:
    """Ignore some pixels; returns how many were not before."""
    new = where_HW & (labels_HW != ignore)
    labels_HW[new] = ignore
    return int(new.sum())


def _handle(plan: ScenePlan, place: str) -> ts.TensorStore:
    path = array_path(plan.scene, place)
    try:
        return ts.open(locations.array(plan.uri, path), context=locations.context()).result()
    except locations.FAILURES as error:
        raise StoreError(f"{plan.uri}: {path} cannot be opened ({locations.plain(error)})") from None


def _ask(full: Mapping[str, ts.TensorStore], rows: Range, cols: Range) -> Callable[[], dict[str, Array]]:
    """Begin to read a stretch of some arrays; what it returns waits for them."""
    asked = {name: handle[..., rows[0]:rows[1], cols[0]:cols[1]].read() for name, handle in full.items()}

    def wait() -> dict[str, Array]:
        try:
            return {name: future.result() for name, future in asked.items()}
        except locations.FAILURES as error:
            raise StoreError(f"full resolution is absent or damaged ({locations.plain(error)}); ingest the scene again"
                             ) from None

    return wait
