"""What follows from counts by scene: groups, areas, intervals over groups, pooled folds; and the sample's honesty."""

import json
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console, RenderableType

from patchstore import CELL
from support.paper_store import PaperStore, scene
from swath.config import Config, PatchesConfig, ScoreConfig
from swath.errors import DataError
from swath.report.score_tables import groups_table, score_table
from swath.scoring import bootstrap, counting, metrics
from swath.scoring.metrics import Counts
from swath.scoring.protocol import Protocol
from swath.scoring.result import Score, pool
from swath.splits.division import Split

CLASSES = ("field", "water", "road")
PROTOCOL = Protocol(split="val", cells="cells", store="store", classes=CLASSES, ignored=(255,), boundary_px=3,
                    overlap=0.5, symmetries=1)


def score_of(confusion_RKK: NDArray[np.int64], *, groups: list[str], pixel_m2: float | list[float | None] = 1.0,
             protocol: Protocol = PROTOCOL) -> Score:
    scenes = len(confusion_RKK)
    counts = np.zeros((scenes, 3, 3 + metrics.EXTRA), np.int64)
    counts[..., :3] = confusion_RKK
    sizes = [pixel_m2] * scenes if isinstance(pixel_m2, float) else pixel_m2
    return Score(classes=CLASSES, scenes=tuple(f"s{i}" for i in range(scenes)), groups=tuple(groups),
                 pixel_m2=tuple(sizes), counts=Counts(counts), present_K=counts.sum(axis=(0, 2)) > 0, ignored=0,
                 protocol=protocol)


def random_counts(scenes: int, seed: int = 0) -> NDArray[np.int64]:
    """Counts of scenes of different difficulty."""
    generator = np.random.default_rng(seed)
    skill = generator.beta(5, 2, scenes)[:, None, None]
    p = skill * np.eye(3) + (1 - skill) * generator.dirichlet([1, 1, 1], (scenes, 3))
    labels = generator.integers(100, 2000, (scenes, 3))
    return generator.multinomial(labels, p / p.sum(-1, keepdims=True)).astype(np.int64)


def test_groups_are_scored_over_the_classes_of_their_labels() -> None:
    lone = np.array([[50, 10, 0], [0, 40, 0], [0, 0, 0]])  # no road
    found = score_of(np.stack([lone, lone, 2 * np.eye(3, dtype=int)]), groups=["a", "a", "b"])
    assert found.by_group["a"].scenes == 2
    assert found.by_group["a"].miou == pytest.approx((50 / 60 + 40 / 50) / 2)
    assert found.by_group["b"].accuracy == 1
    assert found.by_group["a"].pixels + found.by_group["b"].pixels == found.pixels
    wrong = lone + np.array([[0, 0, 10], [0, 0, 0], [0, 0, 0]])  # road is predicted, which the labels do not have
    of_road = score_of(np.stack([wrong, 2 * np.eye(3, dtype=int)]), groups=["a", "b"]).by_group["a"]
    assert of_road.miou == pytest.approx((50 / 70 + 40 / 50) / 2)


def test_areas_weigh_where_pixels_differ() -> None:
    counts = random_counts(3)
    found = score_of(counts, groups=["a", "b", "c"], pixel_m2=[0.25, 1.0, 1.0])
    weighted = 0.25 * counts[0] + counts[1] + counts[2]
    assert found.miou_by_area == pytest.approx(metrics.mean_iou(weighted, np.ones(3, bool)))
    assert found.means["mean by area"] == found.miou_by_area != found.miou
    assert score_of(counts, groups=["a", "b", "c"]).miou_by_area is None
    some = score_of(counts, groups=["a", "b", "c"], pixel_m2=[0.25, None, 1.0])
    assert some.miou_by_area is None
    assert any("1 of 3 scenes have no pixel size" in note for note in some.notes)


def test_intervals_need_five_groups_and_say_so() -> None:
    counts = random_counts(8)
    few = score_of(counts, groups=list("aabbccdd"))
    assert few.intervals is None
    assert any("no intervals: the split has scored pixels in 4 groups" in note for note in few.notes)
    assert few.to_json()["intervals"] is None
    many = score_of(counts, groups=list("abcdefgh"))
    assert many.intervals is not None
    assert many.intervals.miou.low < many.miou < many.intervals.miou.high
    assert not any("interval" in note for note in many.notes)
    assert many.intervals == score_of(counts, groups=list("abcdefgh")).intervals  # the same draws each time


def test_groups_without_a_scored_pixel_are_not_drawn() -> None:
    counts = random_counts(8)
    counts[4:] = 0
    few = score_of(counts, groups=list("abcdefgh"))
    assert few.intervals is None
    assert any("in 4 groups" in note for note in few.notes)
    counts = random_counts(8)
    alone = score_of(counts[:6], groups=list("abcdef")).intervals
    counts[6:] = 0
    assert score_of(counts, groups=list("abcdefgh")).intervals == alone


def test_a_class_has_an_interval_where_five_groups_have_it() -> None:
    counts = random_counts(7)
    counts[4:, 2] = 0  # road is in four groups
    found = score_of(counts, groups=list("abcdefg"))
    assert found.intervals is not None
    assert [one is None for one in found.intervals.iou] == [False, False, True]
    counts = random_counts(7)
    counts[5:, 2] = 0
    assert None not in score_of(counts, groups=list("abcdefg")).intervals.iou  # type: ignore[union-attr]


def test_what_is_left_out_wholly_is_in_no_mean() -> None:
    """A class of which no pixel is covered, though it is predicted elsewhere; then all of them."""
    left_out = replace(PROTOCOL, uncovered="out", overlap=None, symmetries=None)
    counts = np.zeros((6, 3, 3 + metrics.EXTRA), np.int64)
    counts[..., :3] = random_counts(6)
    counts[:, 2, 3] = counts[:, 2, :3].sum(axis=-1)
    counts[:, 2, :3] = 0
    found = replace(score_of(random_counts(6), groups=list("abcdef"), protocol=left_out), counts=Counts(counts))
    assert found.miou == pytest.approx(np.mean([found.iou["field"], found.iou["water"]]))
    assert found.iou["road"] is None
    assert found.intervals is not None
    assert found.intervals.iou[2] is None
    assert found.intervals.miou.low < found.miou < found.intervals.miou.high
    assert any(note.startswith("no labelled pixel of road has a prediction") for note in found.notes)
    assert "not covered" in printed(score_table(found))
    nothing = replace(found, counts=Counts(np.zeros_like(counts)), pixel_m2=(0.25, 1.0, 1.0, 1.0, 1.0, 1.0))
    assert nothing.intervals is None
    assert json.loads(json.dumps(nothing.to_json(), allow_nan=False))["miou_by_area"] is None


def test_tables_put_what_has_no_score_last() -> None:
    counts = random_counts(3)
    counts[0] = 0
    found = score_of(counts, groups=list("abc"))
    assert [line.split()[1] for line in printed(groups_table(found)).splitlines()[4:7]][-1] == "a"
    assert "of 1 scene in 1 group," in printed(score_table(score_of(counts[1:2], groups=["b"])))


def printed(table: RenderableType) -> str:
    out = Console(width=200, file=StringIO())
    out.print(table)
    return out.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_all_rates_are_recorded_by_class() -> None:
    found = score_of(random_counts(2), groups=list("ab"))
    for what in ("precision", "recall"):
        assert {found.numbers()[f"val/{what}/{name}"] for name in CLASSES} == set(getattr(found, what).values())


def test_an_interval_is_that_of_a_plain_bootstrap() -> None:
    counts = random_counts(12, seed=3)
    present = np.ones(3, bool)
    found = bootstrap.intervals(counts)
    assert found is not None
    generator = np.random.default_rng(99)
    drawn = [counts[generator.integers(0, 12, 12)].sum(axis=0) for _ in range(2000)]
    mious = [metrics.mean_iou(one, present) for one in drawn]
    spread = np.std(mious)
    assert found.miou.low == pytest.approx(np.percentile(mious, 2.5), abs=0.25 * spread)
    assert found.miou.high == pytest.approx(np.percentile(mious, 97.5), abs=0.25 * spread)
    roads = np.array([metrics.iou(one)[2] for one in drawn])
    assert found.iou[2] is not None
    assert found.iou[2].high == pytest.approx(np.percentile(roads, 97.5), abs=0.25 * roads.std())


def test_scenes_of_a_group_say_less_than_as_many_groups() -> None:
    counts = random_counts(6, seed=1)
    alone = score_of(counts, groups=list("abcdef")).intervals
    copies = np.repeat(counts, 4, axis=0)
    together = score_of(copies, groups=[name for name in "abcdef" for _ in range(4)]).intervals
    apart = score_of(copies, groups=[f"g{i}" for i in range(24)]).intervals
    assert together == alone  # four times the pixels, and nothing new
    assert apart is not None
    assert alone is not None
    assert apart.miou.high - apart.miou.low < 0.7 * (alone.miou.high - alone.miou.low)


def test_folds_are_one_score_of_all_their_counts() -> None:
    counts = random_counts(6)
    folds = [score_of(counts[:3], groups=list("abc")),
             replace(score_of(counts[3:], groups=list("def"), protocol=replace(PROTOCOL, cells="others")),
                     scenes=("s3", "s4", "s5"))]
    pooled = pool(folds)
    assert pooled.miou == metrics.mean_iou(counts.sum(axis=0), np.ones(3, bool))
    assert sorted(pooled.by_group) == list("abcdef")
    assert pooled.intervals is not None
    assert pooled.protocol.digest() not in {fold.protocol.digest() for fold in folds}
    for change in ({"overlap": 0.25}, {"store": "another"}, {"boundary_px": 5}):
        other = replace(folds[1], protocol=replace(PROTOCOL, **change))  # type: ignore[arg-type]
        with pytest.raises(DataError, match=next(iter(change))):
            pool([folds[0], other])


def test_a_scene_of_two_folds_is_one_scene() -> None:
    """Folds of blocks: each has a part of every scene, here with pixels that a map leaves out."""
    protocol = replace(PROTOCOL, uncovered="wrong", overlap=None, symmetries=None)
    counts = np.zeros((2, 3, 3, 3 + metrics.EXTRA), np.int64)
    counts[..., :3] = random_counts(6).reshape(2, 3, 3, 3)
    counts[..., 0, 3] = [[5, 0, 7], [11, 0, 0]]
    names = (("s0", "s1", "s2"), ("s2", "s1", "s3"))
    folds = [replace(score_of(each[..., :3], groups=list("abc"), protocol=replace(protocol, cells=f"c{fold}")),
                     counts=Counts(each), scenes=names[fold], groups=tuple(name.replace("s", "g") for name in
                                                                           names[fold]))
             for fold, each in enumerate(counts)]
    pooled = pool(folds)
    assert pooled.scenes == ("s0", "s1", "s2", "s3")
    assert pooled.groups == ("g0", "g1", "g2", "g3")
    assert pooled.uncovered == {"s0": 5, "s2": 18}
    assert sum(one.scenes for one in pooled.by_group.values()) == 4
    np.testing.assert_array_equal(pooled.pooled.array, counts.sum(axis=(0, 1)))
    with pytest.raises(DataError, match="without"):
        pool([folds[0], replace(folds[1], without=("road",))])


SIDE, SCENES, K = 2048, 16, 4


@pytest.fixture(scope="module")
def population() -> tuple[PaperStore, Split, dict[str, NDArray[np.int64]]]:
    """A store without pixels: scenes of 64 blocks, some classes in few of them, with the counts of a predictor that
    finds some ground harder than other, scenes and blocks alike."""
    generator = np.random.default_rng(12)
    cells, each = SIDE // CELL, counting.SAMPLE_BLOCK_PX // CELL
    counts, confusions = {}, {}
    for number in range(SCENES):
        share_bK = generator.dirichlet([3.0, 1.5, 0.6, 0.2], (cells // each) ** 2) * (generator.random(K) < 0.9)
        share_bK[:, 3] *= generator.random(len(share_bK)) < 0.15  # a rare one
        share_bK[:, 0] += 0.05
        labels_bK = np.round(share_bK / share_bK.sum(axis=1, keepdims=True) * CELL**2).astype(np.int64)
        skill_b = generator.beta(6, 2, len(share_bK)) * generator.uniform(0.7, 1)
        p = (skill_b[:, None, None] * np.eye(K)
             + (1 - skill_b)[:, None, None] * generator.dirichlet([1.0] * K, (len(share_bK), K)))
        confusions[f"s{number}"] = generator.multinomial(labels_bK * each**2, p / p.sum(-1, keepdims=True))
        grid = labels_bK.reshape(cells // each, cells // each, K)
        counts[f"s{number}"] = grid.repeat(each, axis=0).repeat(each, axis=1)
    store = PaperStore([scene(name, (SIDE, SIDE)) for name in counts], cells=counts, names=tuple("abcd"))
    return store, Split(labels={name: np.ones((cells, cells), np.uint8) for name in counts}), confusions


def test_the_samples_estimate_is_unbiased_and_its_error_honest(
        population: tuple[PaperStore, Split, dict[str, NDArray[np.int64]]]) -> None:
    store, split, confusions = population
    present = np.ones(K, bool)
    truth = metrics.mean_iou(sum(of.sum(axis=0) for of in confusions.values()), present)
    config = Config(score=ScoreConfig(part=6.0))  # of 67 megapixels
    found = []
    for seed in range(200):
        drawn = counting.sample(store, split, "val", config, seed=seed)  # type: ignore[arg-type]
        block_px = counting.SAMPLE_BLOCK_PX
        counts = np.stack([confusions[r.scene][r.rows[0] // block_px * (SIDE // block_px) + r.cols[0] // block_px]
                           for r in drawn.regions])
        strata = np.array([r.stratum for r in drawn.regions])
        found.append(metrics.part_score(counts, strata, drawn.population_h, present))
    miou, se = np.array([(one.miou, one.se) for one in found]).T
    assert abs(miou.mean() - truth) < 2 * miou.std(ddof=1) / np.sqrt(len(miou))
    assert 0.8 < miou.std(ddof=1) / se.mean() < 1.25
    assert 0.9 < np.mean(np.abs(miou - truth) < 1.96 * se) < 0.99
    twice = [counting.sample(store, split, "val", replace(config, patches=PatchesConfig(size=size)))  # type: ignore[arg-type]
             for size in (64, 512)]
    assert twice[0].regions == twice[1].regions != drawn.regions  # the same for all, and not that of every seed
