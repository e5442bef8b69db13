"""The tracer: what it follows, what it refuses, and that its graph is the network for any number of images."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bbg import BbgError
from bbg.layers import BinaryConv2d, BinaryLinear, pointwise
from bbg.methods import ACTIVATIONS
from bbg.tracing.tracer import COUNT_ADVICE, Trace, Tracer, in_mode
from bbg.tracing.vocabulary import Trait, ops_with

torch.set_num_threads(1)

EXAMPLE = torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(0))
ADVICE = "write it otherwise"


def trace(model: nn.Module, example: Tensor = EXAMPLE) -> Trace:
    return Tracer(example, lambda module: False).run(model, ADVICE)


class Inside(nn.Module):
    """A network whose middle, called `inside`, is a function of a map [N, 8, 12, 16] and of that module."""

    def __init__(self, function: Callable[[Any, Any], Any], **parts: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.inside = Middle(function, **parts)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inside(F.relu(self.first(x)))
        return result


class Middle(nn.Module):
    def __init__(self, function: Callable[[Any, Any], Any], **parts: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def conv() -> nn.Conv2d:
    return nn.Conv2d(8, 8, 3, padding=1)


class ActivatedNorm(nn.BatchNorm2d):
    """A batch norm of functions, as timm writes it."""

    def forward(self, input: Tensor) -> Tensor:
        mean, var = self.running_mean, self.running_var
        return F.relu(F.batch_norm(input, mean, var, self.weight, self.bias, self.training, 0.1, self.eps))


class SamePadding(nn.Conv2d):
    """A convolution that pads by what the size of its input asks for, as TensorFlow does."""

    def forward(self, input: Tensor) -> Tensor:
        pads = []
        for size, kernel, stride in zip(input.shape[:-3:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(input, pads), self.weight, self.bias, self.stride)


class Standardized(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        w = self.weight
        w = w - w.mean((1, 2, 3), keepdim=True)
        w = w / w.view(w.size(0), -1).std(dim=1).view(-1, 1, 1, 1).expand_as(w)
        return F.conv2d(input, w, self.bias, self.stride, self.padding)


class Sub(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight, self.bias)


class Variable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor, *others: Tensor, scale: float = 2.0, **options: Any) -> Tensor:
        result: Tensor = self.conv(x, *others, **options) * scale
        return result


def branches_on_a_size(m: Any, x: Any) -> Any:
    if x.shape[2] % 8 != 4:
        raise RuntimeError("the size does not fit")
    return x * 2


def shuffled(m: Any, x: Any) -> Any:
    n, c, h, w = x.shape
    assert c % 4 == 0
    assert len(x.shape) == x.dim() == 4
    y = x.view(n * 4, c // 4, h, w).reshape(n, 4, c // 4, h * w).transpose(1, 2).contiguous()
    return y.view(n, -1, *x.shape[2:])


def split_by_half(m: Any, x: Any) -> Any:
    half = int(x.size(1) * 0.5)
    return torch.cat([x[:, half:], x[:, :half]], 1)


def by_channel(m: Any, x: Any) -> Any:
    return torch.cat([part * i for i, part in enumerate(x.unbind(1))], 1).view(x.shape[0], *x.shape[1:])


def unpacked(x: Any) -> tuple[Any, Any]:
    a, b = x.split(4, 1)
    return a, b


def on_the_cpu(m: Any, x: Any) -> Any:
    return x.half().float() if x.is_cuda or x.device.type == "meta" or x.dtype == torch.float16 else x


def a_grid(m: Any, x: Any) -> Any:
    h, w = x.shape[2:]
    return x + torch.linspace(-1, 1, h, device=x.device)[:, None] + torch.arange(w)


# what is traced: the network, the number of decisions, the calls of modules
TRACED: dict[str, tuple[Callable[[], nn.Module], int, list[str]]] = {
    "a branch on a size": (lambda: Inside(branches_on_a_size), 1, ["first"]),
    "a number made of a size": (lambda: Inside(split_by_half), 1, ["first"]),
    "sizes and assertions": (lambda: Inside(shuffled), 3, ["first"]),
    "a loop over channels": (lambda: Inside(by_channel), 1, ["first"]),
    "a loop over chunks": (lambda: Inside(lambda m, x: torch.cat([y * 2 for y in x.chunk(2, 1)], 1)), 0, ["first"]),
    "a list of chunks": (
        lambda: Inside(lambda m, x: torch.cat(list(torch.chunk(x, chunks=2, dim=1))[::-1], 1)),
        0,
        ["first"],
    ),
    "parts that are unpacked": (lambda: Inside(lambda m, x: (lambda a, b: b - a)(*unpacked(x))), 0, ["first"]),
    "a loop over a shape": (lambda: Inside(lambda m, x: x.view(*(size * 1 for size in x.shape))), 0, ["first"]),
    "the device and the type": (lambda: Inside(on_the_cpu), 3, ["first"]),
    "a constant made of sizes": (lambda: Inside(a_grid), 0, ["first"]),
    "two shapes compared": (lambda: Inside(lambda m, x: x if x.shape == F.relu(x).shape else -x), 1, ["first"]),
    "two shapes that differ": (
        lambda: Inside(lambda m, x: x if x.shape == x[:, :, 1:].shape or x.shape == x.flatten(1).shape else -x),
        2,
        ["first"],
    ),
    "the same number of images": (
        lambda: Inside(lambda m, x: x if x.size(0) == F.relu(x).size(0) else -x),
        1,
        ["first"],
    ),
    "a batch norm of functions": (
        lambda: Inside(lambda m, x: m.norm(m.conv(x)), conv=conv(), norm=ActivatedNorm(8)),
        0,
        ["first", "inside.conv"],
    ),
    "padding by the size": (lambda: Inside(lambda m, x: m.conv(x), conv=SamePadding(8, 4, 3, 2)), 2, ["first"]),
    "a weight that is computed": (
        lambda: Inside(lambda m, x: m.conv(x), conv=Standardized(8, 4, 3)),
        0,
        ["first"],
    ),
    "F.linear": (lambda: Inside(lambda m, x: m.linear(x.mean((2, 3))), linear=Sub(8, 4)), 0, ["first"]),
    "a module made in the forward": (
        lambda: Inside(lambda m, x: nn.ReLU(inplace=True)(m.conv(x)), conv=conv()),
        0,
        ["first", "inside.conv"],
    ),
    "variable arguments": (Variable, 0, ["conv"]),
    "a keyword": (lambda: Inside(lambda m, x: m.conv(input=x), conv=conv()), 0, ["first", "inside.conv"]),
    "a bare squeeze": (
        lambda: Inside(
            lambda m, x: m.linear(m.pool(x).squeeze()), pool=nn.AdaptiveAvgPool2d(1), linear=nn.Linear(8, 3)
        ),
        0,
        ["first", "inside.pool", "inside.linear"],
    ),
    "a module that is called twice": (
        lambda: Inside(lambda m, x: m.conv(m.conv(x)), conv=conv()),
        0,
        ["first", "inside.conv", "inside.conv"],
    ),
}


@pytest.mark.parametrize("name", TRACED)
def test_the_graph_is_the_network_for_any_number_of_images(name: str) -> None:
    model = TRACED[name][0]().eval()
    module = trace(model).module()
    for count in (2, 3, 7):
        images = torch.randn(count, *EXAMPLE.shape[1:])
        assert torch.equal(module(images), model(images))


@pytest.mark.parametrize("name", TRACED)
def test_modules_keep_their_names_and_decisions_are_counted(name: str) -> None:
    make, decisions, calls = TRACED[name]
    result = trace(make().eval())
    assert len(result.decisions) == decisions
    assert [node.target for node in result.graph.nodes if node.op == "call_module"] == calls


@pytest.mark.parametrize("name", TRACED)
def test_all_parts_are_the_models_own_and_it_stays_as_it_was(name: str) -> None:
    model = TRACED[name][0]()
    attributes, state = set(vars(model)), {k: v.clone() for k, v in model.state_dict().items()}
    parts = trace(model).parts()
    own = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    assert all(value is model.get_submodule(n) for n, value in parts.items() if isinstance(value, nn.Module))
    assert {id(p) for p in parts.values() if isinstance(p, nn.Parameter)} <= own
    assert set(vars(model)) == attributes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", TRACED)
def test_two_traces_are_equal(name: str) -> None:
    model = TRACED[name][0]()
    one, other = (trace(model) for _ in range(2))
    assert str(one.graph) == str(other.graph)
    assert one.decisions == other.decisions


def test_a_decision_names_the_module_and_the_value() -> None:
    (decision,) = trace(Inside(branches_on_a_size)).decisions
    assert decision.qualname == "inside"
    assert decision.what == "it decides by ne = False, a size or type of the example"
    assert decision.by_size


@pytest.mark.parametrize(
    "ask",
    [
        lambda x: x.is_cuda,
        lambda x: x.device.type == "cpu",
        lambda x: x.get_device() >= 0,
        lambda x: x.device == torch.device("cpu") and x.shape[2] > 1,
    ],
)
def test_a_decision_by_the_device_is_told(ask: Callable[[Any], bool]) -> None:
    decisions = trace(Inside(lambda m, x: m.conv(x) if ask(x) else m.conv(-x), conv=conv())).decisions
    assert not decisions[0].by_size
    assert all(decision.by_size for decision in decisions[1:])


def test_sizes_that_nothing_branches_on_stay_free() -> None:
    model = Inside(lambda m, x: x.view(x.size(0), 2, x.size(1) // 2, *x.shape[2:]).flatten(1, 2))
    module = trace(model).module()
    images = torch.randn(3, 3, 20, 9)
    assert torch.equal(module(images), model(images))


BATCH = "it asks for the number of images, which must stay free"
NUMBERS = "it decides by the numbers of a tensor"
REFUSED: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "a branch on the number of images": (lambda m, x: x if x.shape[0] > 1 else -x, BATCH),
    "a branch on a number made of it": (lambda m, x: x if x.size(0) // 500 == 0 else -x, BATCH),
    "a shape compared with numbers": (lambda m, x: x if x.shape == (2, 8, 12, 16) else -x, BATCH),
    "the number of images and of channels": (lambda m, x: x if x.size(0) == x.size(1) else -x, BATCH),
    "the shape of other images": (lambda m, x: x if x.shape == x[1:].shape else -x, BATCH),
    "a number made of it and a size": (lambda m, x: x if x.size(0) // 500 == x.size(1) else -x, BATCH),
    "the number of elements": (lambda m, x: x if x.numel() > 10 else -x, BATCH),
    "a loop over the images": (lambda m, x: torch.stack([image * 2 for image in x]), BATCH),
    "int of the number of images": (lambda m, x: x.view(int(x.shape[0]), -1), BATCH),
    "len": (lambda m, x: x.view(len(x), -1), BATCH),
    "a branch on numbers": (lambda m, x: x if x.sum() > 0 else -x, NUMBERS),
    "float of a tensor": (lambda m, x: x * float(x.mean()), NUMBERS),
    "an item": (lambda m, x: x * 2 if x.mean().item() > 0 else x, NUMBERS),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_depends_on_the_images_is_refused_by_name(name: str) -> None:
    function, reason = REFUSED[name]
    with pytest.raises(BbgError) as error:
        trace(Inside(function))
    assert re.match(
        r"inside \(Middle\) at .*test_tracer\.py:\d+: torch\.fx cannot trace its forward \(", str(error.value)
    )
    assert reason in str(error.value)
    assert str(error.value).endswith(f"); {COUNT_ADVICE if reason == BATCH else ADVICE}")


def test_a_second_input_is_refused() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, other: Tensor) -> Tensor:
            return x + other

    with pytest.raises(BbgError, match="takes a second input 'other'; give it a default"):
        trace(Two())


def test_leaves_are_what_the_caller_says() -> None:
    model = Inside(lambda m, x: m.act(x), act=Middle(lambda m, x: x * 2))
    graph = Tracer(EXAMPLE, lambda module: isinstance(module, Middle)).run(model, ADVICE).graph
    assert [node.target for node in graph.nodes if node.op == "call_module"] == ["first", "inside"]


def test_hooks_do_not_run_while_tracing() -> None:
    model = Inside(lambda m, x: m.conv(x), conv=conv())
    ran: list[str] = []
    for module in model.modules():
        module.register_forward_pre_hook(lambda module, args: ran.append(type(module).__name__))
    trace(model)
    assert "Conv2d" not in ran


def test_training_leaves_the_statistics_alone() -> None:
    model = Inside(lambda m, x: m.drop(m.norm(x)), norm=nn.BatchNorm2d(8), drop=nn.Dropout())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    with in_mode(model, True):
        trace(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_in_mode_brings_every_module_back() -> None:
    model = Inside(lambda m, x: m.norm(x), norm=nn.BatchNorm2d(8)).train()
    model.inside.norm.eval()
    with in_mode(model, False):
        assert not model.inside.training
    assert model.inside.training
    assert not model.inside.norm.training


def elementwise() -> list[nn.Module]:
    """A layer of each type that torch, or a method of ours, has for an activation, and the batch norm."""
    types = [
        module for op in ops_with(Trait.ACTIVATION) for module in op.modules if module.__module__.startswith("torch")
    ]
    return [*(module() for module in types), nn.BatchNorm2d(8), *(pointwise(name, 8) for name in ACTIVATIONS)]


BINARY = [
    BinaryConv2d(8, 6, (3, 1), stride=2, padding=(1, 0), dilation=2, method="adabin"),
    BinaryConv2d(8, 4, 3, padding="same", groups=2, bias=False),
    BinaryConv2d(8, 8, 1, method="reactnet"),
    nn.Sequential(nn.Flatten(), BinaryLinear(8 * 12 * 16, 5, method="irnet")),
]


@pytest.mark.parametrize("layer", [*elementwise(), *BINARY], ids=lambda layer: type(layer).__name__)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_shape_of_a_layer_is_known_without_computing_it(layer: nn.Module, dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), layer).to(dtype).eval()
    tracer = Tracer(EXAMPLE.to(dtype), lambda module: isinstance(module, (BinaryConv2d, BinaryLinear)))
    found: list[Tensor] = []
    compute = tracer._compute

    def recorded(*call: Any) -> Any:
        found.append(compute(*call))
        return found[-1]

    tracer._compute = recorded  # type: ignore[method-assign]
    tracer.run(model, ADVICE)
    expected = model(EXAMPLE.to(dtype))
    assert found[-1].device.type == "meta"
    assert (found[-1].shape[1:], found[-1].dtype) == (expected.shape[1:], expected.dtype)
