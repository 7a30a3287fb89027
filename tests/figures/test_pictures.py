"""Pictures are drawn from whatever a run has: any bands and types, gaps, classes without labels."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from support.drawn import keep_figures
from swath import figures

NAMES = ["ground", "road", "lake"]
COLOURS = [(10, 200, 30), (60, 16, 152), (254, 221, 58)]
IGNORED, WRONG = (226, 226, 226), (230, 0, 92)


def drawn(path: Path) -> np.ndarray:
    """The picture as uint8 (row, col, RGB)."""
    image = cv2.imread(str(path))
    assert image is not None
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def pixels_of(image: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((image == colour).all(axis=-1).sum())


REPORTS: list[dict[str, float | None]] = [
    {"megapixels": 1.0, "train/loss": 2.0, "val/loss": 1.5, "train/miou": 0.2, "val_part/miou": 0.1,
     "val_part/miou_se": 0.02},
    {"megapixels": 2.0, "train/loss": None, "val/loss": float("nan"), "val_part/miou": 0.3},
    {"megapixels": 3.0, "train/loss": 1.0, "val_part/miou": 0.4, "val_part/miou_se": 0.03, "val/miou": 0.42}]


@pytest.mark.parametrize("history", [[], REPORTS[:1], REPORTS, [{"megapixels": 1.0, "val/miou": None}]])
def test_curves_are_drawn_from_any_history(history: list[dict[str, float | None]], tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    kept = keep_figures(monkeypatch)
    figures.curves(history, tmp_path / "new" / "curves.png")
    assert drawn(tmp_path / "new" / "curves.png").ndim == 3
    for axes, keys in zip(kept[0].axes, (("train/loss", "val/loss"), ("train/miou", "val_part/miou", "val/miou")),
                          strict=True):
        expected = {key: [(report["megapixels"], value) for report in history
                          if (value := report.get(key)) is not None and np.isfinite(value)] for key in keys}
        found = {str(line.get_label()).split()[0]: list(map(tuple, line.get_xydata().tolist())) for line in axes.lines}
        assert found == {key: points for key, points in expected.items() if points}
        assert [text.get_text() for text in axes.texts] == ([] if found else ["nothing reported"])
        bands = [band for band in axes.collections if band.get_label() == "± one standard error"]
        assert len(bands) == ("val_part/miou" in found)


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        figures.curves(REPORTS, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("classes", [1, 3, 40])
def test_a_confusion_matrix_of_any_size_is_drawn_with_empty_rows(classes: int, tmp_path: Path) -> None:
    counts_KK = np.diag(np.arange(classes)).astype(np.int64) * 10**6
    figures.confusion(counts_KK, [f"class {i}" for i in range(classes)], tmp_path / "confusion.png")
    darkest = (8, 48, 107)  # of the colour map: a whole row in one cell
    assert (pixels_of(drawn(tmp_path / "confusion.png"), darkest) > 2000) == (classes > 1)


def test_a_confusion_matrix_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"confusion: counts of shape \(2, 2\) for 3 classes"):
        figures.confusion(np.zeros((2, 2), np.int64), NAMES, tmp_path / "x.png")


@pytest.mark.parametrize(("bands", "dtype"), [(1, np.uint8), (2, np.int16), (3, np.uint8), (4, np.uint16),
                                              (10, np.float32)])
def test_a_sheet_is_drawn_of_any_bands_and_type(bands: int, dtype: type, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images_NBHW = (rng.random((2, bands, 24, 32)) * 100).astype(dtype)
    if dtype is np.float32:
        images_NBHW[0, :, :5] = np.nan
    labels_NHW = np.zeros((2, 24, 32), np.uint8)
    labels_NHW[:, :, 16:] = 1
    labels_NHW[1, :8] = 255
    predictions_NHW = labels_NHW.copy()
    predictions_NHW[:, 16:] = 2
    path = tmp_path / "sheet.png"
    figures.sheet(images_NBHW, labels_NHW, predictions_NHW, COLOURS, NAMES, 255, path, titles=["a", "b" * 200])
    image = drawn(path)
    panel = sum(pixels_of(image[: image.shape[0] // 2, image.shape[1] // 4 : image.shape[1] // 2], c)
                for c in COLOURS[:2])  # the label of the first row, which has no other colour
    assert pixels_of(image, WRONG) == pytest.approx(2 * panel / 3, rel=0.1)
    assert pixels_of(image, IGNORED) > panel / 2
    assert pixels_of(image, COLOURS[2]) > panel / 2


def test_errors_are_where_labels_that_count_are_missed(tmp_path: Path) -> None:
    labels_NHW = np.full((1, 8, 8), 255, np.uint8)
    figures.sheet(np.zeros((1, 3, 8, 8), np.uint8), labels_NHW, np.zeros_like(labels_NHW), COLOURS, NAMES, 255,
                   tmp_path / "none.png")
    legend_alone = pixels_of(drawn(tmp_path / "none.png"), WRONG)
    labels_NHW[0, 0, 0] = 1
    figures.sheet(np.zeros((1, 3, 8, 8), np.uint8), labels_NHW, np.zeros_like(labels_NHW), COLOURS, NAMES, 255,
                   tmp_path / "one.png")
    assert 0 < legend_alone < 500 < pixels_of(drawn(tmp_path / "one.png"), WRONG)


def test_parts_of_a_sheet_that_do_not_fit_each_other_are_refused(tmp_path: Path) -> None:
    images_NBHW, labels_NHW = np.zeros((2, 3, 8, 8), np.uint8), np.zeros((2, 8, 8), np.uint8)
    with pytest.raises(ValueError, match="do not fit each other"):
        figures.sheet(images_NBHW, labels_NHW[:1], labels_NHW, COLOURS, NAMES, 255, tmp_path / "x.png")
    with pytest.raises(ValueError, match="3 colours for 2 names, 2 titles for 2 images"):
        figures.sheet(images_NBHW, labels_NHW, labels_NHW, COLOURS, NAMES[:2], 255, tmp_path / "x.png")


def test_bands_are_stretched_each_for_itself_between_percentiles() -> None:
    ramp_HW = np.arange(101.0).reshape(1, 101)
    image_HWC = figures.shown(np.stack([ramp_HW, 1000 - ramp_HW, np.full((1, 101), 7.0), ramp_HW * np.nan]))
    assert image_HWC.shape == (1, 101, 3)
    assert image_HWC[0, :3, 0].tolist() == [0, 0, 0]
    assert image_HWC[0, [50, 98, 100], 0].tolist() == [128, 255, 255]
    assert (image_HWC[..., 1] == image_HWC[:, ::-1, 0]).all()
    assert (image_HWC[..., 2] == 128).all()


def test_fewer_than_three_bands_are_grey_and_gaps_are_black() -> None:
    band_HW = np.array([[np.nan, 0.0, 1.0, np.inf]], np.float32)
    image_HWC = figures.shown(np.stack([band_HW, np.zeros_like(band_HW)]))
    assert (image_HWC == image_HWC[..., :1]).all()
    assert image_HWC[0, :, 0].tolist() == [0, 0, 255, 0]
    assert (figures.shown(np.full((1, 2, 2), np.nan)) == 0).all()


def test_the_legend_has_every_class_in_its_colour() -> None:
    patches = figures.legend_patches(COLOURS, NAMES, ignored=True)
    assert [patch.get_label() for patch in patches] == [*NAMES, "error", "ignored"]
    assert to_rgb(patches[1].get_facecolor()) == pytest.approx([c / 255 for c in COLOURS[1]])


def test_drawing_needs_neither_pyplot_nor_torch() -> None:
    code = "import sys; from swath import figures; print({'torch', 'matplotlib.pyplot', 'mlflow'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True,
                           text=True, check=True)
    assert found.stdout == "set()\n"


def patches_of(light: int) -> tuple[np.ndarray, np.ndarray]:
    """Two patches of 64 px, left half ground and right half road, with a corner that is ignored."""
    labels_NHW = np.zeros((2, 64, 64), np.uint8)
    labels_NHW[:, :, 32:] = 1
    labels_NHW[:, :8, :8] = 255
    images_NBHW = np.where(labels_NHW == 1, 100, 50)[:, None].repeat(4, axis=1).astype(np.uint8) + np.uint8(light)
    return images_NBHW[:, None], labels_NHW


def test_a_contact_sheet_shows_each_row_and_a_change_of_light(tmp_path: Path) -> None:
    path, plain, bright = tmp_path / "contact.png", patches_of(0), patches_of(25)
    figures.contact(path, [("none", *plain), ("brighter", *bright)], titles=["a", "b" * 200], colours=COLOURS,
                     names=NAMES, ignore=255)
    image = drawn(path)
    road, ignored = pixels_of(image, COLOURS[1]), pixels_of(image, IGNORED)
    assert road > ignored > 0
    assert pixels_of(image, WRONG) == 0  # no predictions, so no errors in the legend
    assert pixels_of(image, (128, 128, 128)) + pixels_of(image, (127, 127, 127)) > road / 5, "the brighter ground"
    assert pixels_of(image, (0, 0, 0)) > road / 5, "the darkest ground of the first row"


@pytest.mark.parametrize("fault", ["titles", "shapes", "rows", "names"])
def test_a_contact_sheet_of_parts_that_do_not_fit_is_refused(fault: str, tmp_path: Path) -> None:
    images_NBHW, labels_NHW = patches_of(0)
    rows = [("none", images_NBHW, labels_NHW), ("cut", images_NBHW[:1], labels_NHW[:1])]
    with pytest.raises(ValueError, match=r"^contact: "):
        figures.contact(tmp_path / "x.png", [] if fault == "rows" else rows if fault == "shapes" else rows[:1],
                         titles=["a"] if fault == "titles" else ["a", "b"], colours=COLOURS,
                         names=NAMES[:1] if fault == "names" else NAMES, ignore=255)
