"""All that is refused of a network is told at once, each cause with the line of the network's own code."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bbg
from bbg import BbgError
from bbg.errors import LONGEST

EXAMPLE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
HERE = Path(__file__).name


def line_of(code: Callable[..., object], text: str) -> str:
    """File and line of the first line with this text in the code of a function."""
    lines, start = inspect.getsourcelines(code)
    return f"{HERE}:{start + next(i for i, line in enumerate(lines) if text in line)}: "


def causes_of(model: nn.Module, step: str = "check", path: Path = Path("net.bbg")) -> tuple[str, ...]:
    with pytest.raises(BbgError) as error:
        bbg.check(model, EXAMPLE) if step == "check" else bbg.convert(model, path, EXAMPLE)
    for cause in error.value.causes:
        assert cause in str(error.value)
    return error.value.causes


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect")
        self.act = nn.Hardshrink()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.conv(x))
        return y + torch.cumsum(y, 1)


class Gate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.mean() > 0:
            return x * 2
        return x


class Faulty(nn.Module):
    """Faults of all kinds: of a forward, of layers, functions, arguments and settings."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.blocks = nn.Sequential(*(Block(8) for _ in range(12)))
        self.gate = Gate()
        self.norm = nn.BatchNorm2d(8, track_running_stats=False)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.gate(self.blocks(self.stem(x)))
        x = self.norm(x)
        x = F.dropout(x)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("step", ["check", "convert"])
def test_all_causes_with_their_lines_in_one_go(step: str, tmp_path: Path) -> None:
    forward, block = Faulty.forward, Block.forward
    wanted = [
        ("gate (Gate) at ", line_of(Gate.forward, "if x.mean()"), "decides by the numbers"),
        ("blocks.0.conv (Conv2d) at ", line_of(block, "self.act").replace(": ", " and 11 more: "), "'reflect'"),
        ("blocks.0.act (Hardshrink) at ", line_of(block, "self.act").replace(": ", " and 11 more: "), "cannot be"),
        ("blocks.0.cumsum (Block) at ", line_of(block, "cumsum").replace(": ", " and 11 more: "), "'cumsum'"),
        ("norm (BatchNorm2d) at ", line_of(forward, "self.norm"), "track_running_stats=True"),
        ("dropout (Faulty) at ", line_of(forward, "F.dropout"), "training=self.training"),
    ]
    causes = causes_of(Faulty(), step, tmp_path / "net.bbg")
    assert len(causes) == len(wanted)
    for cause, (name, line, words) in zip(causes, wanted, strict=True):
        assert cause.startswith(name)
        assert line in cause
        assert words in cause
    assert not list(tmp_path.iterdir())


def test_one_cause_is_the_message_itself() -> None:
    with pytest.raises(BbgError) as error:
        bbg.check(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softmin(1)), EXAMPLE)
    assert error.value.causes == (str(error.value),)
    assert str(error.value).startswith("1 (Softmin): ")


def test_more_causes_than_a_message_holds_are_counted() -> None:
    kinds = (nn.Hardshrink, nn.Tanhshrink, nn.RReLU)
    more = (
        nn.FractionalMaxPool2d(2, 9),
        nn.LPPool2d(2, 2),
        nn.ConstantPad2d(1, 2.0),
        nn.CELU(0.5),
        nn.CrossMapLRN2d(2),
    )
    layers = [
        *(kind() for kind in kinds),
        *more,
        nn.Softmin(1),
        nn.Upsample(None, 2, "bicubic"),
        nn.Threshold(0, 1),
        nn.GLU(2),
        nn.Softplus(threshold=1),
        nn.CrossMapLRN2d(2),
        nn.Unfold(2),
    ]
    with pytest.raises(BbgError) as error:
        bbg.check(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *layers), EXAMPLE)
    told = sum(cause in str(error.value) for cause in error.value.causes)
    assert len(error.value.causes) >= 13
    assert len(str(error.value)) <= LONGEST
    if told < len(error.value.causes):
        assert f"and {len(error.value.causes) - told} more" in str(error.value)


class Behind(nn.Module):
    """A fault, and behind it what could not be arranged so, for all that is known."""

    def __init__(self, then: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.then, self.linear = nn.Conv2d(3, 8, 3), then, nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cumsum(self.conv(x), 1).permute(0, 2, 3, 1)
        return self.then(self.linear(torch.cumprod(y, 1)))


def test_what_follows_from_a_refusal_is_no_cause() -> None:
    names = [cause.split(" ")[0] for cause in causes_of(Behind(lambda x: x.transpose(1, 2).mean((1, 2))))]
    assert names == ["cumsum", "cumprod"]


def test_what_does_not_follow_from_it_is_one() -> None:
    names = [cause.split(" ")[0] for cause in causes_of(Behind(lambda x: torch.clamp(x, 1, -1)))]
    assert names == ["cumsum", "cumprod", "clamp"]


class Endless(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        while x.abs().max() > 1:
            x = x / 2
        return x


def test_a_loop_that_numbers_end_is_one_cause() -> None:
    (cause,) = causes_of(nn.Sequential(nn.Conv2d(3, 4, 3), Endless()))
    assert line_of(Endless.forward, "while") in cause


class Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.isnan().any():
            raise ValueError("no numbers")
        return x


def test_what_a_guess_leads_to_is_no_cause() -> None:
    (cause,) = causes_of(nn.Sequential(nn.Conv2d(3, 4, 3), Raises()))
    assert "decides by the numbers" in cause
    assert line_of(Raises.forward, "if x.isnan") in cause


@pytest.mark.parametrize("step", ["check", "convert"])
def test_an_operation_in_place_is_seen_by_both(step: str, tmp_path: Path) -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            view = y[:, :2]
            return torch.cat([F.relu(y, inplace=True), view], 1)

    (cause,) = causes_of(InPlace(), step, tmp_path / "net.bbg")
    assert "in place" in cause
    assert line_of(InPlace.forward, "torch.cat") in cause


def test_nothing_is_computed_for_a_check(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 3))

    def convolve(*given: Tensor) -> Tensor:
        assert all(tensor.is_meta for tensor in given if isinstance(tensor, Tensor))
        return original(*given)

    original = F.conv2d
    monkeypatch.setattr(F, "conv2d", convolve)
    bbg.check(model.eval(), EXAMPLE)


def test_what_binarization_replaces_is_no_cause() -> None:
    """A Softplus with beta 0 before a binary layer goes; behind the last layer it stays, and is refused."""
    layers = [nn.Conv2d(3, 8, 3), nn.Softplus(beta=0), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 3)]
    found = bbg.check(nn.Sequential(*layers), EXAMPLE)
    assert (found.binary, found.kept, found.replaced) == (("2",), ("0", "3"), ("1",))
    assert (found.input, found.outputs) == ((3, 16, 16), {"": (4, 10, 10)})
    assert str(found).startswith("it converts, from images [3, 16, 16] to [4, 10, 10]")
    (cause,) = causes_of(nn.Sequential(*layers, nn.Softplus(beta=0)))
    assert cause.startswith("4 (Softplus): ")


class Function(nn.Module):
    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 8, 3), *(nn.Conv2d(8, 8, 3) for _ in range(layers))])
        self.last = nn.Conv2d(8, 4, 3)


def test_a_function_that_binarization_replaces_is_no_cause() -> None:
    class Once(Function):
        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.layers[1](F.softplus(self.layers[0](x), beta=0)))

    assert bbg.check(Once(1), EXAMPLE).replaced == ("softplus",)


def test_of_two_at_one_line_the_one_that_stays_is_a_cause() -> None:
    class Twice(Function):
        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = F.softplus(layer(x), beta=0)
            return self.last(x)

    (cause,) = causes_of(Twice(1))
    assert cause.startswith("softplus_1 (Twice) at ")
    assert line_of(Twice.forward, "F.softplus") in cause


def test_of_a_binary_network_it_tells_the_widths() -> None:
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 3)]
    found = bbg.check(bbg.binarize(nn.Sequential(*layers), example=EXAMPLE), EXAMPLE)
    assert (found.binary, found.kept, found.replaced) == (("2.conv",), ("0", "3"), ())


ADVISED: dict[str, tuple[nn.Module, str]] = {
    "a loop": (Endless(), "write it without branches on tensors"),
    "a cumulated sum": (Block(3), "leave it out"),
    "a pool": (nn.FractionalMaxPool2d(2, 9), "use nn.MaxPool2d"),
    "a norm": (nn.CrossMapLRN2d(2), "use nn.LocalResponseNorm"),
    "a padding": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), "use 'zeros'"),
    "a resize": (nn.Upsample(scale_factor=2, mode="bicubic"), "use mode='bilinear', and give the size"),
    "an end": (nn.Softmin(1), "end the network at its logits, of which predict makes probabilities"),
}


@pytest.mark.parametrize("name", ADVISED)
def test_a_cause_is_short_and_ends_with_one_change(name: str) -> None:
    """No list of all that is allowed."""
    model, advice = ADVISED[name]
    causes = causes_of(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), model))
    assert causes[-1].endswith(f"; {advice}")
    assert max(map(len, causes)) < 250
