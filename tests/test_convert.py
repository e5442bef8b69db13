"""`bbg.convert`: the networks of the package, what is refused and how, the law, and the report."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from random_networks import SHIFTED  # noqa: E402
from torch import nn  # noqa: E402

import bbg  # noqa: E402
from bbg import BbgError, packed  # noqa: E402
from bbg.convert import check, trace  # noqa: E402
from bbg.graph import Graph  # noqa: E402
from bbg.layers import BinaryConv2d, BinaryLinear  # noqa: E402
from bbg.methods import METHODS, Binarizer, Form, Method  # noqa: E402

package = import_module("bbg.convert")  # the attribute of that name is the function
real_fold = package.fold_graph
torch.set_num_threads(1)  # small maps
EXAMPLE = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
NETWORKS = {"resnet8": {"width": 5}, "resnet20": {"width": 4}, "vgg_small": {"width": 6, "size": 16}}


def network(name: str = "resnet8", method: str | Method = "bbg") -> nn.Module:
    """A small network as after a training: statistics and scales of batch norms of any sign."""
    torch.manual_seed(0)
    model = bbg.create(name, method, num_classes=4, **NETWORKS[name])
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model


@pytest.mark.parametrize("method", [*METHODS, SHIFTED], ids=lambda m: getattr(m, "name", m))
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_and_method(name: str, method: str | Method, tmp_path: Path) -> None:
    model = network(name, method)
    report = bbg.convert(model, tmp_path / "net.bbg", EXAMPLE)
    assert report.difference <= 1e-5
    assert report.agreement.images == len(EXAMPLE)
    with torch.no_grad():
        wanted = model.eval()(EXAMPLE).numpy()
    given = bbg.load(tmp_path / "net.bbg")(EXAMPLE.numpy())
    assert given.shape == wanted.shape
    assert report.agreement.departure <= 1e-5
    if not report.agreement.departed:
        assert np.abs(given - wanted).max() <= 1e-4 * np.abs(wanted).max()
        assert report.agreement.largest == pytest.approx(np.abs(given - wanted).max(), abs=1e-6)


def test_inner_weights_travel_as_bits(tmp_path: Path) -> None:
    model = network("resnet20")
    bbg.convert(model, tmp_path / "net.bbg", EXAMPLE)
    ops = packed.read(tmp_path / "net.bbg").graph.ops
    assert sum(op.kind == "binary_conv" for op in ops) == 18
    assert [op.name for op in ops if op.kind == "conv"] == ["stem.0", "head"]
    assert not [op.name for op in ops if op.kind == "pointwise"]  # all folded


# ---- what comes out beside the file --------------------------------------------------------------------------------


def test_report_adds_up(tmp_path: Path) -> None:
    path = tmp_path / "net.bbg"
    model = network("vgg_small")
    preprocess = bbg.Preprocess(16)
    report = bbg.convert(model, path, EXAMPLE, edges="fp32", preprocess=preprocess, labels=["a", "b", "c", "d"])
    assert report.edges is None
    assert report.after == sum(part.after for part in report.parts) == path.stat().st_size
    floats = [t.numel() for t in [*model.parameters(), *model.buffers()] if t.is_floating_point()]
    assert report.before == 4 * sum(floats)
    by_name = {part.name: part for part in report.parts}
    bits = by_name["BinaryConv2d weights"]
    assert bits.bits == 1
    assert bits.before == 4 * sum(m.weight.numel() for m in model.modules() if isinstance(m, BinaryConv2d))
    assert bits.before / bits.after > 25  # 32, but that each filter fills up its last word
    assert by_name["Linear weights"].after == 4 * model.head.weight.numel()
    for text in ("BinaryConv2d weights", f"{report.after:,}", "layer by layer", "end to end: 5 images", "best class"):
        assert text in str(report)
    assert asdict(report)["agreement"]["top1"] == report.agreement.top1
    assert bbg.load(path).labels == ("a", "b", "c", "d")
    narrow = bbg.convert(model, path, EXAMPLE, preprocess=preprocess)
    assert narrow.edges is not None
    assert narrow.after == sum(part.after for part in narrow.parts) == path.stat().st_size
    assert {part.name: part.bits for part in narrow.parts}["Linear weights"] == 8
    assert "8-bit edges instead of float32" in str(narrow)


def test_same_model_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        bbg.convert(network(), tmp_path / name, EXAMPLE, provenance={"accuracy": 0.5, "recipe": "r"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    notes = packed.read(tmp_path / "a").provenance
    assert notes == {"bbg": bbg.__version__, "torch": str(torch.__version__), "accuracy": 0.5, "recipe": "r"}


def test_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = network().double()
    model.train()
    model.stem.eval()
    before = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    bbg.convert(model, tmp_path / "net.bbg", EXAMPLE.double())
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[k], v) and before[k].dtype == v.dtype for k, v in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.get_num_threads() == 1


# ---- foreign networks ----------------------------------------------------------------------------------------------


class Functional(nn.Module):
    """A network of torch's functions: `function` of the input and the layers."""

    def __init__(self, function: Callable[..., object], *layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor) -> object:
        return self.function(x, *self.layers)


FOREIGN: dict[str, Callable[..., object]] = {
    "relu": lambda x, c: F.relu(c(x)),
    "torch.relu": lambda x, c: torch.relu(c(x)),
    ".relu": lambda x, c: c(x).relu(),
    "relu6": lambda x, c: F.relu6(c(x)),
    "hardtanh": lambda x, c: F.hardtanh(c(x), -0.5, 0.25),
    "leaky_relu": lambda x, c: F.leaky_relu(c(x), 0.3),
    "clamp": lambda x, c: torch.clamp(c(x), max=0.5),
    "max_pool2d": lambda x, c: F.max_pool2d(c(x), 3, 2, 1, ceil_mode=True),
    "avg_pool2d": lambda x, c: F.avg_pool2d(c(x), (2, 3), 1, (1, 0)),
    "adaptive_avg_pool2d": lambda x, c: F.adaptive_avg_pool2d(c(x), (3, 5)),
    "dropout": lambda x, c: F.dropout(c(x), 0.5, False),
    "flatten": lambda x, c: torch.flatten(c(x), 1),
    ".flatten": lambda x, c: c(x).flatten(1),
    "view": lambda x, c: (lambda y: y.view(y.size(0), -1))(c(x)),
    "reshape": lambda x, c: (lambda y: y.reshape(y.shape[0], y.shape[1] * y.shape[2] * y.shape[3]))(c(x)),
    "mean": lambda x, c: c(x).mean([2, 3]),
    "mean, kept": lambda x, c: c(x).mean((-1, -2), keepdim=True),
    "iadd": lambda x, c: c(x).add_(c(x)),
    "a layer used twice": lambda x, c: c(c(x)) + x,
    "gate": lambda x, c: c(x) * torch.arange(3.0).reshape(3, 1, 1),
    "a dict": lambda x, c: {"map": c(x), "vector": c(x).flatten(1)},
}


@pytest.mark.parametrize("case", FOREIGN)
def test_functions(case: str, tmp_path: Path) -> None:
    model = Functional(FOREIGN[case], nn.Conv2d(3, 3, 3, padding=1))
    bbg.convert(model, tmp_path / "net.bbg", EXAMPLE)
    given = bbg.load(tmp_path / "net.bbg")(EXAMPLE.numpy())
    with torch.no_grad():
        wanted = model(EXAMPLE)
    pairs = [(given[k], wanted[k]) for k in wanted] if isinstance(wanted, dict) else [(given, wanted)]
    for a, b in pairs:
        assert a.shape == tuple(b.shape)
        assert np.abs(a - b.numpy()).max() <= 1e-5 * b.abs().max()


LAYERS: dict[str, nn.Module] = {
    "a convolution alone": nn.Conv2d(3, 4, 3),
    "padding 'same'": nn.Conv2d(3, 4, (3, 5), padding="same", dilation=(2, 1)),
    "padding 'valid', binary": BinaryConv2d(3, 4, 3, padding="valid"),
    "no affine parameters": nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False)),
    "a pool of the input": nn.Sequential(nn.MaxPool2d(2), nn.AdaptiveAvgPool2d((None, 3))),
    "a binary linear layer on a map": nn.Sequential(nn.Conv2d(3, 2, 3, stride=2), nn.Flatten(), BinaryLinear(98, 5)),
    "a half": nn.Conv2d(3, 4, 3).half(),
}


@pytest.mark.parametrize("case", LAYERS)
def test_layers(case: str, tmp_path: Path) -> None:
    assert bbg.convert(LAYERS[case], tmp_path / "net.bbg", EXAMPLE).difference <= 1e-5


# ---- what is refused -----------------------------------------------------------------------------------------------


class DependsOnInput(Binarizer):
    """A threshold that is computed from the activations."""

    def __init__(self, channels: int) -> None:
        super().__init__(axis=1)

    def form(self, x: torch.Tensor) -> Form:
        return Form(threshold=x.mean((0, 2, 3)))


class Tricky(nn.Module):
    """A branch on numbers: torch.fx cannot follow it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


class Centred(nn.Conv2d):
    """A convolution with another forward: not the one that the rule knows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.weight - self.weight.mean(), self.bias)


def flattened(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Sequential(nn.Flatten(), *layers))


REFUSED: dict[str, tuple[nn.Module, tuple[str, ...]]] = {
    "a layer without a rule": (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), nn.GELU())),
        ("1.1 (GELU)", "cannot be converted", "replace it", "BinaryConv2d"),
    ),
    "a function without a rule": (
        nn.Sequential(nn.Conv2d(3, 4, 3), Functional(lambda x: torch.softmax(x, 1))),
        ("1.softmax (Functional)", "cannot be converted", "replace it"),
    ),
    "a layer with another forward": (nn.Sequential(Centred(3, 4, 3)), ("0.conv2d (Centred)", "cannot be converted")),
    "a branch on numbers": (
        nn.Sequential(nn.Identity(), Tricky()),
        ("1 (Tricky)", "torch.fx cannot trace", "write it"),
    ),
    "padding mode": (
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")),
        ("0 (Conv2d)", "'reflect'", "'zeros'"),
    ),
    "asymmetric padding": (
        nn.Sequential(nn.Conv2d(3, 4, 4, padding="same")),
        ("0 (Conv2d)", "not symmetric", "odd kernel"),
    ),
    "indices": (nn.Sequential(nn.MaxPool2d(2, return_indices=True)), ("0 (MaxPool2d)", "return_indices")),
    "divisor": (nn.Sequential(nn.AvgPool2d(2, divisor_override=3)), ("0 (AvgPool2d)", "divisor_override")),
    "a window beside the map": (
        nn.Sequential(nn.MaxPool2d(2, dilation=17, padding=1)),
        ("0 (MaxPool2d)", "dilation"),
    ),
    "no running statistics": (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
        ("1 (BatchNorm2d)", "running statistics", "track_running_stats=True"),
    ),
    "batch norm of a flattened map": (
        flattened(nn.BatchNorm1d(2 * 14 * 14)),
        ("1.1 (BatchNorm1d)", "14 x 14 map", "before flattening"),
    ),
    "a linear layer on a map": (nn.Sequential(nn.Linear(16, 3)), ("0 (Linear)", "flatten")),
    "an activation that depends on the input": (
        nn.Sequential(BinaryConv2d(3, 4, 3, method=Method("own", METHODS["bbg"].weight, DependsOnInput))),
        ("0 (BinaryConv2d)", "threshold", "depends on the input"),
    ),
    "a product": (Functional(lambda x: x * x), ("mul (Functional)", "two values")),
    "broadcasting": (Functional(lambda x, p: x + p(x), nn.AdaptiveAvgPool2d(1)), ("add (Functional)", "equal shapes")),
    "a constant map": (Functional(lambda x: x + torch.ones(16, 16)), ("add (Functional)", "one per channel")),
    "an unknown argument": (Functional(lambda x: torch.add(x, x, alpha=2)), ("add (Functional)", "alpha")),
    "active dropout": (Functional(lambda x: F.dropout(x)), ("dropout (Functional)", "training=self.training")),
    "transposing": (Functional(lambda x: x.reshape(-1, 3)), ("reshape (Functional)", "flatten")),
    "an attribute": (Functional(lambda x: x.mT * 1.0), ("(Functional)", "'mT'", "shape")),
    "a tuple": (Functional(lambda x: (x, x)), ("returns tuple", "dict")),
    "an input as output": (nn.Sequential(nn.Identity()), ("'input'", "no op writes")),
    "numbers that are not finite": (
        nn.Sequential(nn.utils.skip_init(nn.Conv2d, 3, 4, 3, bias=False)),
        ("0.weight", "not finite"),
    ),
}
nn.init.normal_(REFUSED["batch norm of a flattened map"][0][1][1].weight)  # type: ignore[index]
nn.init.constant_(REFUSED["numbers that are not finite"][0][0].weight, float("nan"))  # type: ignore[index]


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(case: str, tmp_path: Path) -> None:
    model, words = REFUSED[case]
    path = tmp_path / "net.bbg"
    path.write_bytes(b"old")
    with pytest.raises(BbgError) as error:
        bbg.convert(model, path, EXAMPLE)
    for word in words:
        assert word in str(error.value)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_unknown_layers_are_found_before_anything_is_computed(tmp_path: Path) -> None:
    """A layer that sleeps comes first, one without a rule last."""

    class Slow(nn.ReLU):
        pass

    slow = Slow()
    slow.register_forward_pre_hook(lambda *_: time.sleep(10))
    start = time.perf_counter()
    with pytest.raises(BbgError, match=r"1 \(Softmax2d\)"):
        bbg.convert(nn.Sequential(slow, nn.Softmax2d()), tmp_path / "net.bbg", EXAMPLE)
    assert time.perf_counter() - start < 1


def test_a_hook_that_changes_values_is_noticed(tmp_path: Path) -> None:
    layer = nn.Conv2d(3, 4, 3)
    model = nn.Sequential(layer, nn.ReLU())
    model.register_forward_hook(lambda module, args, out: out + 1)
    with pytest.raises(BbgError, match="computes something else"):
        bbg.convert(model, tmp_path / "net.bbg", EXAMPLE)


ARGUMENTS: dict[str, tuple[dict[str, object], str]] = {
    "edges unknown": ({"edges": "fp16"}, "edges is 'fp16', allowed are int8, fp32"),
    "no tensor": ({"example": [1.0]}, "list; give a batch"),
    "integers": ({"example": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)}, "uint8"),
    "one image": ({"example": torch.zeros(3, 8, 8)}, r"\[3, 8, 8\]"),
    "no image": ({"example": torch.zeros(0, 3, 8, 8)}, r"\[0, 3, 8, 8\]"),
    "not finite": ({"example": torch.full((1, 3, 8, 8), float("inf"))}, "not finite"),
    "other channels": ({"example": torch.zeros(1, 4, 16, 16)}, r"cannot run on an example .*\[1, 4, 16, 16\]"),
    "labels": ({"labels": ["a"]}, "1 labels for 4 classes"),
    "preset": ({"preprocess": "mnist"}, "unknown preprocessing 'mnist'"),
    "size": ({"preprocess": "cifar10"}, r"\[3, 32, 32\]"),
    "provenance": ({"provenance": {"x": [1]}}, "provenance"),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments(case: str, tmp_path: Path) -> None:
    arguments, words = ARGUMENTS[case]
    with pytest.raises(BbgError, match=words):
        bbg.convert(network(), tmp_path / "net.bbg", **{"example": EXAMPLE, **arguments})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["missing/net.bbg", ""])
def test_unwritable_path(path: str, tmp_path: Path) -> None:
    with pytest.raises(BbgError, match="cannot be written"):
        bbg.convert(network(), tmp_path / path, EXAMPLE)
    assert not list(tmp_path.iterdir())


# ---- the law -------------------------------------------------------------------------------------------------------


def spoilt(graph: Graph, index: int, tensor: str, change: Callable[[np.ndarray], np.ndarray]) -> Graph:
    """The graph with one tensor of one op changed."""
    ops = list(graph.ops)
    ops[index] = replace(ops[index], tensors={**ops[index].tensors, tensor: change(ops[index].tensors[tensor])})
    return replace(graph, ops=tuple(ops))


def first(tensor: np.ndarray, value: object) -> np.ndarray:
    """`value` in place of the first number, 0 elsewhere."""
    change = np.zeros_like(tensor)
    change.flat[0] = value
    return change


SPOILT: dict[str, tuple[int, str, Callable[[np.ndarray], np.ndarray]]] = {
    "one weight bit": (1, "weight", lambda words: words ^ first(words, 1)),
    "one real weight": (0, "weight", lambda weight: weight + first(weight, 1e-3)),
    "an epilogue": (2, "epilogue", lambda rows: rows * np.float32(1.0001)),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_network_that_breaks_the_law_is_not_written(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.bbg"
    path.write_bytes(b"old")
    monkeypatch.setattr(package, "fold_graph", lambda graph: spoilt(real_fold(graph), *SPOILT[case]))
    with pytest.raises(BbgError, match=r"engine and torch differ by .* nothing was written"):
        bbg.convert(network(), path, EXAMPLE)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_departures_are_counted_by_image() -> None:
    """The first of two layers departs on image 1 only; on image 2 the second does."""
    torch.manual_seed(0)
    model = nn.Sequential(BinaryConv2d(3, 3, 1), BinaryConv2d(3, 2, 1)).requires_grad_(False)
    images = torch.randn(3, 3, 4, 4)
    lowered = trace.lower_network(model, images[:1])
    values = check.by_steps(lowered, images)
    free = {name: value.clone() for name, value in values.items()}
    assert check.departures(lowered, lowered.graph, values, free) == []
    values["0.sign"][1, 0, 0, 0] *= -1
    values["1.sign"][1:, 1, 2, 2] *= -1
    given = check.departures(lowered, lowered.graph, values, free)
    at_first = [images[1, 0, 0, 0].abs() / images.abs().max(), values["0"][2, 1, 2, 2].abs() / values["0"].abs().max()]
    assert given == pytest.approx([float(v) for v in at_first])


def test_bits_may_differ_only_near_their_threshold() -> None:
    """The judge by itself: x is 2e-6, 2e-3 and 1 from its threshold, and the engine says the opposite each time."""
    values = {
        "input": torch.tensor([0.5 + 2e-6, 0.5 + 2e-3, 1.5]).reshape(1, 3, 1, 1),
        "0.sign": -torch.ones(1, 3, 1, 1),
    }
    layer = BinaryConv2d(3, 2, 1, method=SHIFTED)
    nn.init.constant_(layer.activation_binarizer.threshold, 0.5)
    lowered = trace.lower_network(nn.Sequential(layer).requires_grad_(False), torch.randn(1, 3, 1, 1))
    found = next(check.judge(lowered, replace(lowered.graph, ops=lowered.graph.ops[:1]), values))
    assert (found.ties, found.wrong) == (1, 2)
