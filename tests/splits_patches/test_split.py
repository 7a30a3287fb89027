"""Splits: which cells are whose, by group, scene, block, tile and fold, and how units are dealt out."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from patchstore import CELL, Store
from support.paper_store import PaperStore, scene
from swath.commands import command_line
from swath.config import Config, SplitConfig
from swath.errors import ConfigError, DataError
from swath.splits import division, ground
from swath.splits.apportion import apportion, draw
from swath.splits.blocks import lay


def divide(store: PaperStore, config: SplitConfig) -> division.Split:
    return division.divide(store, config)  # type: ignore[arg-type]


def test_groups_are_never_divided(store: Store) -> None:
    split = division.divide(store, SplitConfig())
    by_group: dict[str, set[int]] = {}
    for name, info in store.scenes.items():
        by_group.setdefault(info.group, set()).update(np.unique(split.labels[name]).tolist())
    assert all(len(labels) == 1 for labels in by_group.values())
    assert set.union(*by_group.values()) == {0, 1, 2}


def test_named_groups_and_their_refusals(store: Store) -> None:
    split = division.divide(store, SplitConfig(val=("g0",), test=("g1",)))
    assert {store.scenes[s].group for s, _ in split.scenes("val")} == {"g0"}
    with pytest.raises(DataError, match=r"split.val: no group 'g9'"):
        division.divide(store, SplitConfig(val=("g9",)))
    with pytest.raises(DataError, match="train split has no labelled pixel"):
        division.divide(store, SplitConfig(val=("g0",), test=("g1", "g2")))


def test_a_published_list_may_divide_groups_and_leave_scenes_out(store: Store) -> None:
    names = sorted(store.scenes)  # g0_s0, g0_s1, g1_s0, …
    config = SplitConfig(by="scene", train=(names[0],), val=(names[1],), test=(names[2],))
    split = division.divide(store, config)
    assert [[scene for scene, _ in split.scenes(name)] for name in division.SPLITS] == [[n] for n in names[:3]]
    assert all((split.labels[name] == division.NONE).all() for name in names[3:])
    rest = division.divide(store, SplitConfig(by="scene", val=(names[1],), test=(names[2],)))
    assert [scene for scene, _ in rest.scenes("train")] == [names[0], *names[3:]]
    with pytest.raises(DataError, match=r"split.train: no scene 'g0_s7' in the store; did you mean 'g0_s"):
        division.divide(store, SplitConfig(by="scene", train=("g0_s7",), val=("g1_s0",), test=("g2_s0",)))
    store.scenes[names[1]] = replace(store.scenes[names[1]], has_mask=False)
    with pytest.raises(DataError, match=f"split.val: the scene '{names[1]}' has no mask"):
        division.divide(store, config)


def test_statistics_come_from_train_cells_alone(store: Store) -> None:
    split = division.divide(store, SplitConfig(val=("g0",), test=("g1",)))
    one = next(name for name, _ in split.scenes("train"))
    split.labels[one][:, 2:] = division.NONE  # part of a scene: so few cells that the mean moves
    images, labels = [], []
    for name, cells in split.scenes("train"):
        rows, cols = ((0, n) for n in store.scenes[name].shape)
        inside = cells.repeat(CELL, 0).repeat(CELL, 1)[:rows[1], :cols[1]]
        images.append(store.region(name, "image", rows, cols)[:, inside])
        labels.append(store.region(name, "mask", rows, cols)[inside])
    pixels = np.concatenate(images, axis=1).astype(np.float64)
    mean_B, std_B = division.band_statistics(store, split)
    np.testing.assert_allclose(mean_B, pixels.mean(axis=1))
    np.testing.assert_allclose(std_B, pixels.std(axis=1))
    counted = np.bincount(np.concatenate(labels), minlength=256)[:len(store.classes)]
    assert division.class_pixels(store, split, "train").tolist() == counted.tolist()


# Blocks

@pytest.mark.parametrize("transform", [
    None, (1, 0, 0, 0, -1, 0), (0.3, 0, 512_345.7, 0, -0.3, 5_812_345.1), (0.4, 0.3, 5e5, 0.3, -0.4, 5e6)])
def test_a_lone_scene_loses_nothing_to_blocks(transform: tuple[float, ...] | None) -> None:
    store = PaperStore([scene("s", (700, 1000), transform=transform)])
    split = divide(store, SplitConfig(by="block", block=128))
    assert set(np.unique(split.labels["s"])) == {0, 1, 2}
    for row, col in np.ndindex(6, 8):
        assert len(np.unique(split.labels["s"][2 * row:2 * row + 2, 2 * col:2 * col + 2])) == 1
    assert not split.notes


def test_dates_of_one_place_have_one_label_for_one_ground() -> None:
    there = (0.5, 0, 500_000.25, 0, -0.5, 5_800_000)
    east = (0.5, 0, 500_000.25 + 2 * 64 * 0.5, 0, -0.5, 5_800_000 - 64 * 0.5)
    store = PaperStore([scene("2019", (640, 640), transform=there, group="x"),
                        scene("2020", (640, 640), transform=there, group="y"),
                        scene("2021", (640, 640), transform=east, group="z")])
    split = divide(store, SplitConfig(by="block", block=128))
    np.testing.assert_array_equal(split.labels["2019"], split.labels["2020"])
    np.testing.assert_array_equal(split.labels["2019"][1:, 2:], split.labels["2021"][:-1, :-2])
    assert len(np.unique(split.labels["2019"])) == 3


def test_without_a_crs_blocks_lie_in_the_grid_of_the_group() -> None:
    store = PaperStore([scene("left", (256, 320), group="g"), scene("right", (256, 320), group="g", origin=(0, 192)),
                        scene("far", (256, 320), group="g", origin=(0, 9000))])
    split = divide(store, SplitConfig(by="block", block=64))
    np.testing.assert_array_equal(split.labels["left"][:, 3:], split.labels["right"][:, :2])
    grids = lay(store.scenes.values(), 64, 0)
    assert sorted(sorted(grid.own) for grid in grids) == [["far"], ["left", "right"]]


affine = st.builds(lambda pixel, x, y, turn: (pixel * np.cos(turn), pixel * np.sin(turn), x, pixel * np.sin(turn),
                                              -pixel * np.cos(turn), y),
                   st.sampled_from([0.25, 0.5, 0.3]), st.floats(0, 60), st.floats(0, 60), st.sampled_from([0, 0, 0.4]))


@settings(deadline=None, max_examples=60)
@given(transforms=st.lists(affine, min_size=1, max_size=3), block=st.sampled_from([64, 128, 192]),
       margin=st.sampled_from([0, 1, 64, 200]), seed=st.integers(0, 999), bare=st.floats(0, 0.5))
def test_blocks_of_two_splits_are_a_margin_apart(transforms: list[tuple[float, ...]], block: int, margin: int,
                                                 seed: int, bare: float) -> None:
    scenes = [scene(f"s{i}", (300, 330), transform=transform) for i, transform in enumerate(transforms)]
    generator = np.random.default_rng(seed)
    shapes: dict[int, list[shapely.Geometry]] = {0: [], 1: [], 2: []}
    for grid in lay(scenes, block, margin):
        of_block = generator.integers(0, 3, grid.shape[0] * grid.shape[1]).astype(np.uint8)
        of_block[generator.random(len(of_block)) < bare] = division.NONE  # as blocks without labels are
        for name, labels in grid.labels(of_block, division.NONE).items():
            there = ground.place(next(s for s in scenes if s.name == name))
            for row, col in np.argwhere(labels != division.NONE):
                top, left = row * CELL, col * CELL
                bottom, right = min(top + CELL, 300), min(left + CELL, 330)
                corners = there.matrix_33 @ np.array([[left, right, right, left], [top, top, bottom, bottom], [1] * 4])
                shapes[labels[row, col]].append(shapely.Polygon(corners[:2].T))
    least = margin * min(max(ground.place(s).pixel for s in scenes if s.name in grid.own)
                         for grid in lay(scenes, block, margin))
    thin = min(ground.place(each).pixel for each in scenes)
    for one, other in combinations(range(3), 2):
        if not (shapes[one] and shapes[other]):
            continue
        a, b = shapely.union_all(shapes[one]), shapely.union_all(shapes[other])
        # Of scenes whose pixels lie a thousandth beside each other's, cells of two splits may share a sliver.
        assert shapely.buffer(a.intersection(b), -0.01 * thin).is_empty
        assert a.distance(b) >= least - 1e-2


@pytest.mark.parametrize(("right", "kept"), [(1, [0, 9, 9, 9, 9, 9, 9, 9, 1]), (0, [0, 0, 0, 9, 9, 9, 0, 0, 0])])
def test_a_margin_holds_across_ground_without_labels(right: int, kept: list[int]) -> None:
    (grid,) = lay([scene("s", (64, 576))], 192, 256)
    of_block = np.full(grid.shape, 9, np.uint8)
    first = int(grid.own["s"][0, 0])
    of_block.ravel()[[first, first + 2]] = 0, right  # and the block between them has none
    assert grid.labels(of_block.ravel(), 9)["s"].tolist() == [kept]


def test_what_a_margin_costs_is_said() -> None:
    store = PaperStore([scene("s", (1024, 1024))])
    split = divide(store, SplitConfig(by="block", block=256, margin=64))
    lost = (split.labels["s"] == division.NONE).mean()
    assert 0 < lost < 0.9
    assert split.notes[-1].startswith(f"{lost:.1%} of the labelled pixels are in no split")
    with pytest.raises(DataError, match=r"no labelled pixel .*smaller split.margin or a larger split.block"):
        divide(store, SplitConfig(by="block", block=64, margin=512))
    wide = divide(store, SplitConfig(by="block", block=256, margin=128))
    assert wide.notes[-1].endswith("; use a smaller split.margin or a larger split.block")


# Tiles

def test_tiles_are_counted_as_landcover_ai_writes_them() -> None:
    store = PaperStore([scene("M-33-1", (1000, 1300)), scene("N-34-2", (512, 512))])
    k, of_k = 0, {}
    for y in range(0, 1000, 512):  # its split.py: every square counts, whole or not; whole ones are written
        for x in range(0, 1300, 512):
            if y + 512 <= 1000 and x + 512 <= 1300:
                of_k[k] = (y // CELL, x // CELL)
            k += 1
    assert list(of_k) == [0, 1]
    config = SplitConfig(by="tile", block=512, train=("M-33-1_0",), val=("M-33-1_1",), test=("N-34-2_0", "M-33-1_4"))
    split = divide(store, config)
    expected = np.full((16, 21), division.NONE)
    expected[:8, :8], expected[:8, 8:16], expected[8:, 8:16] = 0, 1, 2
    np.testing.assert_array_equal(split.labels["M-33-1"], expected)
    assert (split.labels["N-34-2"] == 2).all()


def test_a_line_that_names_no_tile_is_said_where(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("name,area\nt_0,1\nt_1,1\n")
    config = command_line.with_lists(Config(split=SplitConfig(
        by="tile", block=128, train=(f"@{tmp_path / 'train.csv'}",), val=("t_2",), test=("t_3",))))
    store = PaperStore([scene("t", (256, 256)), scene("bare", (256, 256), has_mask=False)])
    with pytest.raises(DataError, match=r"split.train \(name 1 of 3\): no tile 'name' in the store; there are: t_0"):
        divide(store, config.split)
    split = divide(store, replace(config.split, train=config.split.train[1:]))
    assert split.labels["t"].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 2, 2], [1, 1, 2, 2]]
    with pytest.raises(DataError, match=r"split.val: the tile 'bare_3' has no mask"):
        divide(store, replace(config.split, train=config.split.train[1:], val=("bare_3",)))


# Shares, balance, folds

def groups_of(pixels_UK: list[list[int]]) -> PaperStore:
    """One scene, and group, for each unit, with these pixels of each class."""
    labels = {f"u{i:02d}": np.repeat(np.array([0, 1, 2, 255], np.uint8), [*unit, 4096 - sum(unit)]).reshape(64, 64)
              for i, unit in enumerate(pixels_UK)}
    return PaperStore([scene(name, (64, 64)) for name in labels], labels)


def miss(pixels_UK: NDArray[np.int64], shares_P: NDArray[np.float64], parts_U: NDArray[np.int64]) -> float:
    """The distance that swath.apportion states, the slow way."""
    total = 0.0
    whole_K = pixels_UK.sum(axis=0)
    classes = [k for k in range(len(whole_K)) if whole_K[k]]
    weight = {k: np.sqrt(whole_K[k] / whole_K.sum()) for k in classes}
    for part, share in enumerate(shares_P / shares_P.sum()):
        have_K = pixels_UK[parts_U == part].sum(axis=0)
        if have_K.sum() == 0:
            return float("inf")
        total += (have_K.sum() / (share * whole_K.sum()) - 1) ** 2
        total += sum(weight[k] / sum(weight.values())
                     * (np.sqrt(have_K[k] / have_K.sum() / (whole_K[k] / whole_K.sum())) - 1) ** 2 for k in classes)
    return total


@settings(deadline=None, max_examples=40)
@given(units=st.integers(3, 60), classes=st.integers(1, 5), parts=st.integers(1, 3), seed=st.integers(0, 99))
def test_apportion_beats_a_draw_and_leaves_no_part_empty(units: int, classes: int, parts: int, seed: int
                                                         ) -> None:
    generator = np.random.default_rng(seed)
    pixels_UK = generator.integers(0, 1000, (units, classes)) * (generator.random((units, classes)) < 0.4)
    pixels_UK[:3, 0] += 1  # at least three have labels
    shares_P = generator.random(parts) + 0.1
    found_U = apportion(pixels_UK, shares_P, seed)
    assert set(found_U[pixels_UK.sum(axis=1) > 0]) == set(range(parts))
    plain_U = draw(pixels_UK.sum(axis=1), shares_P, seed)
    assert miss(pixels_UK, shares_P, found_U) <= miss(pixels_UK, shares_P, plain_U) + 1e-9
    np.testing.assert_array_equal(found_U, apportion(pixels_UK, shares_P, seed))


def test_apportion_needs_a_unit_for_each_part() -> None:
    with pytest.raises(ValueError, match="3 parts need as many units with pixels"):
        apportion(np.array([[1], [2], [0]]), np.ones(3), 0)


def test_a_rare_class_reaches_every_split() -> None:
    generator = np.random.default_rng(3)
    pixels = [[int(n), 2000 - int(n), 0] for n in generator.integers(200, 1800, 20)]
    for rare in (2, 11, 17):
        pixels[rare][2] = 300
    store = groups_of(pixels)
    balanced = divide(store, SplitConfig())
    whole_K = np.array(pixels).sum(axis=0)
    for name, share in (("train", 0.7), ("val", 0.15), ("test", 0.15)):
        pixels_K = division.class_pixels(store, balanced, name)  # type: ignore[arg-type]
        assert pixels_K.sum() / whole_K.sum() == pytest.approx(share, abs=0.03)
        np.testing.assert_allclose(pixels_K[:2] / pixels_K.sum(), whole_K[:2] / whole_K.sum(), atol=0.03)
        assert pixels_K[2] > 0
    plain = [divide(store, SplitConfig(balance=False, seed=seed)) for seed in range(20)]
    assert any("has no c" in " ".join(split.notes) for split in plain)  # and a split that lacks a class says so


def test_a_share_that_units_cannot_give_is_said() -> None:
    split = divide(groups_of([[1000, 0, 0]] * 3), SplitConfig(val=("u00",)))
    assert split.notes == ("the test split has 33.3% of the pixels, 15.0% were asked for: the groups are too large or "
                           "too few",)


@pytest.mark.parametrize("balance", [True, False])
@pytest.mark.parametrize("test", [(), ("u03", "u07")])
def test_every_unit_is_val_in_one_fold_and_test_is_the_same(balance: bool, test: tuple[str, ...]) -> None:
    generator = np.random.default_rng(0)
    store = groups_of(generator.integers(0, 1000, (20, 3)).tolist())
    folds = [divide(store, SplitConfig(folds=4, fold=fold, test=test, balance=balance)) for fold in range(4)]
    tests = [[name for name, _ in split.scenes("test")] for split in folds]
    assert tests == [tests[0]] * 4
    assert not test or tests[0] == list(test)
    vals = [name for split in folds for name, _ in split.scenes("val")]
    assert sorted(vals + tests[0]) == sorted(store.scenes)
    for split in folds:
        assert len(list(split.scenes("train"))) + len(list(split.scenes("val"))) + len(tests[0]) == 20


def test_no_test_split_where_none_is_asked_for() -> None:
    store = groups_of([[500, 500, 0]] * 6)
    split = divide(store, SplitConfig(test_fraction=0))
    assert not list(split.scenes("test"))
    assert len(list(split.scenes("train"))) + len(list(split.scenes("val"))) == 6
    three = divide(store, SplitConfig(test_fraction=0, folds=3, fold=1))
    assert [len(list(three.scenes(name))) for name in division.SPLITS] == [4, 2, 0]


def test_units_without_a_labelled_pixel_are_in_no_split() -> None:
    store = groups_of([[500, 500, 0]] * 4 + [[0, 0, 0]])
    assert (divide(store, SplitConfig()).labels["u04"] == division.NONE).all()


def test_what_cannot_be_divided_is_refused() -> None:
    store = groups_of([[500, 500, 0]] * 4)
    with pytest.raises(DataError, match=r"6 parts are needed, but only 4 groups are left: u00.*use fewer split.folds"):
        divide(store, SplitConfig(folds=5))
    with pytest.raises(DataError, match=r"ask for more than the 25.0% of the labelled pixels that named groups leave"):
        divide(groups_of([[500, 0, 0]] * 2 + [[6000 // 4, 0, 0]] * 2), SplitConfig(
            test=("u02", "u03"), val_fraction=0.5))


@pytest.mark.parametrize("make", [
    lambda: SplitConfig(by="block", val=("g",)),
    lambda: SplitConfig(by="tile"),
    lambda: SplitConfig(by="block", block=100),
    lambda: SplitConfig(margin=10),
    lambda: SplitConfig(by="block", margin=-1),
    lambda: SplitConfig(folds=1),
    lambda: SplitConfig(folds=3, fold=3),
    lambda: SplitConfig(folds=3, val=("g",)),
    lambda: SplitConfig(val_fraction=0),
    lambda: SplitConfig(test_fraction=-0.1),
    lambda: SplitConfig(train=("a",), val=("b",)),
])
def test_settings_that_contradict_each_other_are_refused(make: object) -> None:
    with pytest.raises(ConfigError, match="must be"):
        make()  # type: ignore[operator]
    assert SplitConfig(train=("a",), val=("b",), test_fraction=0)
