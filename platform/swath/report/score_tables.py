"""What a person sees of a score: tables by class, by group, by fold, and of the ledger."""

from collections.abc import Mapping, Sequence
from math import isfinite, isnan

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from swath.experiments.looks import Look
from swath.scoring.bootstrap import Interval
from swath.scoring.result import Score

_MOST_GROUPS = 20


def score_table(score: Score) -> Group:
    """A table of a score by class, with intervals where there are any; below it other means, and the pixel accuracy."""
    spread = score.intervals
    scenes, groups = (f"{count} {noun}{'s' * (count != 1)}"
                      for count, noun in ((len(score.scenes), "scene"), (len(score.by_group), "group")))
    table = Table(title=f"{score.protocol.split}: {score.pixels:,} pixels of {scenes} in {groups}, "
                  f"{score.ignored:,} ignored", title_justify="left")
    table.add_column("class")
    for name in ("share", "IoU", *(["95 %"] if spread else []), "prec.", "recall", "F1", "boundary"):
        table.add_column(name, justify="right", no_wrap=True)
    labels_K = score.scored.sum(axis=1)
    for k, (name, iou) in enumerate(score.iou.items()):
        if iou is None:
            table.add_row(escape(name), "–", "not covered" if name in score.unscored else "no labels")
            continue
        between = [_between(spread.iou[k])] if spread else []
        table.add_row(escape(name), f"{labels_K[k] / max(1, labels_K.sum()):.1%}", _number(iou), *between,
                      *(_number(rate[name], 3) for rate in (score.precision, score.recall, score.f1,
                                                            score.boundary_iou)))
    table.add_section()
    table.add_row("mean", "", _number(score.miou), *([_between(spread.miou)] if spread else []), "", "", "",
                  _number(score.boundary_miou, 3))
    others = {**score.means, "pixel accuracy": score.accuracy}
    return Group(table, *(f"{escape(name)} {_number(value)}" for name, value in others.items() if name != "mean"))


def groups_table(score: Score) -> Table:
    """A table of a score by group, the worst first and those without a score last; of many groups the worst twenty."""
    ranked = sorted(score.by_group.items(), key=lambda item: (isnan(item[1].miou), item[1].miou, item[0]))
    shown = ranked[:_MOST_GROUPS]
    few = f"the worst {len(shown)} of {len(ranked)} groups" if len(shown) < len(ranked) else "groups"
    table = Table(title=few, title_justify="left")
    table.add_column("group")
    for name in ("scenes", "pixels", "mean IoU", "pixel accuracy"):
        table.add_column(name, justify="right")
    for name, one in shown:
        table.add_row(escape(name), str(one.scenes), f"{one.pixels:,}", _number(one.miou), _number(one.accuracy))
    return table


def folds_table(each: Mapping[str, Score], pooled: Score) -> Table:
    """A table of the runs of a cross-validation, and what their counts come to together."""
    table = Table(title=f"{len(each)} folds", title_justify="left")
    table.add_column("run")
    for name in ("scenes", "pixels", "mean IoU", "boundary", "pixel accuracy"):
        table.add_column(name, justify="right")
    for run, score in [*each.items(), ("pooled", pooled)]:
        if score is pooled:
            table.add_section()
        table.add_row(escape(run), str(len(score.scenes)), f"{score.pixels:,}", _number(score.miou),
                      _number(score.boundary_miou), _number(score.accuracy))
    return table


def looks_table(looks: Sequence[Look]) -> Table:
    """A table of the looks at test splits, oldest first."""
    table = Table(title=f"looks at test splits: {len(looks)}", title_justify="left")
    for name in ("when (UTC)", "user", "what", "split"):
        table.add_column(name, overflow="fold")
    table.add_column("mean IoU", justify="right")
    for one in looks:
        table.add_row(f"{one.when:%Y-%m-%d %H:%M:%S}", escape(one.user), escape(one.what),
                      f"{one.cells} of {escape(one.store.rstrip('/').rsplit('/', 1)[-1])}",
                      one.state if one.miou is None else _number(one.miou))
    return table


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None or not isfinite(value) else f"{value:.{digits}f}"


def _between(interval: Interval | None) -> str:
    return "–" if interval is None else f"{interval.low:.3f}–{interval.high:.3f}"
