"""What a search knows of its trials: the best, their order, tables and the picture of them."""

import csv
from pathlib import Path

import pytest
from rich.console import Console

from support.drawn import keep_figures
from swath import figures
from swath.say import Metrics
from swath.tuning import tables, trials
from swath.tuning.trials import State, Trial


def trial(run: str, state: State, *reports: Metrics, reason: str = "", **point: str) -> Trial:
    named = {name.replace("_", "."): value for name, value in point.items()}
    return Trial(run_id=run * 32, name=f"unet-{run}", point=named, state=state, reason=reason, history=reports)


TRIED = [
    trial("a", "STOPPED", {"megapixels": 2.0, "val_part/miou": 0.3}, reason="worse | than others", model_arch="fpn",
          patches_size="64"),
    trial("b", "FAILED", reason="ValueError: [no]", model_arch="unet", patches_size="64"),
    trial("c", "FINISHED", {"megapixels": 2.0, "val_part/miou": 0.5}, {"megapixels": 9.0, "val_part/miou": 0.6,
          "val/miou": 0.55}, model_arch="unet", patches_size="64"),
    trial("d", "FINISHED", {"megapixels": 9.0, "val_part/miou": 0.7, "val/miou": 0.50}, model_arch="unet",
          patches_size="64"),
]


def test_the_best_has_the_highest_whole_score() -> None:
    best = trials.best(TRIED)
    assert best is not None
    assert best.run_id[0] == "c"
    assert trials.best(TRIED[:2]) is None
    assert [t.run_id[0] for t in trials.ranked(TRIED)] == ["c", "d", "a", "b"]


def test_the_table_has_what_differs_and_every_reason() -> None:
    table = trials.rows(TRIED)
    assert list(table[0]) == ["trial", "state", "val/miou", "val_part/miou", "Mpx", "device s", "model.arch", "reason",
                              "run"]
    assert [row["val/miou"] for row in table] == ["0.55", "0.5", "", ""]
    assert list(csv.DictReader(trials.to_csv(table).splitlines())) == table
    lines = trials.to_markdown(table).splitlines()
    assert len(lines) == 2 + len(TRIED)
    assert "worse \\| than others" in lines[4]
    assert trials.states(TRIED) == {"FAILED": 1, "FINISHED": 2, "STOPPED": 1}
    out = Console(width=100, record=True)
    out.print(tables.trials_table(TRIED))
    shown = out.export_text()
    assert "4 trials: 1 FAILED, 2 FINISHED, 1 STOPPED" in shown
    assert "bbbbbbbb FAILED: ValueError: [no]" in shown


def test_a_picture_has_the_scores_of_trials_that_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = keep_figures(monkeypatch)
    for number, some in enumerate((TRIED, TRIED[1:2], [])):
        figures.search([(t.name, t.history) for t in trials.ranked(some)], tmp_path / f"{number}.png")
    drawn, failed, empty = (figure.axes[0] for figure in kept)
    points = {tuple(map(tuple, line.get_xydata().tolist())) for line in drawn.lines}
    assert points == {((2.0, 0.5), (9.0, 0.6)), ((9.0, 0.55),), ((9.0, 0.7),), ((9.0, 0.5),), ((2.0, 0.3),)}
    assert [text.get_text() for text in drawn.get_legend().get_texts()] == ["unet-c", "unet-d", "unet-a"]
    best, = (line for line in drawn.lines if line.get_label() == "unet-c")
    assert all(line.get_zorder() <= best.get_zorder() for line in drawn.lines)
    for axes in (failed, empty):
        assert (list(axes.lines), axes.get_legend()) == ([], None)
