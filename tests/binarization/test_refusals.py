"""What `bbg.binarize` refuses, and what it says of networks that it does not know well enough."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.binarizing import EXAMPLE, Functional, Own, conv
from torch import Tensor, nn

import bbg
from bbg import BbgError

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: bbg.binarize(Own(), "float", example=EXAMPLE), "method 'float' is real-valued"),
    (lambda: bbg.binarize(Own(), "bgb", example=EXAMPLE), "unknown method 'bgb'; allowed are bbg"),
    (lambda: bbg.binarize(Own()), r"the example is NoneType; give example=images, a float tensor \[N, C, H, W\]"),
    (lambda: bbg.binarize(Own(), example=EXAMPLE.long()), r"the example is torch.int64 \[4, 3, 12, 12\]"),
    (lambda: bbg.binarize(Own(), example=EXAMPLE[0]), r"the example is torch.float32 \[3, 12, 12\]"),
    (lambda: bbg.binarize(Own(), example=EXAMPLE[:, :2]), r"cannot run on an example \[2, 2, 12, 12\]"),
    (lambda: bbg.binarize(nn.ReLU(), example=EXAMPLE), "no convolution and no linear layer"),
    (lambda: bbg.binarize(conv(3), example=EXAMPLE), "nothing is left to binarize: every layer is kept, as 0 .first"),
    (
        lambda: bbg.binarize(nn.Sequential(conv(3), Branches()), example=EXAMPLE),
        r"1 \(Branches\) at .*: torch.fx cannot",
    ),
    (lambda: bbg.binarize(Functional(lambda x, a: a(x), conv(3)), keep="nope", example=EXAMPLE), "near are a"),
]


@pytest.mark.parametrize(("make", "words"), BAD)
def test_bad_requests_are_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(BbgError, match=words):
        make()


# ---- forwards that decide by the example: traced, but what rewriting makes of them is not proven ---------------------


def block(function: Callable[[Any, Any], Any]) -> nn.Module:
    """A network whose second layer, called `1`, is a function of its input and of a convolution."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv()

        def forward(self, x: Tensor) -> Any:
            return function(self, x)

    return nn.Sequential(conv(3), Block(), conv())


def raises_for_odd_sizes(m: Any, x: Any) -> Any:
    if x.shape[2] % 2:
        raise RuntimeError("odd")
    return m.conv(x)


class Variable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(conv(3), conv(), conv())

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        result: Tensor = self.net(x)
        return result


def halves(m: Any, x: Any) -> Any:
    half = int(x.size(1) * 0.5)
    return m.conv(torch.cat([x[:, half:], x[:, :half]], 1))


def drops_half(m: Any, x: Any) -> Any:
    return m.conv(x) * (1.0 if not m.training else float(x.shape[3] // 2))


def channel_by_channel(m: Any, x: Any) -> Any:
    return m.conv(torch.cat([x[:, i : i + 1] * (i + 1) for i in range(x.size(1))], 1))


BY_SIZE: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a branch on a size": (lambda: block(raises_for_odd_sizes), "it decides by mod = 0"),
    "int of a size": (lambda: block(halves), "it decides by mul = 2.0"),
    "a range over channels": (lambda: block(channel_by_channel), "it decides by size = 4"),
    "in the training mode": (lambda: block(drops_half), "it decides by floordiv"),
}


@pytest.mark.parametrize("name", BY_SIZE)
def test_a_forward_that_decides_by_a_size_is_for_images_of_that_size(name: str, tmp_path: Path) -> None:
    make, what = BY_SIZE[name]
    binary = bbg.binarize(make(), example=EXAMPLE)
    height, width = EXAMPLE.shape[2:]
    (told,) = [line for line in binary.report.assumptions if "decides" in line]
    assert told.startswith(f"1 is for images of {height} x {width} alone: {what}")
    assert told in str(binary.report)
    for copied in (binary, copy.deepcopy(binary), pickle.loads(pickle.dumps(binary))):
        assert copied(EXAMPLE).shape[0] == len(EXAMPLE)
        with pytest.raises(BbgError, match=f"images of {height + 2} x {width}: .* binarized for {height} x {width}"):
            copied(torch.randn(1, 3, height + 2, width))
    bbg.convert(binary.eval(), tmp_path / "net.bbg", EXAMPLE)
    with pytest.raises(BbgError, match="this network decides by their size"):
        bbg.convert(binary, tmp_path / "other.bbg", torch.randn(1, 3, height + 2, width + 2))
    assert not (tmp_path / "other.bbg").exists()


def test_a_forward_that_decides_by_nothing_is_for_images_of_any_size() -> None:
    binary = bbg.binarize(block(lambda m, x: m.conv(x)), example=EXAMPLE)
    assert not [line for line in binary.report.assumptions if "size" in line]
    assert binary(torch.randn(1, 3, EXAMPLE.shape[2] + 2, EXAMPLE.shape[3])).shape[0] == 1


MADE: dict[str, Callable[[], nn.Module]] = {
    "a module made in the forward": lambda: block(lambda m, x: nn.ReLU()(m.conv(x))),
    "variable arguments": Variable,
}


@pytest.mark.parametrize("name", MADE)
def test_what_decides_by_nothing_goes_through(name: str) -> None:
    binary = bbg.binarize(MADE[name](), example=EXAMPLE)
    assert binary.report.of("binary")
    assert not binary.report.assumptions


STILL_REFUSED: dict[str, tuple[Callable[[], nn.Module], str, str]] = {
    "a loop over rows": (
        lambda: block(lambda m, x: m.conv(torch.cat([row[:, :, None] for row in x.unbind(0)], 2))),
        "1 (Block)",
        "it asks for the number of images",
    ),
    "the device": (
        lambda: block(lambda m, x: m.conv(x) if x.device.type == "cpu" else x),
        "1 (Block)",
        "it decides by eq = True",
    ),
    "the number of images": (
        lambda: block(lambda m, x: m.conv(x) if x.shape[0] > 1 else x),
        "1 (Block)",
        "it asks for the number of images",
    ),
}


@pytest.mark.parametrize("name", STILL_REFUSED)
def test_a_forward_that_decides_by_more_is_refused_by_name(name: str) -> None:
    make, where, reason = STILL_REFUSED[name]
    with pytest.raises(BbgError) as error:
        bbg.binarize(make(), example=EXAMPLE)
    told = re.fullmatch(
        r"(.*) at \S*test_refusals\.py:\d+: torch\.fx cannot trace its forward \((.*)", str(error.value)
    )
    assert told is not None
    assert told[1] == where
    assert told[2].startswith(reason)


@pytest.mark.parametrize("name", [*BY_SIZE, *MADE, "the device"])
def test_conversion_takes_it_for_it_is_compared_with_torch(name: str, tmp_path: Path) -> None:
    make = {**BY_SIZE, **STILL_REFUSED, **{name: (made,) for name, made in MADE.items()}}[name][0]
    report = bbg.convert(make(), tmp_path / "net.bbg", EXAMPLE)
    assert report.difference <= 1e-5


# ---- what is assumed, and told ---------------------------------------------------------------------------------------


class Noise(nn.Module):
    """It has no number of its own, and reads its mode."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x) if self.training else x


ASSUMED: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "an operation without a row": (
        lambda: block(lambda m, x: m.conv(torch.special.entr(F.relu(x)))),
        ["1.special_entr (special_entr): not known; its numbers have both signs"],
    ),
    "a method without a row": (
        lambda: block(lambda m, x: m.conv(x.pow(2))),
        ["1.pow (pow): not known; its numbers have both signs"],
    ),
    "what is never negative and no activation": (
        lambda: block(lambda m, x: m.conv(x.exp())),
        ["1.exp (exp): never negative, but no activation: nothing takes its place"],
    ),
    "a layer that reads its mode": (
        lambda: nn.Sequential(conv(3), nn.ReLU(), Noise(), conv(), conv()),
        ["2 (Noise): gives its input in evaluation mode"],
    ),
    "an operation that no sign depends on": (lambda: block(lambda m, x: m.conv(x).pow(2)), []),
}


@pytest.mark.parametrize("name", ASSUMED)
def test_what_the_signs_depend_on_is_known_or_told(name: str) -> None:
    make, expected = ASSUMED[name]
    report = bbg.binarize(make(), example=EXAMPLE).report
    assert list(report.assumptions) == expected
    assert report.to_dict()["assumptions"] == expected
    assert [f"assumed: {sentence}" in str(report).splitlines() for sentence in expected] == [True] * len(expected)


# ---- networks that once raised something else ------------------------------------------------------------------------


def test_a_keyword_is_no_obstacle() -> None:
    binary = bbg.binarize(block(lambda m, x: m.conv(input=x)), example=EXAMPLE)
    assert {row.name for row in binary.report.of("binary")} == {"1.conv"}
    assert binary(EXAMPLE).shape == (4, 4, 12, 12)


def test_a_layer_that_does_not_read_the_images_stays() -> None:
    model = block(lambda m, x: x + m.conv(m.position))
    model[1].register_buffer("position", torch.randn(1, 4, 12, 12))
    model = nn.Sequential(*model, conv(4), conv(4))
    rows = {row.name: (row.action, row.why) for row in bbg.binarize(model, example=EXAMPLE).report.rows}
    assert rows["1.conv"] == ("kept", "its input does not depend on the images")


def test_a_bare_squeeze_leaves_the_axis_of_the_images() -> None:
    model = nn.Sequential(conv(3), nn.AdaptiveAvgPool2d(1), Squeeze(), nn.Linear(4, 6), nn.Linear(6, 2))
    rows = {row.name: row.action for row in bbg.binarize(model, example=EXAMPLE[:1]).report.rows}
    assert rows["3"] == "binary"


class Squeeze(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.squeeze()


def test_a_layer_that_sees_one_sign_only_is_told() -> None:
    """No batch norm is put in front of the images: they are as they are given."""
    model = nn.Sequential(conv(3), conv(4)).train()
    rows = {row.name: row for row in bbg.binarize(model, keep=(), example=torch.rand(2, 3, 8, 8)).report.rows}
    assert "its input has one sign only on the example" in rows["0"].why
    assert "one sign" not in rows["1"].why
    assert model.training
