"""Learning rates by step: PyTorch's own schedulers as oracles, and the ends of each schedule."""

import pytest
import torch

from swath.config import TrainConfig
from swath.errors import ConfigError
from swath.training.schedule import learning_rate

STEPS = 97


def rates(**fields: object) -> list[float]:
    config = TrainConfig(lr=0.3, **fields)  # type: ignore[arg-type]
    return [learning_rate(config, step, STEPS) for step in range(STEPS)]


def by_torch(make, lr: float = 0.3) -> list[float]:  # type: ignore[no-untyped-def]
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimiser)
    found = []
    for _ in range(STEPS):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return found


@pytest.mark.parametrize("warmup", [0.1, 0.3])
def test_one_cycle_is_torchs(warmup: float) -> None:
    expected = by_torch(lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.3, STEPS, pct_start=warmup,
                                                                      cycle_momentum=False))
    assert rates(schedule="one_cycle", warmup=warmup) == pytest.approx(expected)


def test_poly_is_torchs() -> None:
    expected = by_torch(lambda o: torch.optim.lr_scheduler.PolynomialLR(o, STEPS, 0.9))
    assert rates(schedule="poly", warmup=0) == pytest.approx(expected)


def test_cosine_is_torchs() -> None:
    expected = by_torch(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, STEPS))
    assert rates(schedule="cosine", warmup=0) == pytest.approx(expected)


def test_stable_decay_warms_up_stays_and_falls() -> None:
    found = rates(schedule="stable_decay", warmup=0.1, decay=0.25)
    assert found[0] == pytest.approx(0.3 / 9.7)
    assert set(found[10:72]) == {0.3}
    assert found[73:] == pytest.approx([0.3 * (STEPS - step) / (0.25 * STEPS) for step in range(73, STEPS)])


@pytest.mark.parametrize("schedule", ["constant", "cosine", "poly", "one_cycle", "stable_decay"])
@pytest.mark.parametrize("warmup", [0.0, 0.004, 0.5])
@pytest.mark.parametrize("steps", [1, 2, 3, 200])
def test_a_rate_lies_between_nothing_and_the_peak(schedule: str, warmup: float, steps: int) -> None:
    config = TrainConfig(lr=0.3, schedule=schedule, warmup=warmup)  # type: ignore[arg-type]
    found = [learning_rate(config, step, steps) for step in range(steps)]
    assert all(0 < rate <= 0.3 for rate in found)
    assert max(found) > 0.29 or steps < 200


def test_a_decay_that_begins_before_the_warm_up_ends_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train.warmup \+ train.decay must be at most 1"):
        TrainConfig(schedule="stable_decay", warmup=0.5, decay=0.6)
