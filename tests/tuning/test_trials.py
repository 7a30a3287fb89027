"""What a search knows of its trials: the best, their order, tables and the picture of them."""

import csv
from pathlib import Path

import numpy as np
from matplotlib.image import imread
from rich.console import Console

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


def test_a_picture_is_drawn_of_trials_that_reported_and_of_such_that_did_not(tmp_path: Path) -> None:
    for number, some in enumerate((TRIED, TRIED[1:2], [])):
        figures.search([(t.name, t.history) for t in trials.ranked(some)], tmp_path / f"{number}.png")
    drawn = [imread(tmp_path / f"{number}.png") for number in range(3)]
    assert not np.array_equal(drawn[0], drawn[2])
    assert all(np.ptp(picture) > 0 for picture in drawn)
