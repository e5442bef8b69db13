"""A forward that a constructor chose among the module's own methods: followed, but not at torch's layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.lowering import EXAMPLE
from torch import Tensor, nn

import bbg
from bbg import BbgError


class Chosen(nn.Module):
    """Its constructor chooses between two forwards."""

    def __init__(self, above: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.forward = self.above if above else self.below

    def above(self, x: Tensor) -> Tensor:
        return self.conv(x).relu()

    def below(self, x: Tensor) -> Tensor:
        return -self.conv(-x).relu()


class ChosenNetwork(Chosen):
    """A whole network whose class has a forward, too, that is not the chosen one."""

    def __init__(self, above: bool) -> None:
        super().__init__(above)
        self.more, self.last = nn.Conv2d(4, 8, 3), nn.Conv2d(8, 2, 3)
        self.body, self.forward = self.forward, self.whole

    def forward(self, x: Tensor) -> Tensor:
        return self.more(x)

    def whole(self, x: Tensor) -> Tensor:
        return self.last(self.more(self.body(x)))


class ChosenLogSoftmax(nn.LogSoftmax):
    """A layer that conversion alone knows by its type, and that computes something else."""

    def __init__(self) -> None:
        super().__init__(1)
        self.forward = self.twice  # type: ignore[method-assign]

    def twice(self, x: Tensor) -> Tensor:
        return 2 * x


class ChosenLinear(nn.Linear):
    """A layer that is known by its type, and computes something else."""

    def __init__(self) -> None:
        super().__init__(8, 3)
        self.forward = self.twice  # type: ignore[method-assign]

    def twice(self, x: Tensor) -> Tensor:
        return 2 * F.linear(x, self.weight)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("above", [True, False])
def test_a_forward_that_a_constructor_chose_is_followed(above: bool, whole: bool, tmp_path: Path) -> None:
    network = nn.Sequential(Chosen(above), nn.Conv2d(4, 8, 3), nn.Conv2d(8, 2, 3)).eval()
    network = ChosenNetwork(above).eval() if whole else network
    bbg.convert(network, tmp_path / "net.bbg", EXAMPLE, edges="fp32")
    with torch.no_grad():
        wanted = network(EXAMPLE).numpy()
    assert abs(bbg.load(tmp_path / "net.bbg")(EXAMPLE.numpy()) - wanted).max() <= 1e-5 * abs(wanted).max()
    assert bbg.binarize(network, example=EXAMPLE).report.proof.evaluation == 0


STEPS = {
    "check": lambda network, path: bbg.check(network, EXAMPLE),
    "convert": lambda network, path: bbg.convert(network, path, EXAMPLE),
    "binarize": lambda network, path: bbg.binarize(network, example=EXAMPLE),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("layer", [ChosenLinear, ChosenLogSoftmax])
def test_a_layer_that_is_known_by_its_type_is_refused(layer: type[nn.Module], step: str, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), layer(), nn.Conv2d(8, 2, 3)).eval()
    with pytest.raises(BbgError, match=rf"2 \({layer.__name__}\): its forward was replaced"):
        STEPS[step](network, tmp_path / "net.bbg")
