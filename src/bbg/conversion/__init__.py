"""Conversion: a trained torch network becomes a packed file that the engine runs at 1 bit.

    report = bbg.convert(model, "net.bbg", example, preprocess="cifar10", labels=classes)
    print(report)

`bbg.check(model, example)` says beforehand whether that will go. In order: trace.py (the network as a torch.fx graph),
lowering.py and rules/ (from its nodes to ops), passes/ (from many ops to few), 8-bit edges (ranges.py, quantize.py,
edges.py), verify.py (the engine against torch), report.py.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

import bbg.conversion.rules  # noqa: F401  (registers the rules)
from bbg._version import __version__
from bbg.conversion.checked import Checked, check
from bbg.conversion.edges import byte_edges
from bbg.conversion.given import float32_copy, images_of
from bbg.conversion.lowering import lower_network
from bbg.conversion.passes import fold_graph
from bbg.conversion.quantize import byte_sources, read_pixels
from bbg.conversion.ranges import Calibration, Ranges, calibration_images, measure
from bbg.conversion.report import Edges, Part, Report, parts
from bbg.conversion.verify import EndToEnd, LayerCheck, verify_network
from bbg.errors import BbgError
from bbg.graph import Graph
from bbg.graph.file import PackedModel, encode, write
from bbg.heads import HEADS, KEYS, Classification, Detection, Head, Segmentation
from bbg.image import Preprocess, plain
from bbg.log import LOGGER
from bbg.tracing.neutral import single_threaded

__all__ = [
    "Calibration",
    "Checked",
    "Edges",
    "EndToEnd",
    "LayerCheck",
    "Part",
    "Ranges",
    "Report",
    "check",
    "convert",
    "record_ranges",
]

EDGES = ("int8", "fp32")

CHECKED = 32  # images on which the layers are compared

NAMED = {name: head for name, head in HEADS.items() if name not in KEYS}  # heads that need no more than a name


def convert(
    model: nn.Module,
    path: str | os.PathLike[str],
    example: Tensor,
    *,
    calibration: Calibration | None = None,
    edges: str | None = None,
    preprocess: Preprocess | str | None = None,
    labels: Sequence[str] | None = None,
    provenance: Mapping[str, str | int | float] | None = None,
    head: Head | str | None = "auto",
) -> Report:
    """Write `model` as a packed file to `path`, checked against torch on `example`, float `[N, C, H, W]`, normalised.

    The model stays as it is; conversion works on a copy in float32 on the CPU, in evaluation mode.

    `edges`: precision of the convolutions and linear layers that are not binary, "fp32" or "int8", which rounds their
    weights and inputs to 8 bits. None: "int8" where `preprocess` is given and the network has binary layers, but none
    that were trained in 8 bits, else "fp32". To round an input takes its range. That of pixels is known; others come
    from `calibration`: training images (a data set, a folder, uint8 `[N, H, W, C]`, normalised float32 `[N, C, H, W]`;
    some hundred), of which every fifth judges the ranges of the others, or the `Ranges` that a training recorded,
    judged on `example`. Where no range is known, the layer stays in float32, and the report says so. "int8" without
    `calibration` takes them from `example`: file and report call them unverified then, since they are wrong where the
    example is not like the images to come. Layers that were trained in 8 bits (`bbg.layers.ByteConv2d`) have ranges of
    their own, and become bytes in any case.

    `preprocess`: how images become inputs, or the name of a preset. `labels`: a name per class. `provenance`: notes for
    people (recipe, accuracy). `head`: what the outputs mean, which `Engine.predict` applies: "classification",
    "segmentation", a `bbg.heads.Detection(levels)`, or None; "auto": that of a detector of bbg (its attribute
    `detection`), a classification where the network returns one score per class, a segmentation where it returns one
    map `[N, C, H, W]` for each of C labels, else None. The network may also return a tuple, list or dict of tensors, or
    these nested (`{"maps": [x, y]}` has the outputs "maps.0" and "maps.1"). The same model gives the same bytes.

    Raises BbgError, leaving any older file untouched: for a layer without a rule (named), numbers that
    are not finite, labels or preprocessing that do not fit, a calibration whose numbers no normalised pixels can be, a
    layer on which engine and torch differ by more than 1e-5 of its largest value, and a path that cannot be written.
    """
    if head not in ("auto", None, *NAMED) and not isinstance(head, tuple(HEADS.values())):
        names = ", ".join(map(repr, NAMED))
        raise BbgError(f"head is {head!r}, allowed are 'auto', {names}, None and a head of bbg.heads")
    if not isinstance(path, (str, os.PathLike)):
        raise BbgError(f"path is a {type(path).__name__}, it must be where the packed file is to be written")
    if edges not in (None, *EDGES):
        raise BbgError(f"edges is {edges!r}, allowed are {', '.join(EDGES)}")
    provenance = {} if provenance is None else provenance
    if not isinstance(provenance, Mapping):
        raise BbgError(f"provenance is a {type(provenance).__name__}; give texts and numbers by name, a dict")
    with single_threaded():
        images = images_of(example)
        network = float32_copy(model)
        lowered = lower_network(network, images[:2])
        stated = {name: plain(note) for name, note in provenance.items()}
        notes = {"bbg": __version__, "torch": str(torch.__version__), **stated}
        graph = fold_graph(lowered.graph)
        packed = PackedModel(
            graph,
            None if preprocess is None else Preprocess.of(preprocess),
            None if labels is None else _names(labels),
            notes,
            _head(model, graph, labels, head),
        )
        packed.check()
        lowered, graph = read_pixels(lowered, graph, packed.preprocess)
        packed = replace(packed, graph=graph)
        exact, edged = packed, None
        if edges == "int8" or (edges is None and preprocess is not None and is_binary(graph) and not is_mixed(graph)):
            edged = byte_edges(lowered, packed, calibration, images, obeyed=edges == "int8")
            ranges = {"ranges": str(edged.ranges)} if edged.quantized.quants else {}
            packed = replace(packed, graph=edged.quantized.graph, provenance={**notes, **ranges})
        found = verify_network(lowered if edged is None else edged.quantized.lowered, packed, images, checked=CHECKED)
        cost = None if edged is None else edged.judge(lowered, graph, found.engine, len(encode(exact)))
    size = write(path, packed)
    real = () if edged is None else edged.quantized.real
    layers = parts(network, packed, lowered.layers, size)
    report = Report(os.fspath(path), layers, found.layers, found.end_to_end, cost, real)
    for warning in report.warnings:
        LOGGER.warning("%s: %s", report.path, warning)
    return report


def record_ranges(model: nn.Module, images: Calibration, preprocess: Preprocess | str | None = None) -> Ranges:
    """The ranges of what would become bytes in `model`, on training `images`: what `convert` takes as `calibration`.

    A training calls it behind its last epoch, and its checkpoint keeps them. `preprocess`: how images become inputs.
    Raises BbgError as `check` does, and for images that do not fit the network.
    """
    how = None if preprocess is None else Preprocess.of(preprocess)
    with single_threaded():
        network = float32_copy(model)
        given = calibration_images(images, how)
        lowered = lower_network(network, given[:2])
        graph = fold_graph(lowered.graph)
        ranges, _ = measure(lowered, graph, byte_sources(graph, how), given, "training")
    return ranges


def is_binary(graph: Graph) -> bool:
    """Whether anything in the network is computed at 1 bit."""
    return any(op.kind == "binary_conv" for op in graph.ops)


def is_mixed(graph: Graph) -> bool:
    """Whether layers were trained in 8 bits: then each layer has the width that was chosen for it."""
    return any(op.kind == "byte_conv" for op in graph.ops)


def _names(labels: Any) -> tuple[str, ...]:
    if isinstance(labels, (str, bytes)) or not isinstance(plain(labels), (list, tuple)):
        raise BbgError(f"labels are a {type(labels).__name__}; give the names in the order of the classes, a list")
    names = map(plain, labels)
    return tuple(str(name) if type(name) is int else name for name in names)


def _head(model: nn.Module, graph: Graph, labels: Sequence[str] | None, asked: Head | str | None) -> Head | None:
    """The head that is asked for. "auto": that of a detector of bbg; a segmentation where the network returns one map
    for each of the labels; a classification where it returns one number per class: `[N, classes]`, or a tensor with
    labels.
    """
    if asked != "auto":
        return NAMED[asked]() if isinstance(asked, str) else asked  # type: ignore[call-arg]
    if isinstance(detection := getattr(model, "detection", None), Detection):
        return detection
    shape = graph.outputs[0].shape
    if graph.structure != "tensor":
        return None
    if labels is not None and len(shape) == 3 and min(shape[1:]) > 1 and len(plain(labels)) == shape[0]:
        return Segmentation()
    return Classification() if labels is not None or math.prod(shape) == shape[0] else None
