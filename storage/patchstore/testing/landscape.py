"""A synthetic landscape, as an orthophoto shows it: any window of it, pixel by pixel from a seed.

One seed is one endless landscape: blocks of fields between roads, farms along them, woods, lakes and streams. Every
pixel is a function of (seed, row, col), so that a window rendered in pieces is equal to the whole.
Nothing is read from disk and nothing is kept: all shapes come from hashes of grid coordinates.

    fields     parcels: strips of hashed width in the cells of a jittered Voronoi diagram, cut across
    roads      some edges of that diagram, asphalt or dirt, bent where its coordinates are warped
    buildings  rotated rectangles beside a road, at most one farm for each plot of a coarse grid
    woodland   value noise above a threshold, its edge following the crowns of trees
    water      lakes as woodland, streams along the zero line of another noise

Legend: H, W rows and columns of pixels; B bands. Lengths are in pixels unless a name ends in _m (metres).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from patchstore.testing.noise import F32, U32, Array, Grid, hash32, mix, unit

TILE = 512         # side of what is computed at once: small enough for the cache, large enough for NumPy
_MARGIN = 16       # pixels around a tile that shadows and the lens may reach over
_BLOCK = 720       # spacing of the Voronoi sites
_PLOT = 256        # spacing of farms
_LONE = 100.0      # cost of a place for a farm far from roads: above that of any beside one
_POND = 512        # spacing of ponds
_STEP = 16         # spacing of the places that are tried for a farm; the cell of a tree crown
_REACH = 160       # how far a farm reaches from its place, its shadow included

U8 = NDArray[np.uint8]


def render(seed: int, rows: tuple[int, int], cols: tuple[int, int]) -> tuple[U8, U8]:
    """Any window of a landscape: (image_BHW, mask_HW), rows and cols as half-open ranges, negative ones too.

    A pure function: the pieces of a window, rendered one by one, are equal to the whole.
    """
    image_BHW = np.empty((3, rows[1] - rows[0], cols[1] - cols[0]), np.uint8)
    mask_HW = np.empty(image_BHW.shape[1:], np.uint8)
    for row in range(rows[0] // TILE * TILE, rows[1], TILE):
        for col in range(cols[0] // TILE * TILE, cols[1], TILE):
            tile_BHW, labels_HW = _tile(seed, row, col, TILE)
            y0, y1 = max(row, rows[0]), min(row + TILE, rows[1])
            x0, x1 = max(col, cols[0]), min(col + TILE, cols[1])
            here = np.s_[y0 - rows[0]:y1 - rows[0], x0 - cols[0]:x1 - cols[0]]
            there = np.s_[y0 - row:y1 - row, x0 - col:x1 - col]
            image_BHW[:, *here], mask_HW[here] = tile_BHW[:, *there], labels_HW[there]
    return image_BHW, mask_HW


# ---- materials: what a pixel is made of; 0 … 63 are kinds of field ---------------------------------------------------

_CROPS = (  # red, green, blue; strength of furrows, tramlines, grain, mottle
    (196, 176, 120, 0.05, 0.12, 0.05, 0.05),  # ripe wheat
    (186, 162, 118, 0.10, 0.05, 0.07, 0.04),  # stubble
    (112, 134, 74, 0.07, 0.16, 0.06, 0.08),   # young cereal
    (66, 90, 52, 0.12, 0.10, 0.12, 0.09),     # maize, as dark as a wood
    (122, 136, 84, 0.00, 0.03, 0.07, 0.14),   # meadow
    (134, 110, 86, 0.09, 0.00, 0.05, 0.10),   # bare soil
    (98, 84, 72, 0.12, 0.00, 0.06, 0.10),     # wet soil
    (192, 182, 76, 0.03, 0.12, 0.06, 0.06),   # rape
    (78, 112, 60, 0.12, 0.08, 0.09, 0.08),    # beet
    (148, 142, 102, 0.00, 0.00, 0.10, 0.13),  # fallow
)
_OTHERS = (  # class, red, green, blue, grain, mottle
    (2, 50, 70, 50, 0.10, 0.10), (2, 72, 92, 54, 0.10, 0.12),                                        # woods
    (3, 56, 74, 76, 0.012, 0.05), (3, 74, 88, 66, 0.015, 0.06),                                      # water
    (4, 122, 120, 118, 0.03, 0.04), (4, 150, 146, 138, 0.04, 0.05), (4, 168, 148, 118, 0.08, 0.08),  # asphalt, dirt
    (0, 112, 126, 72, 0.08, 0.10), (0, 160, 152, 138, 0.10, 0.06),                                   # lawn, gravel
    (1, 204, 202, 198, 0.02, 0.02), (1, 226, 226, 220, 0.02, 0.02), (1, 134, 130, 128, 0.03, 0.04),        # roofs
    (1, 164, 100, 80, 0.06, 0.05), (1, 176, 164, 146, 0.05, 0.05), (1, 160, 168, 176, 0.02, 0.02),
)
_WOOD, _WATER, _ROAD, _YARD, _ROOF = 64, 66, 68, 71, 73


@lru_cache(maxsize=8)
def _materials(seed: int) -> dict[str, Array]:
    """Tables of 256, by material: class (uint8) and, as float32, colour and strength of each kind of texture."""
    rng = np.random.default_rng(seed)
    table = {name: np.zeros(256, np.float32) for name in
             ("red", "green", "blue", "furrow", "tram", "grain", "mottle", "across", "along")}
    table["class"] = np.zeros(256, np.uint8)
    for kind in range(_WOOD):
        *rgb, furrow, tram, grain, mottle = _CROPS[kind % len(_CROPS)]
        angle = rng.choice((0.0, 0.0, rng.normal(0, 0.12), math.pi / 2))
        period = rng.uniform(5, 11)
        colour = (np.array(rgb) * 0.88 + np.mean(rgb) * 0.12) * rng.uniform(0.88, 1.12) + rng.normal(0, (4, 2, 4))
        values = (*colour, furrow, tram, grain, mottle, math.cos(angle) / period, math.sin(angle) / period)
        for name, value in zip(table, values, strict=False):
            table[name][kind] = value
    for kind, (label, *strengths) in enumerate(_OTHERS, start=_WOOD):
        for name, value in zip(("red", "green", "blue", "grain", "mottle"), strengths):
            table[name][kind] = value
        table["class"][kind] = label
    return table


# ---- the ground: blocks and fields -----------------------------------------------------------------------------------

@dataclass(frozen=True, kw_only=True)
class _Blocks:
    """The Voronoi diagram at each pixel of a grid: S sites, y and x warped and relative to an anchor."""

    y: Array                    # (H, W)
    x: Array
    site: NDArray[np.intp]      # (H, W) the nearest site
    pair: NDArray[np.intp]      # (H, W) nearest * S + second nearest: which edge is near
    edge: Array                 # (H, W) distance from that edge
    hashes: U32                 # (S,) bits of each site
    places: Array               # (S, 2) row and col of each site, relative to the anchor
    half: F32                   # (S * S,) half width of the road on the edge of a pair; 0: none
    paving: U8                  # (S * S,) its material


def _blocks(grid: Grid, anchor: tuple[int, int], dtype: type[np.floating[Any]]) -> _Blocks:
    """The diagram on a grid. Anchor (0, 0) with float64 gives the same bits wherever the grid lies."""
    bend = np.clip(grid.noise("bend", {1024: 1.0}), 0, 1.5) * 40
    y = ((grid.rows - anchor[0])[:, None] + grid.noise("warp y", {512: 1.0}) * bend).astype(dtype)
    x = ((grid.cols - anchor[1]) + grid.noise("warp x", {512: 1.0}) * bend).astype(dtype)
    i = np.arange(grid.rows[0] // _BLOCK - 3, grid.rows[-1] // _BLOCK + 4)
    j = np.arange(grid.cols[0] // _BLOCK - 3, grid.cols[-1] // _BLOCK + 4)
    hashes = hash32(f"{grid.seed} site", i[:, None], j)
    place = np.stack([(i[:, None] + 0.5 + 0.7 * (unit(hashes, 1) - 0.5)) * _BLOCK - anchor[0],
                      (j + 0.5 + 0.7 * (unit(hashes, 2) - 0.5)) * _BLOCK - anchor[1]], axis=-1).reshape(-1, 2)
    skip = max(1, _STEP // int(grid.rows[1] - grid.rows[0]))
    far = np.hypot(y[::skip, ::skip] - place[:, 0, None, None], x[::skip, ::skip] - place[:, 1, None, None])
    # what can be first or second somewhere between the samples
    near = np.flatnonzero((far - np.partition(far, 1, axis=0)[1]).min((1, 2)) < 4 * _STEP)
    sites, place = hashes.ravel()[near], place[near]
    first, second = np.full(y.shape, np.inf, dtype), np.full(y.shape, np.inf, dtype)
    one, two = np.zeros(y.shape, np.intp), np.zeros(y.shape, np.intp)
    for k, (py, px) in enumerate(place):
        score = (dtype(-2 * py) * y) + (dtype(-2 * px) * x + dtype(py * py + px * px))  # distance², less y² + x²
        closer, closish = score < first, score < second
        np.copyto(two, k, where=closish)
        np.copyto(two, one, where=closer)
        np.copyto(one, k, where=closer)
        np.copyto(second, np.maximum(score, first), where=closish)
        np.minimum(first, score, out=first)
    pair = one * len(place) + two
    apart = np.hypot(*(place[:, None] - place).transpose(2, 0, 1)).ravel() + 1e-9  # a site is no pair with itself
    both = mix(sites[:, None] + sites).ravel()  # symmetric: both sides of an edge see the same road
    kind, width = unit(both), unit(both, 1)
    half = np.where(kind < 0.45, 10 + 5 * width, np.where(kind < 0.8, 5 + 2.5 * width, 0))
    paving = _ROAD + np.where(kind < 0.25, 0, np.where(kind < 0.45, 1, 2))
    return _Blocks(y=y, x=x, site=one, pair=pair, edge=(second - first) * (0.5 / apart).astype(dtype)[pair],
                   hashes=sites, places=place, half=half.astype(np.float32), paving=paving.astype(np.uint8))


def _wave(t: F32) -> F32:
    """A smooth wave of period 1 and mean 0, from -2/3 to 1/3."""
    t = t - np.floor(t)
    return 4 * t * (1 - t) - np.float32(2 / 3)


def _fields(grid: Grid, blocks: _Blocks, table: Mapping[str, Array]) -> tuple[U8, F32]:
    """(kind of field, light): parcels in strips along each block's angle, with furrows, tramlines and balks."""
    h = blocks.hashes
    angle, width, length = unit(h, 3) * math.pi, 60 + 130 * unit(h, 4), 300 + 500 * unit(h, 5)
    cos, sin = np.cos(angle), np.sin(angle)
    y0, x0 = blocks.places.T

    def at(values: Array) -> F32:
        return values.astype(np.float32)[blocks.site]

    u = at(cos) * blocks.x + at(sin) * blocks.y - at(cos * x0 + sin * y0)
    v = at(cos) * blocks.y - at(sin) * blocks.x - at(cos * y0 - sin * x0)
    width_HW, length_HW = at(width), at(length)
    su = u / width_HW
    strip = np.floor(su)
    sv = v / length_HW + strip * np.float32(0.381966)
    part = np.floor(sv)
    parcel = h[blocks.site] + strip.astype(np.int32).view(np.uint32) * np.uint32(0x9E3779B1)
    parcel += part.astype(np.int32).view(np.uint32) * np.uint32(0x85EBCA6B)
    kind = (mix(parcel) >> 26).astype(np.uint8)
    su -= strip + np.float32(0.5)
    sv -= part + np.float32(0.5)
    balk = np.minimum((0.5 - np.abs(su)) * width_HW, (0.5 - np.abs(sv)) * length_HW)
    t = cv2.LUT(kind, table["across"]) * u + cv2.LUT(kind, table["along"]) * v
    tram = np.abs(np.abs(t / 9 - np.floor(t / 9) - np.float32(0.5)) * 9 - np.float32(0.9)) < 0.16
    light: F32 = 1 + cv2.LUT(kind, table["furrow"]) * _wave(t) - cv2.LUT(kind, table["tram"]) * tram
    kind[balk < 2.5] = _YARD  # an unploughed line of grass
    return kind, light


# ---- what stands on it -----------------------------------------------------------------------------------------------

def _wood(grid: Grid) -> F32:
    return grid.noise("wood", {1024: 0.4, 256: 0.8, 64: 0.3, 16: 0.12}) - np.float32(0.7)


def _water(grid: Grid) -> F32:
    """Above 0 in water: lakes, streams that rise and vanish where their width does, and a pond here and there."""
    lake = grid.noise("lake", {1024: 0.3, 224: 0.9}) - np.float32(1.75)
    width = np.clip(grid.noise("stream width", {512: 0.03}) + np.float32(0.03), -0.02, 0.05)
    stream = (width - np.abs(grid.noise("stream", {1024: 1.0}))) * 4
    i, j = grid.rows // _POND, grid.cols // _POND
    h = hash32(f"{grid.seed} pond", np.arange(i[0], i[-1] + 1)[:, None], np.arange(j[0], j[-1] + 1))
    radius = np.where(unit(h) < 0.65, 14 + 36 * unit(h, 3), -100)
    r, y, x = (a.astype(np.float32)[i - i[0]][:, j - j[0]] for a in
               (radius, (0.2 + 0.6 * unit(h, 1)) * _POND, (0.2 + 0.6 * unit(h, 2)) * _POND))
    down, along = (grid.rows % _POND).astype(np.float32)[:, None] - y, (grid.cols % _POND).astype(np.float32) - x
    pond: F32 = (r - np.sqrt(down**2 + along**2)) * np.float32(0.01)
    score: F32 = np.maximum(np.maximum(lake, pond) + grid.noise("shore", {56: 0.16}), stream)
    return score


def _crowns(grid: Grid) -> F32:
    """Height of the trees (H, W) in [0, 1]: paraboloids, one for each cell of 16 pixels; the grid starts on a cell."""
    n = _STEP
    i, j = (np.arange(a[0] // n - 1, a[-1] // n + 2) for a in (grid.rows, grid.cols))
    h = hash32(f"{grid.seed} crown", i[:, None], j)
    place_y, place_x = ((0.1 + 0.8 * unit(h, k)) * n for k in (1, 2))
    narrow = 1 / (n * (0.5 + 0.5 * unit(h, 3)))
    within = np.arange(n) + 0.5
    least = np.full((i.size - 2, n, j.size - 2, n), 1.0, np.float32)
    for di in range(3):
        for dj in range(3):
            part = np.s_[di:i.size - 2 + di, None, dj:j.size - 2 + dj, None]
            down = (within[:, None, None] - place_y[part] + (1 - di) * n) * narrow[part]
            along = (within - place_x[part] + (1 - dj) * n) * narrow[part]
            np.minimum(least, (down**2).astype(np.float32) + (along**2).astype(np.float32), out=least)
    height: F32 = 1 - least.reshape(grid.rows.size, grid.cols.size)
    return height


@dataclass(frozen=True, kw_only=True)
class _Farm:
    """Convex polygons (corners as row, col, absolute), to be drawn in this order."""

    yard: Array
    yard_kind: int
    shadows: tuple[Array, ...]
    roofs: tuple[tuple[Array, int, float], ...]  # corners, material, light


def _farms(grid: Grid, sun: Array) -> list[_Farm]:
    """The farms that may reach into a grid, each on the dry place of its plot that is best beside a road, or lonely."""
    ranges = [np.arange((a[0] - _REACH) // _PLOT, (a[-1] + _REACH) // _PLOT + 1) for a in (grid.rows, grid.cols)]
    rows, cols = (np.arange(a[0] * _PLOT + _STEP // 2, (a[-1] + 1) * _PLOT, _STEP) for a in ranges)
    coarse = Grid(seed=grid.seed, rows=rows, cols=cols)
    blocks = _blocks(coarse, (0, 0), np.float64)
    half = blocks.half[blocks.pair]
    gap = blocks.edge - half
    lone = np.where(gap > 60, _LONE + unit(hash32("lone", rows[:, None], cols)), np.inf)
    cost = np.where((half > 0) & (np.abs(gap - 42) < 14), np.abs(gap - 42), lone)
    cost[_water(coarse) > -0.4] = np.inf
    n = _PLOT // _STEP
    inner = np.pad(np.ones((n - 6, n - 6), bool), 3)
    cost = cost.reshape(len(ranges[0]), n, len(ranges[1]), n).swapaxes(1, 2).reshape(len(ranges[0]), len(ranges[1]), -1)
    cost[..., ~inner.ravel()] = np.inf  # farms of neighbouring plots keep apart
    best = cost.argmin(-1)
    hashes = hash32(f"{grid.seed} farm", ranges[0][:, None], ranges[1])
    farms = []
    luck = unit(hash32(f"{grid.seed} settled", ranges[0][:, None] // 2, ranges[1] // 2))
    luck = (luck + ranges[0][:, None] % 2 * 0.5 + ranges[1] % 2 * 0.25) % 1  # spread evenly over each four plots
    least = cost.min(-1)
    for a, b in np.argwhere(luck < np.where(least < _LONE, 0.62, np.where(least < np.inf, 0.3, 0))):
        y, x = a * n + best[a, b] // n, b * n + best[a, b] % n
        one, two = divmod(int(blocks.pair[y, x]), len(blocks.hashes))
        normal = blocks.places[two] - blocks.places[one]
        farms.append(_farm(np.array((rows[y], cols[x])), normal / np.hypot(*normal), sun,
                           np.random.default_rng(int(hashes[a, b]))))
    return farms


def _rectangle(centre: Array, along: Array, length: float, width: float) -> Array:
    """The corners (4, 2) of a rectangle, in order; along is the unit vector of its length."""
    a, b = along * length / 2, np.array((-along[1], along[0])) * width / 2
    return np.stack((centre - a - b, centre + a - b, centre + a + b, centre - a + b))


def _farm(place: Array, normal: Array, sun: Array, rng: np.random.Generator) -> _Farm:
    """A house, mostly with a shed or a barn, in a yard; aligned with the road."""
    along = np.array((-normal[1], normal[0]))
    house = rng.uniform(30, 44)
    buildings = [(place, house, rng.uniform(22, 30), rng.uniform(12, 20))]
    for side in (-1, 1):
        if rng.random() < 0.5:
            length, width = rng.uniform(14, 26), rng.uniform(11, 18)
            if rng.random() < 0.1:
                length, width = rng.uniform(44, 60), rng.uniform(24, 30)
            offset = along * side * (rng.uniform(6, 18) + (house + length) / 2) + normal * rng.uniform(-8, 8)
            buildings.append((place + offset, length, width, rng.uniform(7, 13)))
    shadows, roofs = [], []
    for centre, length, width, height in buildings:
        outline = _rectangle(centre, along, length, width)
        reach = np.concatenate([outline, outline - sun * height])
        shadows.append(reach[cv2.convexHull((reach - centre).astype(np.float32), returnPoints=False)[:, 0]])
        kind = int(_ROOF + rng.choice(6, p=(0.3, 0.15, 0.2, 0.15, 0.1, 0.1)))
        across = np.array((-along[1], along[0]))
        for side in (-1, 1):  # two slopes, the one towards the sun brighter
            slope = _rectangle(centre + across * side * width / 4, along, length, width / 2)
            roofs.append((slope, kind, 1 + 0.13 * side * float(across @ sun)))
    yard = _rectangle(place, along, rng.uniform(90, 150), rng.uniform(56, 70))
    return _Farm(yard=yard, yard_kind=_YARD + int(rng.random() < 0.3), shadows=tuple(shadows), roofs=tuple(roofs))


# ---- a tile ----------------------------------------------------------------------------------------------------------

def _tile(seed: int, row: int, col: int, side: int) -> tuple[U8, U8]:
    """(image_BHW, mask_HW) of a square; row, col and side are multiples of 16."""
    rows, cols = (np.arange(a - _MARGIN, a + side + _MARGIN) for a in (row, col))
    grid, table = Grid(seed=seed, rows=rows, cols=cols), _materials(seed)
    turn = float(unit(hash32(f"{seed} sun", np.array([0]), np.array([0])))[0]) * 1.6 - 0.8
    sun = np.array((math.cos(turn), math.sin(turn)))  # from the south: shadows point up
    blocks = _blocks(grid, (row, col), np.float32)
    kind, light = _fields(grid, blocks, table)
    shade = _plant(grid, kind, light, sun)
    farms = _farms(grid, sun)
    for farm in farms:
        _fill(grid, kind, farm.yard, farm.yard_kind)
        _fill(grid, light, farm.yard, 1.0)
    _pave(blocks, kind, light)
    for farm in farms:
        for corners in farm.shadows:
            _fill(grid, shade, corners, 1)
    for farm in farms:
        for corners, roof, bright in farm.roofs:
            _fill(grid, kind, corners, roof)
            _fill(grid, light, corners, bright)
            _fill(grid, shade, corners, 0)
    inner = slice(_MARGIN, -_MARGIN)
    labels_HW = table["class"][kind[inner, inner]]
    return _expose(grid, kind, light, shade, table)[:, inner, inner], labels_HW


def _fill(grid: Grid, target: Array, corners: Array, value: float) -> None:
    """Draw a convex polygon; by absolute coordinates, so that every tile which it touches agrees on each pixel."""
    (top, left), (bottom, right) = np.floor(corners.min(0)), np.ceil(corners.max(0))
    part = tuple(slice(*np.searchsorted(axis, ends)) for axis, ends in
                 ((grid.rows, (top, bottom + 1)), (grid.cols, (left, right + 1))))
    y, x = grid.rows[part[0], None], grid.cols[part[1]]
    above, below = np.ones((2, y.size, x.size), bool)
    for (ay, ax), (by, bx) in zip(corners, np.roll(corners, -1, axis=0)):
        down, along = (bx - ax) * (y - ay), (by - ay) * (x - ax)
        above &= along >= down
        below &= along <= down
    target[part][above | below] = value


def _plant(grid: Grid, kind: U8, light: F32, sun: Array) -> U8:
    """Put woods and water into the material and light of a tile; returns where trees throw their shadow."""
    wood, water = _wood(grid), _water(grid)
    wet, shade = water > 0, np.zeros(kind.shape, np.uint8)
    if wet.any():
        np.copyto(light, 1.12 - np.minimum(water * 2, np.float32(0.25)), where=wet)
        kind[wet] = _WATER + (grid.noise("algae", {512: 1.0, 64: 0.3, 4: 0.2}) > 0.5)[wet]
    if wood.max() > -0.3:
        height = _crowns(grid)
        trees = (wood + np.float32(0.35) * height > np.float32(0.2)) & ~wet
        lit = height - np.roll(height, (-round(2 * sun[0]), -round(2 * sun[1])), (0, 1))
        np.copyto(light, np.float32(0.72) + np.float32(0.4) * height + np.float32(0.45) * lit, where=trees)
        kind[trees] = _WOOD + (grid.noise("leaf", {256: 1.0, 16: 0.7}) > 0)[trees]
        shade[np.roll(trees, (-round(9 * sun[0]), -round(9 * sun[1])), (0, 1)) & ~trees] = 1
    return shade


def _pave(blocks: _Blocks, kind: U8, light: F32) -> None:
    """Put roads, and the grass beside them, into the material and light of a tile."""
    half, edge = blocks.half[blocks.pair], blocks.edge
    kind[(edge < half + 5) & (half > 0) & (kind < _WOOD)] = _YARD
    road = edge < half
    pair, half, edge = blocks.pair[road], half[road], edge[road]
    kind[road] = blocks.paving[pair]
    dirt = kind[road] == _ROAD + 2
    light[road] = np.where(dirt, 1 - 0.2 * (edge < 1.5), 1 + 0.5 * (edge < 0.7) + 0.1 * (np.abs(edge - half + 2) < 1))


def _expose(grid: Grid, kind: U8, light: F32, shade: U8, table: Mapping[str, Array]) -> U8:
    """The picture: colour of the material by texture, light and shadow, through lens, haze and sensor."""
    mottle = grid.noise("mottle", {128: 0.8, 32: 0.6})
    light = light + cv2.LUT(kind, table["grain"]) * grid.noise("grain", {8: 0.5, 4: 0.6, 2: 0.6})
    light *= 1 + cv2.LUT(kind, table["mottle"]) * mottle
    soft = cv2.blur(shade.astype(np.float32), (3, 3))
    noise = hash32(f"{grid.seed} sensor", grid.rows[:, None], grid.cols).view(np.uint8).reshape(*kind.shape, 4)
    dusk = grid.noise("illumination", {2048: 0.05}) + 1
    image = np.empty((3, *kind.shape), np.uint8)
    for band, (name, tint, dark, haze) in enumerate(
            (("red", 0.02, 0.58, 10), ("green", -0.005, 0.54, 12), ("blue", -0.03, 0.45, 17))):
        plane = cv2.LUT(kind, table[name]) * (light * dusk)
        plane *= (1 + np.float32(tint) * mottle) * (1 - np.float32(dark) * soft)
        grains = noise[..., band].astype(np.float32) + noise[..., 3] - 255
        image[band] = np.clip(cv2.GaussianBlur(plane, (3, 3), 0.6) + haze + grains * np.float32(0.02), 0, 255)
    return image
