"""`bbg.convert`: the networks of the package, what is refused and how, the law, and the report."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import bbg
from bbg import BbgError
from bbg.conversion import verify
from bbg.conversion.lowering import lower_network
from bbg.conversion.oracle import run_free
from bbg.conversion.passes import fold_graph
from bbg.graph import Graph
from bbg.graph import file as packed
from bbg.graph.file import read
from bbg.layers import BinaryConv2d
from bbg.methods import METHODS, Method
from bbg.planning.costs import record
from cases.random_networks import SHIFTED

package = import_module("bbg.conversion")
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


OTHERS = [name for name in bbg.list_models() if name not in NETWORKS and not name.startswith("ssd")]


@pytest.mark.parametrize("name", OTHERS)
def test_every_other_network_converts(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, images = bbg.create(name, num_classes=4, width=4), torch.randn(2, 3, 32, 32)
    record(model, images)
    report = bbg.convert(model, tmp_path / "net.bbg", images)
    assert report.difference <= 1e-5
    assert read(tmp_path / "net.bbg").head is not None


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
    assert report.agreement.divergence <= 1e-5
    if not report.agreement.diverged:
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
        assert text in report._repr_html_()
    assert report._repr_html_().count("<tr>") == len(report.parts) + 2, "the headings, and the total"
    assert asdict(report)["agreement"]["top1"] == report.agreement.top1
    assert bbg.load(path).labels == ("a", "b", "c", "d")
    narrow = bbg.convert(model, path, EXAMPLE, preprocess=preprocess, edges="int8")
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


# ---- arguments -------------------------------------------------------------------------------------------------------


ARGUMENTS: dict[str, tuple[dict[str, object], str]] = {
    "head unknown": ({"head": 5}, "head is 5, allowed are 'auto', 'classification', 'segmentation', None"),
    "edges unknown": ({"edges": "fp16"}, "edges is 'fp16', allowed are int8, fp32"),
    "no tensor": ({"example": [1.0]}, "list; give a batch"),
    "integers": ({"example": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)}, "uint8"),
    "one image": ({"example": torch.zeros(3, 8, 8)}, r"\[3, 8, 8\]"),
    "no image": ({"example": torch.zeros(0, 3, 8, 8)}, r"\[0, 3, 8, 8\]"),
    "not finite": ({"example": torch.full((1, 3, 8, 8), float("inf"))}, "not finite"),
    "other channels": ({"example": torch.zeros(1, 4, 16, 16)}, r"cannot run on an example .*\[2, 4, 16, 16\]"),
    "labels": ({"labels": ["a"]}, "1 labels for 4 classes"),
    "preset": ({"preprocess": "mnist"}, "unknown preprocessing 'mnist'"),
    "size": ({"preprocess": "cifar10"}, r"\[3, 32, 32\]"),
    "a list as a note": ({"provenance": {"x": [1]}}, r"note 'x' of the provenance is \[1\], it must be a text or"),
    "a truth as a note": (
        {"provenance": {"x": np.bool_(True)}},
        "note 'x' of the provenance is True, it must be",
    ),
    "notes without names": ({"provenance": ["x"]}, "provenance is a list; give texts and numbers by name"),
    "a set of labels": ({"labels": {"a", "b", "c", "d"}}, "labels are a set; give the names in the order"),
    "a word of labels": ({"labels": "abcd"}, "labels are a str"),
    "labels as they come": ({"labels": map(str, range(4))}, "labels are a map"),
    "labels of bytes": ({"labels": [b"a", b"b", b"c", b"d"]}, "names are texts"),
    "labels with their numbers": ({"labels": {"a": 0, "b": 1, "c": 2, "d": 3}}, "labels are a dict"),
}


def test_numbers_of_numpy_and_torch_are_numbers(tmp_path: Path) -> None:
    notes = {"accuracy": np.float32(0.5), "epochs": torch.tensor(3), "seed": np.int64(1)}
    bbg.convert(network(), tmp_path / "n", EXAMPLE, labels=np.arange(4), provenance=notes)
    found = packed.read(tmp_path / "n")
    assert found.labels == ("0", "1", "2", "3")
    assert {name: found.provenance[name] for name in notes} == {"accuracy": 0.5, "epochs": 3, "seed": 1}
    assert bbg.load(tmp_path / "n", threads=np.int64(1)).labels == found.labels


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments(case: str, tmp_path: Path) -> None:
    arguments, words = ARGUMENTS[case]
    with pytest.raises(BbgError, match=words):
        bbg.convert(network(), tmp_path / "net.bbg", **{"example": EXAMPLE, **arguments})
    assert not list(tmp_path.iterdir())


def test_no_path() -> None:
    with pytest.raises(BbgError, match="path is a NoneType, it must be where the packed file is to be written"):
        bbg.convert(network(), None, EXAMPLE)  # type: ignore[arg-type]


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


def test_divergence_is_counted_by_image() -> None:
    """The first of two layers diverges on image 1 only; on image 2 the second does."""
    torch.manual_seed(0)
    model = nn.Sequential(BinaryConv2d(3, 3, 1), BinaryConv2d(3, 2, 1)).requires_grad_(False)
    images = torch.randn(3, 3, 4, 4)
    lowered = lower_network(model, images[:1])
    values = run_free(lowered.oracle, {"input": images})
    free = {name: value.clone() for name, value in values.items()}
    assert verify.diverged(lowered, lowered.graph, values, free) == []
    values["0.sign"][1, 0, 0, 0] *= -1
    values["1.sign"][1:, 1, 2, 2] *= -1
    given = verify.diverged(lowered, lowered.graph, values, free)
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
    lowered = lower_network(nn.Sequential(layer).requires_grad_(False), torch.randn(1, 3, 1, 1))
    free = run_free(lowered.oracle, {"input": values["input"]})
    sign = replace(lowered.graph, ops=lowered.graph.ops[:1])
    (found,) = verify.compare_layers(lowered, sign, values, free)
    assert (found.ties, found.wrong) == (1, 2)


def test_a_sum_of_large_numbers_is_judged_by_them(tmp_path: Path) -> None:
    """A batch norm takes away nearly all that it is given: what is left has the rounding of what was there."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), BinaryConv2d(8, 6, 1), nn.BatchNorm2d(6), nn.ReLU()).eval()
    model.requires_grad_(False)
    images = torch.randn(4, 3, 6, 6)
    nn.init.constant_(model[0].bias, 50.0)  # every sign is +1, so each channel is one number
    norm = model[2]
    norm.running_mean = model[1](model[0](images))[0, :, 0, 0] * (1 + 1e-6)
    norm.running_var = torch.full((6,), 1e-12)
    largest = float(model(images).abs().max())
    assert largest < 1e-5 * float((norm.running_mean / norm.eps**0.5).abs().max())
    bbg.convert(model, tmp_path / "x.bbg", images)
    lowered = lower_network(model, images[:1])
    graph, free = fold_graph(lowered.graph), run_free(lowered.oracle, {"input": images})
    last = graph.ops[-1].real
    assert last is not None
    values = {name: free[name].clone() for name in ("input", *(v for op in graph.ops for v in op.written))}
    terms = verify.Terms(lowered.graph, values).of(last)
    assert torch.allclose(terms, (norm.running_mean / norm.eps**0.5).abs(), rtol=1e-2)
    values[last] += 1e-4 * terms[:, None, None]
    *_, found = verify.compare_layers(lowered, graph, values, free)
    assert found.difference == pytest.approx(1e-4, rel=0.1)


def test_a_mean_of_numbers_that_cancel_is_judged_by_them(tmp_path: Path) -> None:
    images = 1000 * torch.randn(4, 3, 32, 32)
    images -= images.mean((2, 3), keepdim=True)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert float(model(images).abs().max()) < 1e-3
    bbg.convert(model, tmp_path / "x.bbg", images)
    given = bbg.load(tmp_path / "x.bbg")(images.numpy())
    assert np.abs(given - model(images).numpy()).max() < 1e-6 * float(images.abs().max())
