"""Every binary layer sees both signs: where a run shows that one would not, a batch norm stands in front of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import bbg

EXAMPLE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


class Residual(nn.Module):
    """The unit of an hourglass: what it adds to is a map that another sum, of the layer's own, was added to before."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.leaky_relu(x + self.norm(self.conv(x)), 0.01)


class Squares(nn.Module):
    """Never negative, by a function that is no activation."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x


def network(*middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), *middle, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "sums of sums": lambda: network(*(Residual(16) for _ in range(24))),
    "squares": lambda: network(Squares(), Residual(16), Residual(16)),
    "features": lambda: network(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), Squares(), nn.Linear(16, 16), nn.Unflatten(1, (16, 1, 1))
    ),
}


def seen_signs(binary: nn.Module, images: Tensor) -> dict[str, float]:
    """The share of +1 in the input of each binary layer, in training mode."""
    shares: dict[str, float] = {}

    def look(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, given: shares.update({name: float((given[0] >= 0).float().mean())})

    for name, layer in binary.named_modules():
        if isinstance(layer, (bbg.layers.BinaryConv2d, bbg.layers.BinaryLinear)):
            layer.register_forward_pre_hook(look(name))
    binary.train()(images)
    return shares


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kind", ["noise", "zeros", "ones", "one image"])
def test_every_binary_layer_sees_both_signs(name: str, kind: str) -> None:
    """Whatever the example is: one of a single colour shows nothing by itself."""
    example = {"noise": EXAMPLE, "zeros": EXAMPLE * 0, "ones": EXAMPLE * 0 + 1, "one image": EXAMPLE[:1]}[kind]
    binary = bbg.binarize(NETWORKS[name](), example=example)
    assert not [row.name for row in binary.report.of("binary") if "one sign" in row.why]
    images = torch.randn(8, 3, 16, 16)
    shares = seen_signs(binary, images)
    assert shares
    assert all(0.005 < share < 0.995 for share in shares.values()), shares


@pytest.mark.parametrize("name", NETWORKS)
def test_the_report_tells_of_the_batch_norm(name: str) -> None:
    added = [row for row in bbg.binarize(NETWORKS[name](), example=EXAMPLE).report.of("added") if "one sign" in row.why]
    assert added
    assert all(row.layer in ("BatchNorm2d", "BatchNorm1d") for row in added)


def test_a_network_whose_signs_are_balanced_gets_none() -> None:
    binary = bbg.binarize(network(Residual(16), nn.BatchNorm2d(16), Residual(16)), example=EXAMPLE)
    assert not [row for row in binary.report.of("added") if "one sign" in row.why]


def test_looking_changes_nothing_of_the_network(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Its statistics are what they were, and the packed network gives the numbers of the binarized one."""
    model = NETWORKS["sums of sums"]()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    binary = bbg.binarize(model, example=EXAMPLE)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    binary.train()(EXAMPLE)
    bbg.convert(binary.eval(), tmp_path / "n.bbg", EXAMPLE, edges="fp32")
    with torch.no_grad():
        wanted = binary(EXAMPLE).numpy()
    got = bbg.load(tmp_path / "n.bbg")(EXAMPLE.numpy())
    assert abs(got - wanted).max() <= 1e-4 * abs(wanted).max()
