"""Classes merged, renamed and ignored when a store is read."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import patchstore
from patchstore import ClassInfo, Scene, Store, StoreError
from patchstore.store.merge import merge
from swath import recipes
from swath.config import ClusterConfig, PatchesConfig
from swath.experiments import evaluation
from swath.experiments.prepare import open_store
from swath.training import loop
from swath.training.context import LocalContext

CLASSES = tuple(ClassInfo(name, (10 * i, 0, 0))
                for i, name in enumerate(("field", "building", "wood", "sea+lake", "road")))
SCENE = Scene(name="s", shape=(10, 20), crs=None, transform=None, group="g", origin=(0, 0), fingerprint="f",
              version="v", levels=1, has_mask=True, has_valid=False, ignored=20, ignored_values=(("255", 20),),
              class_pixels=(100, 40, 30, 7, 3), band_sums=(), pixel_m2=None, notes=(), manifest="")


@pytest.mark.parametrize(("rules", "classes", "places"), [
    ((), ("field", "building", "wood", "sea+lake", "road"), (0, 1, 2, 3, 4)),
    (("built=road+building",), ("field", "built", "wood", "sea+lake"), (0, 1, 2, 3, 1)),
    (("built=building+road",), ("field", "built", "wood", "sea+lake"), (0, 1, 2, 3, 1)),
    (("=field",), ("building", "wood", "sea+lake", "road"), (None, 0, 1, 2, 3)),
    (("=field+road", "land=wood+building"), ("land", "sea+lake"), (None, 0, 0, 1, None)),
    (("road=building+road",), ("field", "road", "wood", "sea+lake"), (0, 1, 2, 3, 1)),
    (("water=sea+lake",), ("field", "building", "wood", "water", "road"), (0, 1, 2, 3, 4)),
    (("building=road", "road=building"), ("field", "road", "wood", "sea+lake", "building"), (0, 1, 2, 3, 4)),
])
def test_what_rules_make_of_classes(rules: tuple[str, ...], classes: tuple[str, ...], places: tuple[int | None, ...]
                                    ) -> None:
    made = merge(CLASSES, rules, 255)
    assert tuple(info.name for info in made.classes) == classes
    assert made.places == places
    assert [info.colour for info in made.classes] == [CLASSES[places.index(k)].colour for k in range(len(classes))]


def test_a_colour_may_be_given() -> None:
    assert merge(CLASSES, ["built#0A141E=road+building"], 255).classes[1] == ClassInfo("built", (10, 20, 30))


@pytest.mark.parametrize(("rules", "said"), [
    (("a=rode",), "merge 'a=rode': no class 'rode' in the store; did you mean 'road'"),
    (("a=zzz",), "no class 'zzz' in the store; there are: field, building"),
    (("road",), "must be written new=old"),
    (("#FF0000=road",), "must be written"),
    (("a=b=road",), "must be written"),
    (("a=road+road",), "road is merged already"),
    (("a=road+wood", "b=wood+field"), "wood is merged already"),
    (("wood=road+building",), "two classes would be named wood"),
    (("a=road", "a=building"), "two classes would be named a"),
    (("wood#140000=road",), "two classes would be named wood"),  # also with wood's own colour
    (("=field+building+wood+road", "=sea+lake"), "leaves no class"),
])
def test_rules_that_cannot_be_meant(rules: tuple[str, ...], said: str) -> None:
    with pytest.raises(StoreError) as caught:
        merge(CLASSES, rules, 255)
    assert said in str(caught.value)


@given(parts=st.lists(st.integers(0, 3), min_size=5, max_size=5).filter(any), seed=st.integers(0, 99))
def test_labels_and_counts_are_merged_alike(parts: list[int], seed: int) -> None:
    """Class k of five goes into part k: part 0 is ignored, each other one is a class."""
    own = tuple(ClassInfo(name, (k, 0, 0)) for k, name in enumerate("abcde"))
    members = {part: [k for k in range(5) if parts[k] == part] for part in set(parts)}
    rules = [(f"part {part}" if part else "") + "=" + "+".join(own[k].name for k in olds)
             for part, olds in members.items()]
    made = merge(own, rules, 254)
    assert {info.name for info in made.classes} == {f"part {part}" for part in members if part}
    labels_HW = np.random.default_rng(seed).choice(np.array([0, 1, 2, 3, 4, 254], np.uint8), (6, 7))
    seen_HW = made.labels(labels_HW)
    assert seen_HW.dtype == np.uint8
    np.testing.assert_array_equal(seen_HW == 254, np.isin(labels_HW, [254, *members.get(0, [])]))
    for k, info in enumerate(made.classes):
        np.testing.assert_array_equal(seen_HW == k, np.isin(labels_HW, members[int(info.name[-1])]))
    own_counts, counts = (np.stack([(values == k).sum(axis=0) for k in range(classes)], axis=-1)
                          for values, classes in ((labels_HW, 5), (seen_HW, len(made.classes))))
    np.testing.assert_array_equal(made.counts(own_counts), counts)


def test_a_scene_has_the_totals_of_what_is_seen() -> None:
    made = merge(CLASSES, ["=field", "built=building+road"], 255)
    scene = made.scene(SCENE)
    assert scene.class_pixels == (43, 30, 7)
    assert scene.ignored == 120
    assert dict(scene.ignored_values) == {"255": 20, "field": 100}
    assert replace(scene, class_pixels=SCENE.class_pixels, ignored=20, ignored_values=SCENE.ignored_values) == SCENE


def test_equal_classes_of_other_labels_are_told_apart() -> None:
    dropped, joined = merge(CLASSES, ["=building"], 255), merge(CLASSES, ["field=field+building"], 255)
    assert dropped.classes == joined.classes
    assert dropped.key() != joined.key()


def test_a_store_is_read_with_merged_classes(store: Store) -> None:
    rules = ("=woodland", "sealed#010203=building+road")
    merged = patchstore.open(store.uri, cache_bytes=1 << 20, merge=rules)
    assert [info.name for info in merged.classes] == ["field", "sealed", "water"]
    assert merged.classes[1].colour == (1, 2, 3)
    assert len({store.fingerprint, merged.fingerprint, patchstore.open(store.uri, merge=rules[:1]).fingerprint}) == 3
    table = np.array([0, 1, 255, 2, 1], np.uint8)
    for name, scene in store.scenes.items():
        rows, cols = scene.shape
        labels_HW = merged.region(name, "mask", (0, rows), (0, cols))
        np.testing.assert_array_equal(labels_HW, table[store.region(name, "mask", (0, rows), (0, cols))])
        pixels = tuple((labels_HW == k).sum() for k in range(3))
        assert merged.scenes[name].class_pixels == tuple(merged.counts(name).sum(axis=(0, 1))) == pixels
        assert merged.scenes[name].ignored == (labels_HW == 255).sum()
        assert merged.scenes[name].fingerprint == scene.fingerprint  # the ground is the same
    windows = [patchstore.Window(name, -20, 30, side) for name in store.scenes for side in (64, 100, 256)]
    again: Store = pickle.loads(pickle.dumps(merged))  # noqa: S301 (its own)
    for opened in (merged, again):
        images, labels = opened.read(windows, 64)
        own_images, own_labels = store.read(windows, 64)
        np.testing.assert_array_equal(images, own_images)
        np.testing.assert_array_equal(labels, np.append(table, np.full(251, 255, np.uint8))[own_labels])
    np.testing.assert_array_equal(again.moments(windows[0].scene), store.moments(windows[0].scene))
    with pytest.raises(StoreError, match="no class 'wodland' in the store; did you mean 'woodland'"):
        patchstore.open(store.uri, merge=("=wodland",))


@pytest.mark.slow
def test_a_run_trains_on_merged_classes_and_is_scored_on_them(store_uri: str, tmp_path: Path) -> None:
    config = recipes.synthetic()
    config = replace(
        config, data=replace(config.data, store=store_uri, merge=("=water", "built=building+road")),
        patches=PatchesConfig(size=64), train=replace(config.train, megapixels=0.1, report_every=0.1),
        model=replace(config.model, encoder="tu-mobilenetv3_small_050"), cluster=ClusterConfig(device="cpu", readers=0))
    run = loop.fit(config, open_store(config), LocalContext(tmp_path, torch.device("cpu")))
    wanted = evaluation.EvaluationRequest(split="test", workdir=tmp_path)
    score = evaluation.evaluate(str(run.checkpoint), wanted, device="cpu").score
    assert score.iou.keys() == {"field", "built", "woodland"}
