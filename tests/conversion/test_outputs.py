"""What a network may return: a tensor, a tuple, a list or a dict, each of whole maps in any order of axes, joined."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import bbg
from bbg import BbgError
from bbg.graph import Part
from bbg.graph.file import read
from bbg.heads import Classification
from bbg.layers import Unit
from bench.generality import tensors
from cases.functional import Functional

torch.set_num_threads(1)  # small maps
EXAMPLE = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
CLASSES = 5


class Detector(nn.Module):
    """Six maps of a binary backbone, each with a head for boxes and one for scores, for 2 or 3 anchors per pixel."""

    def __init__(self, anchors: tuple[int, ...] = (2, 3, 3, 2, 3, 2)) -> None:
        super().__init__()
        widths = (8, 8, 16, 16, 8, 8)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        pairs = zip((8, *widths[:-1]), widths, (1, 2, 2, 2, 2, 2), strict=True)
        self.stages = nn.ModuleList(Unit.build(i, o, 3, padding=1, stride=s, act="prelu") for i, o, s in pairs)
        heads = list(zip(widths, anchors, strict=True))
        self.boxes = nn.ModuleList(nn.Conv2d(w, 4 * a, 3, padding=1) for w, a in heads)
        self.scores = nn.ModuleList(nn.Conv2d(w, CLASSES * a, 3, padding=1) for w, a in heads)

    @staticmethod
    def joined(maps: list[Tensor], numbers: int) -> Tensor:
        """`[N, P, numbers]` of all anchors."""
        return torch.cat([m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, numbers) for m in maps], 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x, boxes, scores = self.stem(x), [], []
        for stage, box, score in zip(self.stages, self.boxes, self.scores, strict=True):
            x = stage(x)
            boxes.append(box(x))
            scores.append(score(x))
        return {"boxes": self.joined(boxes, 4), "scores": self.joined(scores, CLASSES)}


def convert(model: nn.Module, path: Path, **options: Any) -> tuple[Any, Any, Any]:
    """The report, and what engine and torch return."""
    report = bbg.convert(model, path, EXAMPLE, **options)
    assert report.difference <= 1e-5
    with torch.no_grad():
        return report, bbg.load(path)(EXAMPLE.numpy()), model.eval()(EXAMPLE)


def same(given: np.ndarray, wanted: Tensor) -> None:
    assert given.shape == tuple(wanted.shape)
    assert np.abs(given - wanted.numpy()).max() <= 1e-5 * float(wanted.abs().max())


@pytest.mark.parametrize("edges", ["fp32", "int8"])
def test_a_detector_with_heads_on_six_maps(edges: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Detector()
    report, given, wanted = convert(model, tmp_path / "net.bbg", edges=edges, preprocess=bbg.Preprocess(32))
    assert list(given) == ["boxes", "scores"]
    positions = 2 * 1024 + 3 * 256 + 3 * 64 + 2 * 16 + 3 * 4 + 2
    assert given["boxes"].shape == (4, positions, 4)
    assert given["scores"].shape == (4, positions, CLASSES)
    assert report.agreement.top1 is None
    assert report.agreement.divergence <= 1e-5
    if edges == "fp32" and not report.agreement.diverged:
        for name in wanted:
            same(given[name], wanted[name])
    graph = read(tmp_path / "net.bbg").graph
    assert not [op.kind for op in graph.ops if op.kind in ("concat", "select")]
    orders = ["HWC"] * 5 + ["CHW"]  # the last map is of one pixel
    assert graph.outputs[0].parts == tuple(Part(f"boxes.{i}", order) for i, order in enumerate(orders))


def heads(x: Tensor, c: nn.Module) -> tuple[Tensor, Tensor]:
    y = c(x)
    return y, y.mean((2, 3))


def last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def pair(x: Tensor) -> Tensor:
    """A join of one map with itself, as it is and with its channels last."""
    return torch.cat([x.flatten(1), last(x).flatten(1)], 1)


def pixels(x: Tensor) -> Tensor:
    """`[N, H*W, C]`."""
    return last(x).flatten(1, 2)


RETURNS: dict[str, tuple[Callable[..., Any], str]] = {
    "a tuple": (lambda x, c: heads(x, c), "tuple"),
    "a list": (lambda x, c: list(heads(x, c)), "list"),
    "a tuple of one": (lambda x, c: (c(x),), "tuple"),
    "a dict": (lambda x, c: dict(zip("ab", heads(x, c), strict=True)), "dict"),
    "a dict of one": (lambda x, c: {"map": c(x)}, "dict"),
    "channels last": (lambda x, c: last(c(x)), "tensor"),
    "channels last, flat": (lambda x, c: last(c(x)).flatten(1), "tensor"),
    "a transposed map": (lambda x, c: c(x).transpose(2, 3), "tensor"),
    "all axes in another order": (lambda x, c: c(x).permute(0, 3, 1, 2), "tensor"),
    "pixels as tokens": (lambda x, c: c(x).flatten(2).transpose(1, 2), "tensor"),
    "another shape": (lambda x, c: c(x).view(-1, 2, 2, 32, 16, 2), "tensor"),
    "some channels, last": (lambda x, c: last(c(x))[..., 1:3], "tensor"),
    "some channels per anchor": (lambda x, c: last(c(x)).unflatten(3, (2, 2))[..., :1], "tensor"),
    "shuffled channels": (lambda x, c: c(x)[:, [2, 0, 3, 1]], "tensor"),
    "one value twice": (lambda x, c: (lambda y: (y, last(y), y.flatten(1)))(c(x)), "tuple"),
    "half a map": (lambda x, c: c(x)[:, :, :16], "tensor"),
    "half a map, channels last": (lambda x, c: {"y": last(c(x))[:, ::2]}, "dict"),
    "a layer behind a slice": (lambda x, c: c(c(x)[:, :3]), "tensor"),
    "flat maps joined": (lambda x, c: torch.cat([c(x).flatten(1), x.mean((2, 3)), last(c(x)).flatten(1)], 1), "tensor"),
    "joins joined": (lambda x, c: (lambda y: torch.cat([torch.cat([y, y], 1), y], 1))(pixels(c(x))), "tensor"),
    "a join in another shape": (lambda x, c: pair(c(x)).view(-1, 2, 4, 1024), "tensor"),
    "a part of a join": (lambda x, c: torch.cat([c(x).flatten(1), x.mean((2, 3))], 1)[:, :4096], "tensor"),
    "a copy of a join": (lambda x, c: pair(c(x)).float().contiguous().clone(), "tensor"),
    "rows of one-channel maps": (lambda x, c: torch.cat([c(x)[:, :1], c(x)[:, 1:2]], 2), "tensor"),
    "channels joined": (lambda x, c: torch.cat([c(x), x], 1), "tensor"),
    "a join and its part": (
        lambda x, c: (lambda y: {"all": torch.cat([y.flatten(1), (x + 1).flatten(1)], 1), "map": y})(c(x)),
        "dict",
    ),
}


@pytest.mark.parametrize("case", RETURNS)
def test_what_a_network_returns(case: str, tmp_path: Path) -> None:
    function, structure = RETURNS[case]
    torch.manual_seed(0)
    _, given, wanted = convert(Functional(function, nn.Conv2d(3, 4, 3, padding=1)), tmp_path / "net.bbg")
    assert read(tmp_path / "net.bbg").graph.structure == structure
    if structure == "tensor":
        same(given, wanted)
    elif structure == "dict":
        assert list(given) == list(wanted)
        for name in wanted:
            same(given[name], wanted[name])
    else:
        assert type(given).__name__ == structure
        for one, other in zip(given, wanted, strict=True):
            same(one, other)


HEADS: dict[str, tuple[Callable[..., Any], list[str] | None, bool]] = {
    "scores": (lambda x, c: c(x).mean((2, 3)), None, True),
    "scores with labels": (lambda x, c: c(x).mean((2, 3)), list("abcd"), True),
    "scores of one pixel": (lambda x, c: c(x).mean((2, 3), keepdim=True), None, True),
    "a map": (lambda x, c: c(x), None, False),
    "a map with labels": (lambda x, c: c(x)[:, :1].mean((2, 3), keepdim=True).flatten(2), ["a"], True),
    "scores in a dict": (lambda x, c: {"scores": c(x).mean((2, 3))}, list("abcd"), False),
}


@pytest.mark.parametrize("case", HEADS)
def test_one_score_per_class_is_a_classification(case: str, tmp_path: Path) -> None:
    function, labels, is_classification = HEADS[case]
    model = Functional(function, nn.Conv2d(3, 4, 3, padding=1))
    convert(model, tmp_path / "net.bbg", labels=labels, preprocess=bbg.Preprocess(32))
    engine = bbg.load(tmp_path / "net.bbg")
    assert (engine.head is not None) == is_classification
    image = np.zeros((32, 32, 3), np.uint8)
    if is_classification:
        assert engine.predict(image)[0].label in (labels or "0123")
    else:
        with pytest.raises(BbgError, match="without a head"):
            engine.predict(image)


def test_the_head_is_the_one_that_is_given(tmp_path: Path) -> None:
    path, scores = tmp_path / "net.bbg", Functional(lambda x, c: c(x).mean((2, 3)), nn.Conv2d(3, 4, 3, padding=1))
    bbg.convert(scores, path, EXAMPLE, labels=list("abcd"), head=None)
    assert (read(path).head, read(path).labels) == (None, tuple("abcd"))
    bbg.convert(scores, path, EXAMPLE, head=Classification())
    assert read(path).head == Classification()
    bbg.convert(scores, path, EXAMPLE, head="classification")
    assert read(path).head == Classification()
    with pytest.raises(
        BbgError, match="head is 'classify', allowed are 'auto', 'classification', 'segmentation', None"
    ):
        bbg.convert(scores, path, EXAMPLE, head="classify")
    two = Functional(lambda x, c: (c(x), c(x)), nn.Conv2d(3, 4, 3, padding=1))
    with pytest.raises(BbgError, match="the head is a classification, which needs one output"):
        bbg.convert(two, path, EXAMPLE, head=Classification())


NESTED: dict[str, tuple[Callable[..., Any], list[str]]] = {
    "a tuple in a dict": (lambda x, c: {"heads": (c(x), -x), "map": c(x)}, ["heads.0", "heads.1", "map"]),
    "a list in a list": (lambda x, c: [c(x), [-x]], ["0", "1.0"]),
    "dicts in a list": (lambda x, c: [{"a": c(x), "b": -x}, {"a": c(-x)}], ["0.a", "0.b", "1.a"]),
    "nothing for a name": (lambda x, c: {"out": c(x), "aux": None}, ["out"]),
    "nothing first": (lambda x, c: (None, c(x)), ["1"]),
    "numbers as names": (lambda x, c: {3: c(x), 5: -x}, ["3", "5"]),
}


@pytest.mark.parametrize("case", NESTED)
def test_nested_returns_have_names_with_points(case: str, tmp_path: Path) -> None:
    function, names = NESTED[case]
    network = Functional(function, nn.Conv2d(3, 4, 3, padding=1))
    bbg.convert(network, tmp_path / "net.bbg", EXAMPLE)
    given = bbg.load(tmp_path / "net.bbg")(EXAMPLE.numpy())
    with torch.no_grad():
        wanted = list(tensors(network(EXAMPLE)))
    assert isinstance(given, dict)
    assert list(given) == names
    for y, w in zip(given.values(), wanted, strict=True):
        assert abs(y - w.numpy()).max() <= 1e-5 * float(w.abs().max())


REFUSED: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "a name twice": (lambda x, c: {"a": [c(x)], "a.0": x}, ("two tensors named 'a.0'", "of tensors")),
    "a number": (lambda x, c: (c(x), 1.0), ("a float as '1'",)),
    "a number in a list": (lambda x, c: {"a": [c(x), 1.0]}, ("a float as 'a.1'",)),
    "names that are no strings": (lambda x, c: {(0, 1): c(x)}, ("(0, 1) is no name",)),
    "no tensor": (lambda x, c: None, ("returns nothing", "must return a tensor")),
    "nothing": (lambda x, c: (), ("returns nothing",)),
    "a constant": (lambda x, c: (c(x), torch.ones(2, 3)), ("output '1'", "does not depend on the images")),
    "some numbers": (lambda x, c: c(x).flatten(1)[:, 5:], ("the output", "[N, 4091]", "whole channels")),
    "rows joined": (
        lambda x, c: torch.cat([c(x), c(x)], 2),
        ("the output", "'cat'", "[N, 4, 64, 32]", "return whole channels of maps"),
    ),
    "numbers in turn": (
        lambda x, c: {"y": torch.cat([pixels(c(x)), pixels(c(x))], 2)},
        ("y", "'cat'", "return whole channels of maps"),
    ),
    "images joined": (lambda x, c: torch.cat([c(x), c(x)]), ("cat (Functional)", "join along another axis")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_returns_that_are_refused(case: str, tmp_path: Path) -> None:
    function, words = REFUSED[case]
    with pytest.raises(BbgError) as error:
        bbg.convert(Functional(function, nn.Conv2d(3, 4, 3, padding=1)), tmp_path / "net.bbg", EXAMPLE)
    for word in words:
        assert word in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_convolution_reads_no_join(tmp_path: Path) -> None:
    model = Functional(lambda x, c: c(torch.cat([x, x], 2)), nn.Conv2d(3, 4, 3, padding=1))
    with pytest.raises(BbgError, match=r"layers\.0 \(Conv2d\) at .*: its input is a map .* give it whole channels"):
        bbg.convert(model, tmp_path / "net.bbg", EXAMPLE)
