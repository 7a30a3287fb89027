"""A store on paper: scenes with labels, and no pixels. What splits, plans and certificates read of a store."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from patchstore import CELL, ClassInfo, Scene, Settings
from patchstore.format.windows import levels_of


def scene(name: str, shape: tuple[int, int], *, group: str = "", origin: tuple[int, int] = (0, 0),
          transform: Sequence[float] | None = None, crs: str = "a CRS", has_mask: bool = True) -> Scene:
    """A scene of a shape; with a transform in a CRS in metres, else in the grid of its group (by default its own)."""
    area = None if transform is None else abs(transform[0] * transform[4] - transform[1] * transform[3])
    return Scene(name=name, shape=shape, crs=None if transform is None else crs,
                 transform=None if transform is None else tuple(map(float, transform)),  # type: ignore[arg-type]
                 group=group or name, origin=origin, fingerprint=name, version=name, levels=levels_of(shape),
                 has_mask=has_mask, has_valid=False, ignored=0, ignored_values=(), class_pixels=(), band_sums=(),
                 pixel_m2=area, notes=(), manifest="")


@dataclass
class PaperStore:
    """Labels are (rows, cols) arrays, by default all of class 0; 255 is ignored. Where `cells` has a scene, those are
    its pixels of each class in each cell, and it has no labels. Moments are those of random pixels whose seed is the
    scene's name."""

    of: Sequence[Scene]
    labels: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    names: tuple[str, ...] = ("a", "b", "c")
    uri: str = "paper"
    cells: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    ignore: int = 255
    bands: int = 3
    dtype: np.dtype[np.uint8] = field(default_factory=lambda: np.dtype(np.uint8))

    def __post_init__(self) -> None:
        self.scenes = {scene.name: scene for scene in self.of}
        self.classes = tuple(ClassInfo(name, (k, k, k)) for k, name in enumerate(self.names))
        self.settings = Settings(dtype="uint8", bands=self.bands, classes=self.classes)

    def counts(self, name: str) -> NDArray[np.int64]:
        """Pixels of each class in each cell."""
        if name in self.cells:
            return self.cells[name].copy()
        rows, cols = self.scenes[name].shape
        if name not in self.labels:
            down, across = (np.minimum(CELL, n - np.arange(0, n, CELL)) for n in (rows, cols))
            return np.multiply.outer(np.outer(down, across), [1, *[0] * (len(self.names) - 1)])
        padded = np.pad(self.labels[name], ((0, -rows % CELL), (0, -cols % CELL)), constant_values=255)
        cells = padded.reshape(len(padded) // CELL, CELL, -1, CELL)
        return np.stack([(cells == k).sum(axis=(1, 3), dtype=np.int64) for k in range(len(self.names))], axis=2)

    def region(self, name: str, array: str, rows: tuple[int, int], cols: tuple[int, int], level: int = 0
               ) -> NDArray[np.uint8]:
        """Labels of a piece of a scene; there are no coarser levels, and no images."""
        assert (array, level) == ("mask", 0)
        return self.labels[name][slice(*rows), slice(*cols)]

    def moments(self, name: str) -> NDArray[np.float64]:
        """Number, sum and sum of squares of one band in each cell."""
        cells = [-(-n // CELL) for n in self.scenes[name].shape]
        generator = np.random.default_rng(list(name.encode()))
        sums = 1e6 * generator.random(cells)  # so many values that no two are alike
        return np.stack([np.full(cells, 4096.0), sums, sums**2 + 1], axis=2)[:, :, None]
