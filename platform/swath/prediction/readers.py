"""Pixels of one scene to predict: of an array, or of a store's scene.

Shapes: N windows, B bands, H x W of the scene.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from patchstore import Store, Window
from patchstore.format import reflect


class Reader(Protocol):
    """Pixels of one scene. A raster of the store, a file and an array are read alike."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the scene."""
        ...

    @property
    def bands(self) -> int:
        """Bands of an image."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a pixel."""
        ...

    def read(self, windows: Sequence[tuple[int, int, int]], size: int, /) -> NDArray[Any]:
        """images_NBHW of `size` pixels a side, for windows (row, col, side) in full-resolution scene pixels."""
        ...


class ArrayReader:
    """A scene in memory, at scale 1; outside of it pixels are mirrored (b a | a b c …)."""

    def __init__(self, image_BHW: NDArray[Any]) -> None:
        if image_BHW.ndim != 3 or 0 in image_BHW.shape:
            raise ValueError(f"an image must be (bands, rows, columns) with a pixel at least, got {image_BHW.shape}")
        self.image_BHW = image_BHW
        self.bands: int = image_BHW.shape[0]
        self.shape: tuple[int, int] = image_BHW.shape[1:]
        self.dtype: np.dtype[Any] = image_BHW.dtype

    def read(self, windows: Sequence[tuple[int, int, int]], size: int, /) -> NDArray[Any]:
        """See `Reader`. Raises ValueError for a window of another side than `size`."""
        images = np.empty((len(windows), self.bands, size, size), self.dtype)
        for image, (row, col, side) in zip(images, windows, strict=True):
            if side != size:
                raise ValueError(f"an array is read at scale 1 only: side {side} is not the size {size}")
            rows, cols = reflect(row, side, self.shape[0]), reflect(col, side, self.shape[1])
            image[:] = self.image_BHW[:, rows[:, None], cols]
        return images


@dataclass(frozen=True)
class StoreReader:
    """A scene of a store."""

    store: Store
    scene: str

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the scene."""
        return self.store.scenes[self.scene].shape

    @property
    def bands(self) -> int:
        """Bands of the store."""
        return self.store.bands

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the store's pixels."""
        return self.store.dtype

    def read(self, windows: Sequence[tuple[int, int, int]], size: int, /) -> NDArray[Any]:
        """See `Reader`."""
        return self.store.read([Window(self.scene, row, col, side) for row, col, side in windows], size)[0]

    def valid(self, rows: tuple[int, int], cols: tuple[int, int]) -> NDArray[np.bool_]:
        """Which pixels of a stretch of full resolution are real: (rows, cols)."""
        return self.store.region(self.scene, "valid", rows, cols)
