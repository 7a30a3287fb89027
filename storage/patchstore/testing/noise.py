"""Noise from integer hashes of grid coordinates: a pure function of a seed, a name and a place.

Legend: H, W rows and columns of pixels.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
U32 = NDArray[np.uint32]
Array = NDArray[Any]


def mix(h: U32) -> U32:
    """An integer hash of good avalanche (C. Wellons' lowbias32)."""
    h = h ^ (h >> np.uint32(16))
    h *= np.uint32(0x7FEB352D)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x846CA68B)
    h ^= h >> np.uint32(16)
    return h


def hash32(key: str, i: Array, j: Array) -> U32:
    """32 bits for each pair of integers; broadcasts."""
    start = np.uint32(zlib.crc32(key.encode()))
    return mix(mix(i.astype(np.uint32) ^ start) + j.astype(np.uint32))


def unit(h: U32, part: int = 0) -> Array:
    """A hash as float64 in [0, 1); different parts of a hash are independent."""
    return (mix(h + np.uint32(part * 0x9E3779B1 & 0xFFFFFFFF)) if part else h) * 2.0**-32


def _spline(t: Array) -> tuple[F32, F32, F32, F32]:
    """Weights of the uniform cubic B-spline at t in [0, 1): smooth noise without a visible lattice."""
    weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    a, b, c, d = ((w / 6).astype(np.float32) for w in weights)
    return a, b, c, d


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Pixels at which the landscape is evaluated: all pairs of its rows and cols (absolute, increasing)."""

    seed: int
    rows: NDArray[np.int64]
    cols: NDArray[np.int64]

    def noise(self, name: str, octaves: Mapping[int, float]) -> F32:
        """Value noise (H, W) of mean 0: for each octave, its cell: its standard deviation."""
        total, part = np.zeros((2, self.rows.size, self.cols.size), np.float32)
        for cell, weight in octaves.items():
            i, j = self.rows // cell, self.cols // cell
            h = hash32(f"{self.seed} {name} {cell}", np.arange(i[0] - 1, i[-1] + 3)[:, None],
                      np.arange(j[0] - 1, j[-1] + 3))
            lattice = ((unit(h) - 0.5) * (7.227 * weight)).astype(np.float32)  # the spline leaves 1/7.227 of it
            down, along = _spline(self.rows / cell - i), _spline(self.cols / cell - j)
            lines = lattice[:, j - j[0]] * along[0]
            for k in range(1, 4):
                lines += lattice[:, j - j[0] + k] * along[k]
            for k in range(4):
                np.take(lines, i - i[0] + k, axis=0, out=part, mode="clip")  # clip: the mode that needs no buffer
                part *= down[k][:, None]
                total += part
        return total
