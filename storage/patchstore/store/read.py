"""Reading a store: patches of any size and scale, regions, and the counts and moments of cells."""

import os
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from patchstore.errors import ReadError, StoreError
from patchstore.format import locations
from patchstore.format.catalog import array_path, load_scene, load_scenes, need_settings
from patchstore.format.layout import Layout
from patchstore.format.schema import ClassInfo, Scene, digest
from patchstore.format.windows import (
    Range,
    Square,
    Window,
    check_range,
    direct,
    finish_labels,
    finish_pixels,
    label_ranges,
    level_shape,
    locate,
    pixel_ranges,
)
from patchstore.store.merge import Merge
from patchstore.store.merge import merge as merge_classes
from patchstore.store.thumbnail import draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from xarray import Dataset

Array = NDArray[Any]
_ARRAYS: tuple[Literal["image", "mask", "valid"], ...] = ("image", "mask", "valid")
_CHUNK = re.compile(r'shard entry \{([\d, ]+)\}/\{([\d, ]+)\} in [^"]*"[^"]*/c/([\d/]+)"')
_FILE = re.compile(r'/c/([\d/]+)"')


@dataclass(frozen=True, slots=True)
class _Pending:
    """A read that was issued: what it fills, and what then makes a patch of it (nothing, if read directly)."""

    future: ts.WriteFutures
    path: str
    finish: Callable[[], None] | None


class Store:
    """A store, read-only. Threads may share it; it pickles as its URI, and cannot be carried across a fork."""

    def __init__(self, uri: str | os.PathLike[str], cache_bytes: int = 256 << 20, merge: Sequence[str] = ()) -> None:
        """Raises StoreError when there is no store, one of another format, one with a torn scene, or one whose classes
        cannot be merged so."""
        self.uri = locations.normal(uri)
        self.cache_bytes = cache_bytes
        self.merge = tuple(merge)
        folder = locations.Folder(self.uri)
        self.settings = self._stored = need_settings(folder)
        self.scenes: dict[str, Scene] = load_scenes(folder)
        self._merged: Merge | None = None
        if self.merge:
            self._merged = merged = merge_classes(self.settings.classes, self.merge, self.settings.ignore)
            self.settings = replace(self.settings, classes=merged.classes)
            self.scenes = {name: merged.scene(scene) for name, scene in self.scenes.items()}
        self._context = locations.context(cache_bytes)
        self._handles: dict[str, ts.Future[ts.TensorStore]] = {}
        self._lock = threading.Lock()

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """The classes, in the order of their index."""
        return self.settings.classes

    @property
    def ignore(self) -> int:
        """Label of pixels that have no class."""
        return self.settings.ignore

    @property
    def bands(self) -> int:
        """Number of bands."""
        return self.settings.bands

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels."""
        return np.dtype(self.settings.dtype)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the classes, how they are merged, and the scenes' names and versions."""
        merged = [self._merged.key()] if self._merged else []
        return digest([*merged, *(f"{info.name}={info.code}" for info in self.classes),
                       *(f"{scene.name}/{scene.fingerprint}" for scene in self.scenes.values())])

    def with_cache(self, cache_bytes: int) -> "Store":
        """The same store with a cache of its own; its metadata is not read again."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, cache_bytes=cache_bytes)
        other._context, other._handles, other._lock = locations.context(cache_bytes), {}, threading.Lock()
        return other

    def read(self, windows: Sequence[Window], size: int) -> tuple[Array, NDArray[np.uint8]]:
        """Patches of windows: images (N, B, size, size) in the store's dtype, labels (N, size, size).

        All are asked for at once. Outside a scene pixels are reflected and labels ignored; without a mask all labels
        are. Raises ValueError for an unknown scene or a side below an eighth of `size`, ReadError for absent or
        damaged data, StateError after a fork.
        """
        side = max(0, size)  # one below 1 is refused with the windows
        images_NBSS = np.empty((len(windows), self.bands, side, side), self.dtype)
        labels_NSS = np.empty((len(windows), side, side), np.uint8)
        self.begin(windows, images_NBSS, labels_NSS)()
        return images_NBSS, labels_NSS

    def begin(self, windows: Sequence[Window], images_NBSS: Sequence[Array] | Array, labels_MSS: NDArray[np.uint8]
              ) -> Callable[[], None]:
        """Ask for patches as `read` gives them, into arrays of the caller's. Returns what waits until they are there.

        Labels are read of the first M windows alone: M is N, or less where the others are seen without. The arrays
        (images may be one of the four axes, or one of three for each window) are C-contiguous, and are left alone until
        then. Both steps raise as `read` does.
        """
        locations.guard()
        size = labels_MSS.shape[-1]
        scenes = [self._scene(window.scene) for window in windows]
        squares = [locate(int(window.row), int(window.col), int(window.side), size, scene.levels)
                   for window, scene in zip(windows, scenes)]
        places = [("image", scene, square) for scene, square in zip(scenes, squares)]
        places += [("mask", scene, square) for scene, square, _ in zip(scenes, squares, labels_MSS) if scene.has_mask]
        for path in dict.fromkeys(array_path(scene, array, square.level) for array, scene, square in places):
            self._open(path)  # all at once: on an object store each is a round trip
        labels_MSS[...] = self.ignore
        pending = [self._ask_pixels(scene, square, out_BSS)
                   for scene, square, out_BSS in zip(scenes, squares, images_NBSS)]
        for scene, square, out_SS in zip(scenes, squares, labels_MSS):
            if scene.has_mask:
                pending.extend(self._ask_labels(scene, square, out_SS))

        def finish() -> None:
            for read in pending:
                try:
                    read.future.result()
                except locations.FAILURES as error:
                    self._raise(error, read.path)
                if read.finish is not None:
                    read.finish()
            if self._merged:
                labels_MSS[...] = self._merged.labels(labels_MSS)

        return finish

    def region(self, scene: str, array: Literal["image", "mask", "valid"], rows: Range, cols: Range, level: int = 0
               ) -> Array:
        """A stretch of one level, inside the scene: image (B, rows, cols), mask uint8 or valid bool (rows, cols).

        Ranges are half-open, in that level's pixels. A scene without a mask is ignored everywhere, one without nodata
        valid everywhere. Raises ValueError for a range that is empty or reaches outside, ReadError, StateError.
        """
        locations.guard()
        info = self._scene(scene)
        if array not in _ARRAYS:
            raise ValueError(f"array must be image, mask or valid, got {array!r}")
        if not 0 <= level < info.levels:
            raise ValueError(f"scene {scene} has levels 0 … {info.levels - 1}, got {level}")
        shape = level_shape(info.shape, level)
        rows, cols = check_range("rows", rows, shape[0]), check_range("cols", cols, shape[1])
        size = (rows[1] - rows[0], cols[1] - cols[0])
        if array == "mask" and not info.has_mask:
            return np.full(size, self.ignore, np.uint8)
        if array == "valid" and not info.has_valid:
            return np.ones(size, np.bool_)
        out = np.empty((self.bands, *size) if array == "image" else size,
                       {"image": self.dtype, "mask": np.dtype(np.uint8), "valid": np.dtype(np.bool_)}[array])
        read = self._ask(array_path(info, array, level), rows, cols, out, None)
        try:
            read.future.result()
        except locations.FAILURES as error:
            self._raise(error, read.path)
        return self._merged.labels(out) if self._merged and array == "mask" else out

    def plot(self, scene: str, level: int | None = None) -> "Axes":
        """Draw a scene at one level (without one: the coarsest), its labels over it with a legend; matplotlib's Axes.

        A notebook shows it. Bands other than uint8 are stretched from their 2nd to their 98th percentile. Raises as
        `region` does.
        """
        info = self._scene(scene)
        level = info.levels - 1 if level is None else level
        height, width = level_shape(info.shape, level) if level >= 0 else info.shape
        image_BHW, labels_HW, valid_HW = (self.region(scene, array, (0, height), (0, width), level)
                                          for array in _ARRAYS)
        return draw(image_BHW, labels_HW if info.has_mask else None, valid_HW, self.classes, f"{scene}, level {level}")

    def xarray(self, scene: str, level: int = 0) -> "Dataset":
        """A level of a scene as an xarray Dataset, read when it is used: image, mask and valid, as far as stored.

        The labels are those of the store's own classes, so a store that was opened with `merge` refuses. Raises
        ValueError for that and for an unknown scene or level, ImportError when xarray is not installed.
        """
        info = self._scene(scene)
        if not 0 <= level < info.levels:
            raise ValueError(f"scene {scene} has levels 0 … {info.levels - 1}, got {level}")
        if self.merge:
            raise ValueError(f"{self.uri}: xarray gives the labels of the store's own classes; open it without merge")
        try:
            import xarray
        except ImportError:
            raise ImportError("Store.xarray needs xarray; install it with: pip install 'swath[xarray]'") from None
        dataset: Dataset = xarray.open_zarr(self.uri, group=f"{info.name}/{info.version}/{level}", consolidated=False)
        return dataset

    def counts(self, scene: str) -> NDArray[np.int64]:
        """Pixels of each class in each cell: (cell rows, cell cols, classes). Raises as `region` does."""
        counts_ijK = self._whole(scene, "counts").astype(np.int64)
        return self._merged.counts(counts_ijK) if self._merged else counts_ijK

    def moments(self, scene: str) -> NDArray[np.float64]:
        """Number, sum and sum of squares of each cell's and band's valid pixels: (cell rows, cell cols, bands, 3)."""
        moments: NDArray[np.float64] = self._whole(scene, "moments")
        return moments

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.uri, self.cache_bytes, self.merge)

    def __repr__(self) -> str:
        names = ", ".join(list(self.scenes)[:5]) + (", …" if len(self.scenes) > 5 else "")
        levels = sorted({scene.levels for scene in self.scenes.values()})
        return "\n".join([
            f"Store({self.uri!r})",
            f"  scenes   {len(self.scenes)} ({names or 'none'}), groups {len({s.group for s in self.scenes.values()})}",
            f"  bands    {self.bands} of {self.dtype}",
            f"  classes  {', '.join(info.name for info in self.classes) or 'none'}",
            f"  levels   {' to '.join(str(n) for n in dict.fromkeys((levels[0], levels[-1]))) if levels else 'none'}"])

    def _scene(self, name: str) -> Scene:
        scene = self.scenes.get(name)
        if scene is None:
            known = ", ".join(list(self.scenes)[:5]) + (", …" if len(self.scenes) > 5 else "")
            raise ValueError(f"{self.uri}: has no scene {name!r}; it has {known or 'none'}")
        return scene

    def _ask_pixels(self, scene: Scene, square: Square, out_BSS: Array) -> _Pending:
        shape, path = level_shape(scene.shape, square.level), array_path(scene, "image", square.level)
        rows, cols = pixel_ranges(square, shape)
        if direct(square, shape, out_BSS.shape[-1]):
            return self._ask(path, rows, cols, out_BSS, None)
        block = np.empty((self.bands, rows[1] - rows[0], cols[1] - cols[0]), self.dtype)
        return self._ask(path, rows, cols, block, lambda: finish_pixels(block, square, shape, out_BSS))

    def _ask_labels(self, scene: Scene, square: Square, out_SS: Array) -> list[_Pending]:
        shape, path = level_shape(scene.shape, square.level), array_path(scene, "mask", square.level)
        rows, cols = label_ranges(square, shape)
        if rows[0] == rows[1] or cols[0] == cols[1]:
            return []  # wholly outside: ignored already
        if direct(square, shape, len(out_SS)):
            return [self._ask(path, rows, cols, out_SS, None)]
        block = np.empty((rows[1] - rows[0], cols[1] - cols[0]), np.uint8)
        return [self._ask(path, rows, cols, block, lambda: finish_labels(block, square, shape, self.ignore, out_SS))]

    def _ask(self, path: str, rows: Range, cols: Range, out: Array, finish: Callable[[], None] | None) -> _Pending:
        """Issue a read into `out`: measured 10-30 % faster than into an array of TensorStore's own and a copy."""
        part = self._handle(path)[..., rows[0]:rows[1], cols[0]:cols[1]]
        return _Pending(ts.array(out).write(part), path, finish)

    def _whole(self, scene: str, array: str) -> Array:
        locations.guard()
        path = array_path(self._scene(scene), array)
        try:
            values: Array = self._handle(path).read().result()
        except locations.FAILURES as error:
            self._raise(error, path)
        return values

    def _open(self, path: str) -> ts.Future[ts.TensorStore]:
        """Begin to open an array, unless that was done before."""
        with self._lock:
            if path not in self._handles:
                self._handles[path] = ts.open(self._spec(path), read=True, context=self._context)
            return self._handles[path]

    def _handle(self, path: str) -> ts.TensorStore:
        future = self._open(path)
        try:
            return future.result()
        except locations.FAILURES as error:
            with self._lock:
                self._handles.pop(path, None)  # to be tried again by the next read
            self._raise(error, path)

    def _spec(self, path: str) -> dict[str, Any]:
        """An array as the scene's attributes say it is: metadata of another shape or type would give other pixels."""
        name, _, place = path.split("/", 2)
        layout = Layout(settings=self._stored, scene=self.scenes[name])
        return {**locations.array(self.uri, path), "metadata": layout.constraint(place)}

    def _raise(self, error: BaseException, path: str) -> NoReturn:
        """Raise the ReadError that names store, scene, array, and chunk where TensorStore says which."""
        name, version, array = path.split("/", 2)
        message, chunk = locations.plain(error), ""
        if found := _CHUNK.search(message):
            entry, grid, shard = ([int(n) for n in re.findall(r"\d+", text)] for text in found.groups())
            place = [s * g + e for s, g, e in zip(shard, grid, entry)]
            chunk = f", chunk {tuple(place)} in shard c/{found[3]}"
        elif found := _FILE.search(message):
            chunk = f", chunk c/{found[1]}"
        what = "absent or damaged"
        if away := locations.remedy(error):
            what, todo = "cannot be reached", away
        elif self._newer(name, version):
            what = "has been replaced"
            todo = "the scene was ingested again, and its old version removed: open the store again"
        else:
            todo = f"delete {self.uri}/{name} and ingest the scene again"
        raise ReadError(f"{self.uri}: scene {name}, array {array}{chunk}: {what} ({message}); {todo}") from None

    def _newer(self, name: str, version: str) -> bool:
        """Whether a scene has another version by now."""
        try:
            there = load_scene(locations.Folder(self.uri), name)
        except StoreError:
            return False
        return there is not None and there.version != version


def open(uri: str | os.PathLike[str], cache_bytes: int = 256 << 20, merge: Sequence[str] = ()) -> Store:
    """Open a store for reading; `cache_bytes` bounds the decoded chunks that are kept.

    A cache of 1.5 x the shards that are read by turns pays (16.8 MB a shard of 2048 px with three bands and labels).
    `merge`: rules by which classes are merged, renamed or ignored (patchstore.merge); labels, counts and totals are
    then those of the merged classes. Coarser levels have the majority that was taken before: where three classes share
    a block, two that are merged may have lost it to the third.
    Raises StoreError, saying what is there, when it is no store of this format or has not the classes of `merge`.
    """
    return Store(uri, cache_bytes, merge)
