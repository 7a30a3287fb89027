"""Parts of our loader replaced, for bench_loader.py: a store that reads nothing, and flips by albumentations.

A module of its own, which the loader's reader processes import; so no torch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import albumentations as A
import numpy as np
from numpy.typing import NDArray

import patchstore
from patchstore import Window


class MemoryStore(patchstore.Store):
    """Gives copies of patches that it has in memory: those of `windows`, of which there are more than a batch holds.

    Pickles as what it is made of, so that each of the loader's processes has such patches of its own.
    """

    def __init__(self, uri: str, windows: Sequence[Window], size: int) -> None:
        """Reads them."""
        super().__init__(uri)
        self._made_of = uri, tuple(windows), size
        self._images_NBSS, self._labels_NSS = patchstore.open(uri).read(windows, size)

    def begin(self, windows: Sequence[Window], images_NBSS: Sequence[NDArray[Any]], labels_NSS: NDArray[np.uint8]
              ) -> Callable[[], None]:
        """As a store does, but for what the patches show."""
        spare = len(self._labels_NSS) - len(windows)
        first = (windows[0].row + windows[0].col) % (spare + 1)

        def finish() -> None:
            for image_BSS, own_BSS in zip(images_NBSS, self._images_NBSS[first:]):
                image_BSS[...] = own_BSS
            labels_NSS[...] = self._labels_NSS[first:first + len(windows)]

        return finish

    def __reduce__(self) -> tuple[Any, ...]:
        return MemoryStore, self._made_of


class LibraryFlips:
    """The eight symmetries of the square by albumentations, patch by patch, as most training code has them."""

    def __init__(self) -> None:
        self._flips = A.Compose([A.D4(p=1)])

    def vary(self, images_NSBHW: NDArray[np.uint8], labels_NHW: NDArray[np.uint8], seeds_N: Sequence[int]) -> None:
        """Vary a batch of patches of one scale in place."""
        for image_BHW, label_HW, seed in zip(images_NSBHW[:, 0], labels_NHW, seeds_N):
            self._flips.set_random_seed(seed)
            varied = self._flips(image=np.ascontiguousarray(image_BHW.transpose(1, 2, 0)), mask=label_HW)
            image_BHW[...] = varied["image"].transpose(2, 0, 1)
            label_HW[...] = varied["mask"]

    def __reduce__(self) -> tuple[Any, ...]:
        return LibraryFlips, ()
