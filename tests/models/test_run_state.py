"""The state of a checkpoint: its format, states written before there was one, and what is refused."""

import pytest
import torch

from swath.errors import CheckpointError
from swath.models.run_state import FORMAT, RunState

NET = {"weight": torch.ones(2)}


def test_a_state_is_read_as_it_was_saved() -> None:
    state = RunState(net=NET, optimiser={"state": {}}, step=3, megapixels=0.5, numerics={"workers": 1})
    saved = state.saved()
    assert saved["format"] == FORMAT
    assert RunState.read(saved, "state.pt").saved() == saved


def test_a_state_without_a_number_is_format_1() -> None:
    state = RunState.read({"net": NET, "average": {"weight": torch.zeros(2)}, "manner": {"workers": 2}}, "state.pt")
    assert state.numerics == {"workers": 2}
    assert torch.equal(state.best["weight"], torch.zeros(2))


@pytest.mark.parametrize(("saved", "message"), [
    ({"format": FORMAT + 1, "net": NET}, rf"^a/state.pt: written in format {FORMAT + 1}, this swath reads up to"),
    ({"step": 1}, r"^a/state.pt: net missing"),
    ({"net": NET, "step": "1"}, r"^a/state.pt: step missing or not as swath writes it"),
    ({"net": NET, "later": 1}, r"^a/state.pt: later missing or not"),
])
def test_other_states_are_refused_in_one_line(saved: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        RunState.read(saved, "a/state.pt")
    assert "\n" not in str(error.value)
