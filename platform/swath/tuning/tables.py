"""Tables of a search's trials."""

from collections.abc import Sequence

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from swath.names import MEGAPIXELS, SAMPLE_MIOU, VAL_MIOU
from swath.say import print_line
from swath.tuning import trials
from swath.tuning.trials import Trial


def trial_line(trial: Trial) -> None:
    """Print one line for a report, or for the end, of a search's trial."""
    values = "  ".join(f"{name} {value:.3f}" for name in (MEGAPIXELS, SAMPLE_MIOU, VAL_MIOU)
                       if (value := trial.last(name)) is not None)
    end = "" if trial.state == "RUNNING" else f"  {trial.state} {trial.reason}".rstrip()
    print_line(f"{trial.run_id[:8]} {trial.name}  {values}{end}")


def trials_table(tried: Sequence[Trial]) -> Group:
    """A table of a search's trials in the order of merit, and below it why some did not finish."""
    count = ", ".join(f"{number} {state}" for state, number in trials.states(tried).items())
    table = Table(title=f"{len(tried)} trials: {count}", title_justify="left")
    for name in ("run", "state", *trials.COLUMNS.values()):
        table.add_column(name.replace("/", "/\n"), justify="right" if name in trials.COLUMNS.values() else "left")
    table.add_column("what differs", overflow="fold")
    differing = trials.differing(tried)
    for row in trials.rows(tried):
        point = ", ".join(f"{name.split('.')[1]} {row[name]}" for name in differing)
        table.add_row(row["run"][:8], row["state"], *(row[name] for name in trials.COLUMNS.values()), escape(point))
    return Group(table, *(escape(f"{t.run_id[:8]} {t.state}: {t.reason}") for t in trials.ranked(tried) if t.reason))
