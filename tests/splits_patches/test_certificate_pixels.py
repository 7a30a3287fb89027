"""The overlap certificate against the pixels themselves, its units, and what it must not be misled by."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from patchstore import CELL, Scene
from support.paper_store import PaperStore, scene
from swath.patches.certificate import Certificate, Pair, certify
from swath.splits import autocorrelation, division


@dataclass(frozen=True)
class Windows:
    """A plan as far as the certificate reads one: windows (scene, row, col, side)."""

    windows: list[tuple[str, int, int, int]]
    is_concentric: bool = False

    def __post_init__(self) -> None:
        scenes = sorted({window[0] for window in self.windows})
        sides = sorted({window[3] for window in self.windows})
        for name, value in {
                "scenes": tuple(scenes), "scene_P": np.array([scenes.index(w[0]) for w in self.windows], np.int32),
                "row_P": np.array([w[1] for w in self.windows], np.int32),
                "col_P": np.array([w[2] for w in self.windows], np.int32),
                "scale_P": np.array([sides.index(w[3]) for w in self.windows], np.uint8),
                "side_SC": np.array([sides] * len(scenes), np.int32)}.items():
            object.__setattr__(self, name, value)


def on_paper(store: PaperStore, labels: dict[str, NDArray[np.uint8]], plans: dict[str, Windows] | None = None
             ) -> Certificate:
    return certify(store, division.Split(labels=labels), plans)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 9999), gap=st.integers(-150, 80), down=st.integers(-40, 40), patches=st.integers(0, 6))
def test_overlap_and_distance_are_those_of_the_pixels(seed: int, gap: int, down: int, patches: int) -> None:
    generator = np.random.default_rng(seed)
    scenes = [scene("one", (150, 200), group="g", origin=(60, 0)),
              scene("two", (130, 170), group="g", origin=(60 + down, 200 + gap))]
    labels = {s.name: generator.choice(np.array([0, 1, 255], np.uint8), [-(-n // CELL) for n in s.shape])
              for s in scenes}
    plans = {split: Windows([(s.name, int(generator.integers(0, 120)), int(generator.integers(0, 150)),
                              int(generator.choice([32, 90]))) for s in scenes for _ in range(patches)])
             for split in ("train", "val")} if patches else None
    found = on_paper(PaperStore(scenes), labels, plans)

    cells, seen = {}, {}  # bool (split, scene, row, col) on the group's grid, the slow way
    for number, split in enumerate(("train", "val")):
        cells[split] = np.zeros((2, 400, 600), bool)
        for i, s in enumerate(scenes):
            place = np.s_[i, s.origin[0]:s.origin[0] + s.shape[0], s.origin[1]:s.origin[1] + s.shape[1]]
            cells[split][place] = (labels[s.name] == number).repeat(CELL, 0).repeat(CELL, 1)[:s.shape[0], :s.shape[1]]
        seen[split] = cells[split].copy() if plans is None else np.zeros((2, 400, 600), bool)
        for name, row, col, side in plans[split].windows if plans else []:
            i = [s.name for s in scenes].index(name)
            rows, cols = (slice(scenes[i].origin[a] + n, scenes[i].origin[a] + min(n + side, scenes[i].shape[a]))
                          for a, n in enumerate((row, col)))
            seen[split][i, rows, cols] = True
    if not (cells["train"].any() and cells["val"].any()):
        assert found.pairs == {}
        return
    pair = found.pairs["train-val"]
    overlaps = [int((cells[a] & seen[b].any(axis=0)).sum()) for a, b in (("train", "val"), ("val", "train"))]
    assert pair.overlap_px == max(overlaps)
    assert found.clean == (max(overlaps) == 0)
    distances = [pixel_distance(cells[a].any(axis=0), seen[b].any(axis=0))
                 for a, b in (("train", "val"), ("val", "train"))]
    assert pair.distance == pytest.approx(min(distances), abs=1e-6)


def pixel_distance(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Smallest distance between pixels as squares."""
    if not (one.any() and other.any()):
        return np.inf
    if (one & other).any():
        return 0.0
    a, b = (np.argwhere(mask & ~cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool))
            for mask in (one, other))  # their outlines
    gaps = np.maximum(np.abs(a[:, None].astype(np.int32) - b[None].astype(np.int32)) - 1, 0)
    return float(np.sqrt((gaps**2).sum(axis=2).min()))


def test_pixels_are_those_of_the_scene_that_is_seen() -> None:
    fine = scene("fine", (256, 256), transform=(0.25, 0, 0, 0, -0.25, 64))
    coarse = scene("coarse", (128, 128), transform=(0.5, 0, 32, 0, -0.5, 64))
    labels = {"fine": np.zeros((4, 4), np.uint8), "coarse": np.ones((2, 2), np.uint8)}
    pair = on_paper(PaperStore([fine, coarse]), labels).pairs["train-val"]
    assert pair.overlap_px == 256 * 128  # the larger count: in pixels of 25 cm, not the 64 x 128 of 50 cm
    turned = scene("turned", (256, 256), transform=(0.2, 0.15, 0, 0.15, -0.2, 64))  # 25 cm, by 37 degrees
    labels = {"turned": np.array([[0, 0, 1, 1]] * 4, np.uint8), "again": np.ones((4, 4), np.uint8)}
    pair = on_paper(PaperStore([turned, replace(turned, name="again")]), labels).pairs["train-val"]
    assert pair.overlap_px == 256 * 128


def test_distances_have_their_unit() -> None:
    def pair(*scenes: Scene) -> Pair:
        return on_paper(PaperStore(scenes), {s.name: np.full((1, 1), i, np.uint8) for i, s in enumerate(scenes)}
                        ).pairs["train-val"]

    east = pair(scene("a", (64, 64), transform=(0.5, 0, 0, 0, -0.5, 0)),
                scene("b", (64, 64), transform=(0.5, 0, 72, 0, -0.5, 0)))
    assert (east.distance, east.unit, east.distance_px) == (40, "m", 80)
    degrees = [replace(scene(name, (64, 64), transform=(2**-12, 0, x, 0, -2**-12, 0)), pixel_m2=None)
               for name, x in (("a", 0), ("b", 2**-5))]
    assert (pair(*degrees).distance, pair(*degrees).unit) == (2**-6, "crs")
    grid = pair(scene("a", (64, 64), group="g"), scene("b", (64, 64), group="g", origin=(100, 0)))
    assert (grid.distance, grid.unit) == (36, "px")
    apart = pair(scene("a", (64, 64)), scene("b", (64, 64)))
    assert (apart.distance, apart.unit, apart.overlap_px) == (None, "", 0)


def test_ground_in_two_reference_systems_is_not_passed_over() -> None:
    scenes = [scene(name, (64, 64), transform=(0.5, 0, 0, 0, -0.5, 0), crs=name) for name in ("zone 33", "zone 34")]
    found = on_paper(PaperStore(scenes), {s.name: np.full((1, 1), i, np.uint8) for i, s in enumerate(scenes)})
    assert found.pairs["train-val"].distance is None
    assert found.findings()[0].startswith("scenes lie in 2 coordinate systems")


def test_a_million_patches_are_certified() -> None:
    shape, names = (6400, 6400), [f"s{i}" for i in range(10)]
    corner = np.arange(0, 6400 - 255, 19)
    row_P, col_P = (axis.ravel() for axis in np.meshgrid(corner, corner, indexing="ij"))
    plan = SimpleNamespace(scenes=tuple(names), is_concentric=False,
                           scene_P=np.repeat(np.arange(10, dtype=np.int32), len(row_P)),
                           row_P=np.tile(row_P.astype(np.int32), 10), col_P=np.tile(col_P.astype(np.int32), 10),
                           scale_P=np.zeros(10 * len(row_P), np.uint8), side_SC=np.full((10, 1), 256, np.int32))
    assert len(plan.row_P) > 1_000_000
    labels = {name: np.zeros((100, 100), np.uint8) for name in names}
    labels["s9"][50:] = 1
    pair = on_paper(PaperStore([scene(name, shape) for name in names]), labels,
                    {"train": plan}).pairs["train-val"]  # type: ignore[dict-item]
    assert pair.overlap_px == (corner[-1] + 256 - 3200) * (corner[-1] + 256)


def test_cells_that_say_nothing_are_not_the_same() -> None:
    class Flat(PaperStore):
        def moments(self, name: str) -> NDArray[np.float64]:
            moments = np.broadcast_to([4096.0, 4096 * 7, 4096 * 49], (2, 3, 1, 3)).copy()  # all of them 7 …
            moments[1] = [4096, 3, 3]  # … or three pixels of 1, in every cell of a row
            return moments

    store = Flat([scene("a", (128, 192)), scene("b", (128, 192))])
    labels = {"a": np.zeros((2, 3), np.uint8), "b": np.ones((2, 3), np.uint8)}
    assert on_paper(store, labels).pairs["train-val"].same_px == 0


def test_an_autocorrelation_length_that_cannot_be_seen() -> None:
    half = np.zeros((640, 1280), np.uint8)
    half[:, 640:] = 1
    scenes = [scene("a", half.shape), scene("b", half.shape)]
    alike = autocorrelation.of_labels(PaperStore(scenes), ["a", "b"])  # type: ignore[arg-type]
    assert alike is None
    unlike = PaperStore(scenes, {"a": np.zeros_like(half), "b": np.ones_like(half)})
    found = autocorrelation.of_labels(unlike, ["a", "b"])  # type: ignore[arg-type]
    assert found is not None
    assert (found.longer, found.m) == (True, None)
    assert found.px > 640
