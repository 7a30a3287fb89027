"""Figures of a run as PNG files: learning curves, a confusion matrix, sheets of predictions and of patches.

Shapes in names: N images, B bands, H rows, W columns, K classes, C colour channels. Each figure is a separate
matplotlib figure, drawn without a display and without pyplot's global state.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from numpy.typing import NDArray

from swath.names import MEGAPIXELS, SAMPLE_MIOU, SAMPLE_MIOU_SE, TRAIN_LOSS, TRAIN_MIOU, VAL_LOSS, VAL_MIOU

Colour = tuple[int, int, int]
Image = NDArray[np.uint8]

_INK, _FAINT, _GRID = "#22262b", "#8a9099", "#e3e6ea"
_TRAIN, _PART, _WHOLE = "#9aa3ad", "#1f6fb2", "#d1495b"
_IGNORED: Colour = (226, 226, 226)
_WRONG: Colour = (230, 0, 92)  # a magenta that ground and the usual class colours seldom have
_MOST_CELLS_WITH_TEXT = 16
_LEGEND_COLUMNS = 6
_NAMED = 6
_PANEL = 1.6  # inches


def curves(history: Sequence[Mapping[str, float | None]], path: Path) -> None:
    """Draw the losses and the mean IoU of a run's reports against megapixels seen.

    Reads megapixels, train/loss, val/loss, train/miou, val_part/miou with val_part/miou_se, and val/miou. Values that
    are missing, None or not finite are left out.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    for key, colour in ((TRAIN_LOSS, _TRAIN), (VAL_LOSS, _PART)):
        _line(losses, history, key, colour)
    _line(scores, history, TRAIN_MIOU, _TRAIN)
    _line(scores, history, SAMPLE_MIOU, _PART, error=SAMPLE_MIOU_SE)
    _line(scores, history, VAL_MIOU, _WHOLE, alone=True)
    for axes, title in ((losses, "loss"), (scores, "mean IoU")):
        _dress(axes, title)
        axes.set_xlabel("megapixels seen", color=_INK)
        axes.set_xlim(left=0)
        if axes.lines:
            axes.legend(frameon=False, labelcolor=_INK)
        else:
            axes.set_yticks([])
            axes.text(0.5, 0.5, "nothing reported", transform=axes.transAxes, ha="center", va="center", color=_FAINT)
    losses.set_ylim(0, 1.08 * max([np.max(line.get_ydata()) for line in losses.lines], default=1))
    scores.set_ylim(0, 1)
    _save(figure, path)


def search(trials: Sequence[tuple[str, Sequence[Mapping[str, float]]]], path: Path) -> None:
    """Draw the validation scores of a search's trials (name and reports, best first) against megapixels seen.

    Lines are the mean IoU of the sample (val_part/miou), diamonds that of the whole split (val/miou). The best trial is
    highlighted, and the first few trials are named.
    """
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    axes = figure.subplots()
    for place, (name, history) in reversed(list(enumerate(trials))):
        colour = _WHOLE if place == 0 else _PART if place < _NAMED else _FAINT
        for key, style in ((SAMPLE_MIOU, "o-"), (VAL_MIOU, "D")):
            points = [(report[MEGAPIXELS], report[key]) for report in history if key in report]
            if points:
                axes.plot(*np.array(points).T, style, color=colour, alpha=max(0.35, 1 - 0.13 * place), linewidth=1.6,
                          markersize=7 if key == VAL_MIOU else 3.5, zorder=len(trials) - place + 2,
                          label=name if key == SAMPLE_MIOU and place < _NAMED else None)
    _dress(axes, "mean IoU on validation: sample (lines) and whole split (diamonds)")
    axes.set_xlabel("megapixels seen", color=_INK)
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1)
    handles, names = axes.get_legend_handles_labels()
    if names:
        axes.legend(handles[::-1], names[::-1], frameon=False, labelcolor=_INK, fontsize=9, loc="upper left",
                    bbox_to_anchor=(1, 1))
    _save(figure, path)


def confusion(counts_KK: NDArray[np.int64], names: Sequence[str], path: Path) -> None:
    """Draw a confusion matrix (row: label, column: prediction). The shade is the share of the row; cells show pixel
    counts.

    Raises ValueError if counts and names do not match.
    """
    classes = len(names)
    if counts_KK.shape != (classes, classes):
        raise ValueError(f"confusion: counts of shape {counts_KK.shape} for {classes} classes")
    pixels_K = counts_KK.sum(axis=1)
    shares_KK = counts_KK / np.maximum(pixels_K, 1)[:, None]
    side = min(max(0.85 * classes, 3.2), 14)
    figure = Figure(figsize=(side + 2.6, side + 1.6), layout="constrained")
    axes = figure.subplots()
    shade = axes.imshow(shares_KK, cmap="Blues", vmin=0, vmax=1)
    if classes <= _MOST_CELLS_WITH_TEXT:
        for (row, column), count in np.ndenumerate(counts_KK):
            _cell(axes, row, column, int(count), float(shares_KK[row, column]), bool(pixels_K[row]))
    axes.set_xticks(range(classes), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(classes), [name if n else f"{name} (no pixels)" for name, n in zip(names, pixels_K)])
    axes.set_xticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0, labelcolor=_INK, labelsize=9 if classes <= _MOST_CELLS_WITH_TEXT else 8)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("prediction", color=_INK)
    axes.set_ylabel("label", color=_INK)
    bar = figure.colorbar(shade, ax=axes, shrink=0.7, pad=0.02, label="share of the label's pixels")
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelcolor=_INK, labelsize=8)
    _save(figure, path)


def sheet(images_NBHW: NDArray[Any], labels_NHW: NDArray[np.uint8], predictions_NHW: NDArray[np.uint8],
          colours: Sequence[Colour], names: Sequence[str], ignore: int, path: Path,
          titles: Sequence[str] | None = None) -> None:
    """Draw rows of image, label, prediction and errors, with a legend of the classes below.

    Errors are highlighted on a grey image. Pixels with the label `ignore` are never errors. A prediction of no class is
    drawn like an ignored pixel.

    Raises ValueError if shapes, colours, names, titles or label values do not match.
    """
    titles = [""] * len(images_NBHW) if titles is None else titles
    _check_sheet(images_NBHW, labels_NHW, predictions_NHW, colours, names, titles)
    rows, height, width = labels_NHW.shape
    palette = _palette(colours, ignore)
    grey = bool((labels_NHW == ignore).any() or (predictions_NHW >= len(colours)).any())
    legend = legend_patches(colours, names, ignored=grey)
    panel = 2.9
    tall = panel * height / width + 0.35
    figure = _above_legend(4 * panel, rows * tall, legend)
    for row, axes in enumerate(figure.subplots(rows, 4, squeeze=False)):
        title = _fitting(titles[row] or "image")
        image_HWC = shown(images_NBHW[row])
        valid_HW = labels_NHW[row] != ignore
        wrong_HW = valid_HW & (labels_NHW[row] != predictions_NHW[row])
        pictures = (image_HWC, palette[labels_NHW[row]], palette[predictions_NHW[row]],
                    _errors(image_HWC, wrong_HW, valid_HW))
        share = f"{wrong_HW.sum() / valid_HW.sum():.1%} wrong" if valid_HW.any() else "nothing labelled"
        for one, picture, above in zip(axes, pictures, (title, "label", "prediction", share)):
            one.imshow(picture, interpolation="nearest" if picture is not image_HWC else "auto")
            one.set_title(above, fontsize=9, color=_INK, loc="left")
            one.set_axis_off()
    _save(figure, path)


def contact(path: Path, rows: Sequence[tuple[str, NDArray[Any], NDArray[np.uint8]]], *, titles: Sequence[str],
            colours: Sequence[Colour], names: Sequence[str], ignore: int) -> None:
    """Draw patches as the network sees them. Each row (name, images_NSBHW, labels_NHW) is a strip of its images at each
    scale, above a strip of its labels. The N columns have `titles`, and a legend of the classes is below.

    The rows are variations of the same patches, and the first row shows them as stored. The pixels of the first row set
    the contrast stretch of each band for all rows, so that a change of brightness is visible.

    Raises ValueError if shapes, titles, colours and names do not match.
    """
    _check_contact(rows, titles, colours, names)
    palette = _palette(colours, ignore)
    legend = legend_patches(colours, names, errors=False, ignored=any((labels == ignore).any() for *_, labels in rows))
    limits = [_range(band_NSHW) for band_NSHW in np.moveaxis(rows[0][1], 2, 0)]
    strips = rows[0][1].shape[1] + 1
    figure = _above_legend(len(titles) * _PANEL + 0.6, strips * len(rows) * (_PANEL + 0.06) + 0.4, legend)
    panels = figure.subplots(strips * len(rows), 1, squeeze=False)[:, 0]
    for (name, images_NSBHW, labels_NHW), (*above, below) in zip(rows, panels.reshape(-1, strips), strict=True):
        for axes, images_NBHW in zip(above, images_NSBHW.swapaxes(0, 1), strict=True):
            axes.imshow(_strip([shown(image_BHW, limits) for image_BHW in images_NBHW]), interpolation="antialiased")
        below.imshow(_strip(list(palette[labels_NHW])), interpolation="nearest")
        above[0].set_ylabel(name, color=_INK, fontsize=11)
        below.set_ylabel("labels", color=_FAINT, fontsize=9)
    for axes in panels:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    side = rows[0][2].shape[2]
    panels[0].set_xticks([(side + _gap(side)) * i + side / 2 for i in range(len(titles))], map(_fitting, titles))
    panels[0].tick_params(length=0, labelcolor=_INK, labelsize=9, top=True, labeltop=True, labelbottom=False)
    _save(figure, path)


def legend_patches(colours: Sequence[Colour], names: Sequence[str], *, ignored: bool = False, errors: bool = True
                   ) -> list[Patch]:
    """A legend entry for each class, for errors if `errors`, and for ignored pixels if `ignored`."""
    entries = [*zip(colours, names), *([(_WRONG, "error")] if errors else []),
               *([(_IGNORED, "ignored")] if ignored else [])]
    return [Patch(facecolor="#{:02x}{:02x}{:02x}".format(*colour), edgecolor=_FAINT, linewidth=0.6, label=name)
            for colour, name in entries]


def _above_legend(width: float, height: float, legend: Sequence[Patch]) -> Figure:
    """A figure of this size in inches, above a strip for the legend that the layout keeps free."""
    strip = 0.22 * -(-len(legend) // _LEGEND_COLUMNS) + 0.15
    share = strip / (height + strip)
    figure = Figure(figsize=(width, height + strip))
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=(0, share, 1, 1 - share), h_pad=0.02, hspace=0))
    figure.legend(handles=legend, loc="lower center", ncols=min(_LEGEND_COLUMNS, len(legend)), frameon=False,
                  fontsize=9, labelcolor=_INK, handlelength=1.2, handleheight=1.2)
    return figure


def shown(image_BHW: NDArray[Any], limits: Sequence[tuple[float, float] | None] | None = None) -> Image:
    """An image of any bands and dtype as uint8 (row, col, 3). Each band is stretched between its `limits`, or from its
    2nd to its 98th percentile.

    The first three bands are red, green and blue. With fewer than three bands, the first is grey. Values that are not
    finite are black.
    """
    bands = image_BHW[:3] if len(image_BHW) >= 3 else image_BHW[:1]
    stretched = [_stretch(np.asarray(band, np.float64), between)
                 for band, between in zip(bands, limits or [_range(band) for band in bands])]
    return np.stack(stretched * (3 // len(stretched)), axis=-1)


def _range(band: NDArray[Any]) -> tuple[float, float] | None:
    """2nd and 98th percentile of the finite values; None if there are none."""
    finite = np.asarray(band, np.float64)[np.isfinite(band)]
    if not finite.size:
        return None
    low, high = np.percentile(finite, (2, 98))
    if low == high:  # an even band is mid-grey; a few pixels that differ are told from it
        low, high = low - 1, high + 1
    return float(low), float(high)


def _stretch(band_HW: NDArray[np.float64], between: tuple[float, float] | None) -> Image:
    if between is None:
        return np.zeros(band_HW.shape, np.uint8)
    low, high = between
    finite_HW = np.isfinite(band_HW)
    share_HW = np.where(finite_HW, (np.where(finite_HW, band_HW, low) - low) / (high - low), 0)
    return (share_HW.clip(0, 1) * 255).round().astype(np.uint8)


def _gap(side: int) -> int:
    """Pixels between the panels of a strip."""
    return max(1, side // 32)


def _strip(pictures: Sequence[Image]) -> Image:
    """Pictures (row, col, 3) side by side, on white."""
    gap = np.full((len(pictures[0]), _gap(pictures[0].shape[1]), 3), 255, np.uint8)
    return np.concatenate([part for picture in pictures for part in (picture, gap)][:-1], axis=1)


def _palette(colours: Sequence[Colour], ignore: int) -> Image:
    """uint8 (256, 3): the colour of every possible value of a label or a prediction."""
    palette = np.empty((256, 3), np.uint8)
    palette[:] = _IGNORED
    palette[: len(colours)] = colours
    palette[ignore] = _IGNORED
    return palette


def _errors(image_HWC: Image, wrong_HW: NDArray[np.bool_], valid_HW: NDArray[np.bool_]) -> Image:
    """The image in pale grey, with errors in one strong colour and ignored pixels in theirs."""
    pale_HW1 = 110 + 0.5 * image_HWC.mean(axis=-1, keepdims=True)
    errors_HWC = np.repeat(pale_HW1, 3, axis=-1).clip(0, 255).astype(np.uint8)
    errors_HWC[~valid_HW] = _IGNORED
    errors_HWC[wrong_HW] = _WRONG
    return errors_HWC


def _check_sheet(images_NBHW: NDArray[Any], labels_NHW: NDArray[np.uint8], predictions_NHW: NDArray[np.uint8],
                 colours: Sequence[Colour], names: Sequence[str], titles: Sequence[str]) -> None:
    shapes = images_NBHW.shape[:1] + images_NBHW.shape[2:], labels_NHW.shape, predictions_NHW.shape
    if len(set(shapes)) > 1 or len(shapes[0]) != 3 or 0 in images_NBHW.shape:
        raise ValueError(f"sheet: images {images_NBHW.shape}, labels {labels_NHW.shape}, predictions "
                         f"{predictions_NHW.shape} do not fit each other")
    if len(colours) != len(names) or len(titles) != len(images_NBHW):
        raise ValueError(f"sheet: {len(colours)} colours for {len(names)} names, {len(titles)} titles for "
                         f"{len(images_NBHW)} images")


def _check_contact(rows: Sequence[tuple[str, NDArray[Any], NDArray[np.uint8]]], titles: Sequence[str],
                   colours: Sequence[Colour], names: Sequence[str]) -> None:
    shapes = {shape for _, images, labels in rows for shape in (images.shape[:1] + images.shape[3:], labels.shape)}
    scales = {images.shape[1] for _, images, _ in rows}
    if (len(shapes) != 1 or len(scales) != 1 or len(titles) != next(iter(shapes))[0] or not titles
            or len(colours) != len(names)):
        raise ValueError(f"contact: {len(rows)} rows of shapes {sorted(shapes)}, {len(titles)} titles, {len(colours)} "
                         f"colours and {len(names)} names do not fit each other")


def _line(axes: Axes, history: Sequence[Mapping[str, float | None]], key: str, colour: str, *, error: str = "",
          alone: bool = False) -> None:
    """Draw one metric against megapixels: a line with a band of one standard error, or single points if `alone`."""
    points = [(x, y, _number(report.get(error)) or 0.0) for report in history
              if (x := _number(report.get(MEGAPIXELS))) is not None and (y := _number(report.get(key))) is not None]
    if not points:
        return
    seen, values, errors = np.array(points).T
    if alone:
        axes.plot(seen, values, "D", color=colour, markersize=7, zorder=3, label=f"{key} {values[-1]:.3f}")
        return
    axes.plot(seen, values, color=colour, linewidth=2, marker="o", markersize=3.5, label=key)
    if errors.any():
        axes.fill_between(seen, values - errors, values + errors, color=colour, alpha=0.18, linewidth=0,
                          label="± one standard error")
        if len(seen) == 1:  # a band of no width
            axes.vlines(seen, values - errors, values + errors, color=colour, alpha=0.5)


def _number(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None


def _dress(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", color=_INK, fontsize=12)
    axes.grid(axis="y", color=_GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_FAINT)
    axes.tick_params(length=0, labelcolor=_INK)
    axes.margins(x=0.04, y=0.08)


def _cell(axes: Axes, row: int, column: int, count: int, share: float, labelled: bool) -> None:
    colour = "white" if share > 0.55 else _INK if count else _FAINT
    texts = [(_pixels(count), -9 if labelled else 0, 7)] + ([(f"{share:.1%}", 5, 10)] if labelled else [])
    for text, above, size in texts:
        axes.annotate(text, (column, row), (0, above), textcoords="offset points", ha="center", va="center",
                      color=colour, fontsize=size)


def _pixels(count: int) -> str:
    """A count in about five characters: 9999, 12.3k, 4.56M."""
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= max(unit, 10**4):
            return f"{count / unit:.3g}{name}"
    return str(count)


def _fitting(text: str, length: int = 42) -> str:
    """A title short enough for its panel; the middle is cut."""
    return text if len(text) <= length else f"{text[: length // 2 - 1]}…{text[-length // 2 :]}"


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure)  # becomes the figure's canvas
    figure.savefig(path, format="png", dpi=120, metadata={"Software": None})  # the same bytes for the same picture
