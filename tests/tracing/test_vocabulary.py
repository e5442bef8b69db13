"""The vocabulary: all spellings of a row give the same, and what a row says of an operation is true of its numbers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torchvision.ops import StochasticDepth

from bbg.layers import BinaryConv2d, Shortcut, pointwise
from bbg.tracing.vocabulary import OPS, Op, Trait, op_of, op_of_module, ops_with

torch.set_num_threads(1)

GENERATOR = torch.Generator().manual_seed(0)
MAP = torch.randn(2, 4, 6, 6, generator=GENERATOR)
ROWS = torch.randn(2, 4, 6, generator=GENERATOR)
VOLUME = torch.randn(2, 4, 4, 4, 4, generator=GENERATOR)
OTHER = torch.randn(2, 4, 6, 6, generator=GENERATOR)
ONES = torch.ones(4)
CALLED_WITH_A_LIST = ("cat", "stack")

# The further arguments of each operation, where it has any, and an input where it is no map.
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "getattr": ("shape",),
    "to": (torch.float64,),
    "type_as": (OTHER,),
    **{f"{kind}dropout": (0.5, False) for kind in ("", "alpha_", "feature_alpha_", "feature_")},
    **{f"dropout{d}d": (0.5, False) for d in (1, 2, 3)},
    "view": (2, -1),
    "reshape": ((2, -1),),
    "flatten": (1,),
    "unflatten": (1, (2, 2)),
    "permute": ((0, 2, 3, 1),),
    "transpose": (1, 2),
    "swapaxes": (1, 2),
    "movedim": (1, 2),
    "unsqueeze": (1,),
    "chunk": (2, 1),
    "split": (2, 1),
    "narrow": (1, 0, 2),
    "select": (1, 0),
    "unbind": (1,),
    "getitem": ((slice(None), slice(1, 3)),),
    "channel_shuffle": (2,),
    "pixel_shuffle": (2,),
    "pixel_unshuffle": (2,),
    "expand": (3, 2, 4, 6, 6),
    "expand_as": (MAP.expand(3, 2, 4, 6, 6),),
    "repeat": (1, 2, 1, 1),
    "repeat_interleave": (2, 1),
    "pad": ((1, 1, 1, 1),),
    "interpolate": ((12, 12),),
    **{f"{kind}_pool{d}d": (2,) for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for d in (1, 2, 3)},
    "mean": ((2, 3),),
    "amax": ((2, 3),),
    **dict.fromkeys(("add", "sub", "rsub", "mul", "div", "matmul"), (OTHER,)),
    "clamp": (0.0, 1.0),
    "clamp_min": (0.0,),
    "hardtanh": (0.0, 1.0),
    "prelu": (torch.tensor(0.25),),
    "rrelu": (0.1, 0.3, False),
    "bmm": (torch.randn(8, 6, 3, generator=GENERATOR),),
    "mm": (torch.randn(6, 3, generator=GENERATOR),),
    **{f"conv{d}d": (torch.randn(4, 4, *[2] * d, generator=GENERATOR),) for d in (1, 2, 3)},
    **{f"conv_transpose{d}d": (torch.randn(4, 4, *[2] * d, generator=GENERATOR),) for d in (1, 2, 3)},
    "linear": (torch.randn(3, 6, generator=GENERATOR),),
    "scaled_dot_product_attention": (OTHER, OTHER),
    "batch_norm": (ONES, ONES),
    "layer_norm": ((6,),),
    "group_norm": (2,),
    "local_response_norm": (2,),
    "softmax": (1,),
    "rms_norm": ((6,),),
    "maximum": (OTHER,),
    "minimum": (OTHER,),
    "flip": ((2, 3),),
    "roll": (1, 2),
}  # fmt: skip
INTERNAL = {torch.batch_norm, torch.instance_norm}  # take more arguments than the functions that call them
BY_EQUATION = {"einsum": "ncij,ncjk->ncik"}
LAYERS: dict[str, tuple[Any, ...]] = {  # the arguments of the layer that does the same, where they are others
    "flatten": (1,), "unflatten": (1, (2, 2)), "pad": (1,), "interpolate": ((12, 12),), "hardtanh": (0.0, 1.0),
    "channel_shuffle": (2,), "pixel_shuffle": (2,), "pixel_unshuffle": (2,), "local_response_norm": (2,),
    "layer_norm": ((6,),), "group_norm": (2, 4), "softmax": (1,), "rms_norm": ((6,),), "rrelu": (0.1, 0.3),
    "instance_norm": (4,), "batch_norm": (4,),
    **{f"{kind}_pool{d}d": (2,) for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for d in (1, 2, 3)},
}  # fmt: skip
NOT_CALLED = {
    "binary_conv",
    "binary_linear",
    "byte_conv",
    "byte_linear",
    "multihead_attention",
    "hinge",
    "shortcut",
    "stochastic_depth",
    "identity",
}
EVERY = sorted(set(OPS) - NOT_CALLED)


def input_of(name: str) -> Tensor:
    if name == "feature_dropout" or not name.endswith(("1d", "3d", "bmm", "mm")):
        return MAP.clone()
    return {"1d": ROWS, "3d": VOLUME, "bm": MAP.reshape(8, 6, 6), "mm": MAP.reshape(-1, 6)}[
        "bm" if name == "bmm" else name[-2:]
    ].clone()


def calls(op: Op) -> list[Callable[[Tensor], Any]]:
    """Every function and method of a row, as a function of its input."""
    args = ARGUMENTS.get(op.name, ())
    if op.name in CALLED_WITH_A_LIST:
        return [lambda x, f=f: f([x, OTHER], 1) for f in op.functions]
    if op.name in BY_EQUATION:
        return [lambda x, f=f: f(BY_EQUATION[op.name], x, OTHER) for f in op.functions]
    methods = [lambda x, m=m: getattr(x, m)(*args) for m in op.methods]
    return [*(lambda x, f=f: f(x, *args) for f in op.functions if f not in INTERNAL), *methods]


def first_of(result: Any) -> Tensor:
    return result[0] if isinstance(result, (tuple, list)) else result


def result_of(op: Op, x: Tensor) -> Tensor:
    return first_of(calls(op)[0](x.clone()))


@pytest.mark.parametrize("name", EVERY)
def test_all_spellings_give_the_same(name: str) -> None:
    op = OPS[name]
    assert calls(op)
    one, *others = [first_of(call(input_of(name))) for call in calls(op)]
    for other in others:
        if isinstance(one, Tensor):
            assert torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
        else:
            assert one == other


TWINS = [name for name in EVERY if OPS[name].modules and Trait.LAYER | Trait.DROPOUT not in OPS[name]]


@pytest.mark.parametrize("name", TWINS)
def test_the_layer_gives_the_same(name: str) -> None:
    kind = {"batch_norm": nn.BatchNorm2d, "instance_norm": nn.InstanceNorm2d}.get(name, OPS[name].modules[0])
    layer, x = kind(*LAYERS.get(name, ())).eval(), input_of(name)
    if name == "batch_norm":
        layer.running_mean.fill_(1.0)
    assert torch.allclose(first_of(layer(x.clone())), result_of(OPS[name], x), atol=1e-6)


def names_with(trait: Trait) -> list[str]:
    return [op.name for op in ops_with(trait) if op.name in EVERY]


@pytest.mark.parametrize("name", names_with(Trait.QUERY))
def test_a_query_gives_no_tensor(name: str) -> None:
    assert not isinstance(calls(OPS[name])[0](MAP), Tensor)


@pytest.mark.parametrize("name", names_with(Trait.MOVES))
def test_what_moves_gives_elements_of_its_input(name: str) -> None:
    x = torch.arange(2.0 * 4 * 6 * 6).reshape(2, 4, 6, 6)
    result = result_of(OPS[name], x)
    assert len(result.unique()) == result.numel()
    assert set(result.flatten().tolist()) <= set(x.flatten().tolist())


@pytest.mark.parametrize("name", names_with(Trait.KEEPS_SIGN))
def test_what_keeps_signs_gives_no_negative_number_for_none(name: str) -> None:
    assert (result_of(OPS[name], input_of(name).abs()) >= 0).all()
    negative = -input_of(name).abs().clamp(0.1, 2)
    assert (result_of(OPS[name], negative) < 0).any() != (Trait.CLAMPS in OPS[name])  # at 0, here


@pytest.mark.parametrize("name", names_with(Trait.POOLS))
def test_what_pools_stays_between_the_numbers(name: str) -> None:
    x = input_of(name)
    result = result_of(OPS[name], x)
    assert result.numel() < x.numel()
    assert x.min() <= result.min()
    assert result.max() <= x.max()


@pytest.mark.parametrize("name", names_with(Trait.NONNEGATIVE))
def test_what_is_never_negative(name: str) -> None:
    result = result_of(OPS[name], 100 * input_of(name))
    assert not (result < 0).any()


@pytest.mark.parametrize("name", names_with(Trait.GATE))
def test_a_gate_gives_shares(name: str) -> None:
    result = result_of(OPS[name], 10 * input_of(name))
    assert result.min() < 0.1
    assert result.max() > 0.9
    assert result.max() <= 1


@pytest.mark.parametrize("name", names_with(Trait.SIGNED))
def test_what_is_signed_gives_negative_numbers_for_positive_ones(name: str) -> None:
    result = result_of(OPS[name], input_of(name).abs())
    assert (result < 0).any()
    assert (result > 0).any() == (name != "neg")  # of positive numbers it gives negative ones alone


@pytest.mark.parametrize("name", names_with(Trait.CLAMPS))
def test_what_clamps_keeps_to_its_bound(name: str) -> None:
    assert result_of(OPS[name], input_of(name)).min() == 0


@pytest.mark.parametrize("name", names_with(Trait.PERMUTES))
def test_what_permutes_keeps_the_rank(name: str) -> None:
    x = torch.randn(2, 3, 4, 5)
    assert sorted(result_of(OPS[name], x).shape) == sorted(x.shape)


@pytest.mark.parametrize("name", names_with(Trait.ACTIVATION))
def test_an_activation_works_on_each_element_alone(name: str) -> None:
    x = input_of(name)
    flipped = result_of(OPS[name], x.flip(3)).flip(3)
    assert torch.equal(result_of(OPS[name], x), flipped)


# ---- the look-up ---------------------------------------------------------------------------------------------------


class Keeps(nn.Conv2d):
    def __init__(self) -> None:
        super().__init__(3, 4, 3)


class Changes(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return -super().forward(input)


class ChangesInside(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(input, -weight, bias)


MODULES: dict[str, tuple[nn.Module, str | None]] = {
    "a layer": (nn.Conv2d(3, 4, 3), "conv2d"),
    "a subclass that keeps forward": (Keeps(), "conv2d"),
    "a subclass with a forward of its own": (Changes(3, 4, 3), None),
    "a subclass with a convolution of its own": (ChangesInside(3, 4, 3), None),
    "a binary layer": (BinaryConv2d(3, 4, 3), "binary_conv"),
    "a shortcut": (Shortcut(4), "shortcut"),
    "a hinge": (pointwise("rprelu", 4), "hinge"),
    "a subclass of torch's own": (nn.ReLU6(), "relu6"),
    "a layer of another package": (StochasticDepth(0.1, "row"), "stochastic_depth"),
    "an unknown one": (nn.LSTM(3, 4), None),
}


@pytest.mark.parametrize("name", MODULES)
def test_layers_are_found_by_what_they_compute(name: str) -> None:
    module, expected = MODULES[name]
    op = op_of_module(module)
    assert (op.name if op else None) == expected


def test_nodes_are_found_whatever_they_call() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            y = self.act(torch.relu(F.relu(x)).relu_()) + x.size(0)
            return torch.special.entr(y)

    model = Network()
    graph = fx.symbolic_trace(model).graph
    found = [op_of(node, dict(model.named_modules())) for node in graph.nodes]
    names = [op.name if op else None for op in found]
    assert names == [None, "relu", "relu", "relu", "relu", "size", "add", None, None]


def test_no_spelling_has_two_rows() -> None:
    for spellings in ("modules", "functions", "methods", "paths"):
        every = [spelling for op in OPS.values() for spelling in getattr(op, spellings)]
        assert len(every) == len(set(every)), spellings


def test_every_function_can_be_told_from_python() -> None:
    """`inspect` or a docstring knows each: no row holds a type or a number by mistake."""
    for op in OPS.values():
        assert all(inspect.isroutine(function) for function in op.functions), op.name
