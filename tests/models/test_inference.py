"""One way from a checkpoint to a forward pass, with the same settings for scores and maps."""

import re
from pathlib import Path

import pytest
import torch

import swath
from swath.models.inference import network_forward
from swath.runtime import deterministic_convolutions


class Seen(torch.nn.Module):
    """Notes the settings of cuDNN while it is applied."""

    def forward(self, images_NSBss: torch.Tensor) -> torch.Tensor:
        self.settings = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
        return images_NSBss[:, 0].float()


def test_every_forward_pass_is_deterministic_and_the_process_keeps_its_settings(monkeypatch: pytest.MonkeyPatch
                                                                                ) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    net = Seen().eval()
    network_forward(net)(torch.zeros(1, 1, 3, 4, 4, dtype=torch.uint8))
    assert net.settings == (False, True)
    assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic) == (True, False)
    with pytest.raises(ZeroDivisionError), deterministic_convolutions():
        raise ZeroDivisionError
    assert (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic) == (True, False)


def test_a_checkpoint_becomes_a_forward_pass_in_one_place() -> None:
    root = Path(swath.__file__).parent
    sources = list(root.rglob("*.py"))
    assert len(sources) > 80
    builders = {path.relative_to(root).as_posix() for path in sources
                if re.search(r"\b(?:checkpoint|trained|saved|load\([^()]*\))\.network\(", path.read_text())}
    assert builders == {"models/inference.py"}
    makers = {path.relative_to(root).as_posix() for path in sources if "network_forward(" in path.read_text()}
    # The two others have the network of a run that is being trained.
    assert makers == {"models/inference.py", "training/loop.py", "experiments/forecast.py"}
