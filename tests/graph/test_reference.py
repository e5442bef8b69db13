"""The oracle against PyTorch: every kind, with attributes drawn at random, and the epilogue term by term."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from bbg.graph import Graph, Op, Value, reference
from bbg.graph.formulas import filter_shape
from bbg.graph.kinds import KINDS
from cases import random_graphs

F = torch.nn.functional


def torch_conv(op: Op, x: torch.Tensor) -> torch.Tensor:
    a, weight = op.attributes, op.tensors["weight"]
    if op.kind == "binary_conv":
        words = np.ascontiguousarray(weight).view(np.uint8)
        shape = filter_shape(a, x.shape[1])
        weight = (np.unpackbits(words, axis=1, bitorder="little")[:, : np.prod(shape[1:])] * 2.0 - 1).reshape(shape)
    weight = torch.from_numpy(weight.astype(np.float64)).permute(0, 3, 1, 2)
    return F.conv2d(x, weight, None, a["stride"], a["padding"], a["dilation"], a["groups"])


def torch_max_pool(op: Op, x: torch.Tensor) -> torch.Tensor:
    a = op.attributes
    return F.max_pool2d(x, a["kernel"], a["stride"], a["padding"], a["dilation"], a["ceil_mode"])


def torch_max_pool_bits(op: Op, x: torch.Tensor) -> torch.Tensor:
    either, every = torch_max_pool(op, x), -torch_max_pool(op, -x)
    mask = np.unpackbits(op.tensors["and_mask"].view(np.uint8), bitorder="little")[: x.shape[1]]
    return torch.where(torch.from_numpy(mask[:, None, None] > 0), every, either)


def torch_avg_pool(op: Op, x: torch.Tensor) -> torch.Tensor:
    a = op.attributes
    return F.avg_pool2d(x, a["kernel"], a["stride"], a["padding"], a["ceil_mode"], a["count_include_pad"])


def torch_match_channels(op: Op, x: torch.Tensor) -> torch.Tensor:
    have, want = x.shape[1], op.attributes["channels"]
    outs = [x[:, [c % have]] if want >= have else x[:, c::want].mean(1, keepdim=True) for c in range(want)]
    return torch.cat(outs, 1)


def torch_unary(op: Op, x: torch.Tensor) -> torch.Tensor:
    function = op.attributes["function"]
    if function == "exp":
        return x.clamp(max=88).exp()
    if function in ("sqrt", "rsqrt"):
        return getattr(torch, function)(x.clamp(min=2.0**-126 if function == "rsqrt" else 0))
    if function == "softplus":
        return F.softplus(x, threshold=40)
    return getattr(torch if hasattr(torch, function) else F, function)(x)


def torch_max_channels(op: Op, x: torch.Tensor) -> torch.Tensor:
    have, want = x.shape[1], op.attributes["channels"]
    return torch.cat([x[:, c % have :: want].amax(1, keepdim=True) for c in range(want)], 1)


def torch_bilinear(op: Op, x: torch.Tensor) -> torch.Tensor:
    size, corners = op.attributes["size"], op.attributes["align_corners"]
    return F.interpolate(x.float(), size, mode="bilinear", align_corners=corners).to(x.dtype)


def torch_take(op: Op, x: torch.Tensor) -> torch.Tensor:
    rows, columns = torch.from_numpy(op.tensors["index"]).split(list(op.attributes["size"]))
    return x.index_select(2, rows).index_select(3, columns)


def torch_depth_to_space(op: Op, x: torch.Tensor) -> torch.Tensor:
    rows, columns = op.attributes["stride"]
    result = x.new_empty(len(x), x.shape[1] // (rows * columns), x.shape[2] * rows, x.shape[3] * columns)
    for phase, part in enumerate(x.chunk(rows * columns, 1)):
        result[:, :, phase // columns :: rows, phase % columns :: columns] = part
    return result


def torch_layer_norm(op: Op, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x.movedim(1, -1), x.shape[1:2], eps=op.attributes["eps"]).movedim(-1, 1)


# The accumulator column of docs/format.md, by PyTorch, in float64.
ACCUMULATORS: dict[str, Callable[..., torch.Tensor]] = {
    "conv": torch_conv,
    "byte_conv": torch_conv,
    "binary_conv": torch_conv,
    "max_pool": torch_max_pool,
    "max_pool_bits": torch_max_pool_bits,
    "avg_pool": torch_avg_pool,
    "adaptive_avg_pool": lambda op, x: F.adaptive_avg_pool2d(x, op.attributes["size"]),
    "match_channels": torch_match_channels,
    "pointwise": lambda op, x: x,
    "concat": lambda op, *operands: torch.cat(operands, 1),
    "select": lambda op, x: x.index_select(1, torch.from_numpy(op.tensors["index"])),
    "multiply": lambda op, x, factor: x * factor,
    "unary": torch_unary,
    "layer_norm": torch_layer_norm,
    "softmax": lambda op, x: x.softmax(1),
    "log_softmax": lambda op, x: x.log_softmax(1),
    "max_channels": torch_max_channels,
    "bilinear": torch_bilinear,
    "take": torch_take,
    "depth_to_space": torch_depth_to_space,
}


def torch_op(op: Op, inputs: list[torch.Tensor]) -> torch.Tensor:
    """The real value of the op, or its bits as +-1 where it has no epilogue."""
    x = inputs[0]
    acc = ACCUMULATORS[op.kind](op, *inputs[: len(op.operands)])
    if op.kind == "max_pool_bits":
        return acc
    if "acc_threshold" in op.tensors:
        return torch.where(acc >= torch.from_numpy(op.tensors["acc_threshold"])[:, None, None], 1.0, -1.0)
    row = {name: torch.from_numpy(op.parameter(name).astype(np.float64))[:, None, None] for name in op.epilogue}
    v = row.get("scale", 1) * acc + row.get("bias", 0)
    a = op.attributes
    if "shift" in row or "tap_bias" in op.tensors:
        kh, kw = a["kernel"]
        where = (None, a["stride"], a["padding"], a["dilation"])
    if "shift" in row:
        ones = torch.ones(a["channels"], x.shape[1] // a["groups"], kh, kw, dtype=x.dtype)
        v = v + row["shift"] * F.conv2d(x, ones, *where, a["groups"])
    if "tap_bias" in op.tensors:
        taps = torch.from_numpy(op.tensors["tap_bias"].astype(np.float64).T.copy()).reshape(-1, 1, kh, kw)
        v = v + F.conv2d(torch.ones_like(x[:, :1]), taps, *where)
    if op.shortcut is not None:
        v = v + row.get("gate", 1) * inputs[-1]
    one = torch.ones(())
    y = v * torch.where(v >= 0, row.get("above", one), row.get("below", one)) + row.get("offset", 0)
    low, high = op.clip
    return y if low is None and high is None else y.clamp(low, high)


def test_every_op_of_random_graphs_matches_torch() -> None:
    seen = dict.fromkeys([*KINDS, "shortcut", "shift", "tap_bias", "acc_threshold", "hinge", "bytes"], 0)
    for seed in range(350):
        graph = random_graphs.random_graph(seed)
        x, _ = random_graphs.random_input(graph, 2, np.random.default_rng(seed))
        values = reference.run(graph, x)
        for op in graph.ops:
            expected = torch_op(op, [torch.from_numpy(values[name].astype(np.float64)) for name in op.inputs]).numpy()
            if op.real is not None:
                real = values[op.real]
                assert np.abs(real - expected).max() <= 1e-6 * max(1, np.abs(expected).max()), (seed, op.name)
            if op.bits is not None:
                exact = op.real is None and (op.kind == "max_pool_bits" or "acc_threshold" in op.tensors)
                sign = (
                    0 if exact or "bit_threshold" not in op.epilogue else op.parameter("bit_threshold")[:, None, None]
                )
                sure = np.abs(expected - sign) > 1e-6 * np.abs(expected).max()
                assert np.array_equal(values[op.bits][sure], np.where(expected >= sign, 1, -1)[sure]), (seed, op.name)
            if op.bytes is not None:
                byte = reference.byte_position(op, expected)
                sure = np.abs(byte - np.floor(byte) - 0.5) > 1e-4
                assert np.array_equal(values[op.bytes][sure], byte.clip(0, 255).round()[sure]), (seed, op.name)
            seen["bytes"] += op.bytes is not None
            seen[op.kind] += 1
            for name in ("shift", "tap_bias", "acc_threshold"):
                seen[name] += name in op.epilogue or name in op.tensors
            seen["shortcut"] += op.shortcut is not None
            seen["hinge"] += "below" in op.epilogue
    assert min(seen.values()) >= 20, seen


def test_a_zero_is_plus_one_and_a_padded_tap_adds_nothing() -> None:
    weight = np.array([[0b111111111]], np.uint64)
    attributes = {"kernel": (3, 3), "padding": (3, 3), "channels": 1}
    ops = (
        Op("sign", "pointwise", ("x",), None, "b"),
        Op("conv", "binary_conv", ("b",), "y", "s", attributes, {"weight": weight}),
    )
    graph = Graph("x", (1, 1, 1), ops, ()).with_outputs(["y"])
    graph.check()
    values = reference.run(graph, np.full((1, 1, 1, 1), -0.0, np.float32))
    assert values["b"].item() == 1
    expected = np.zeros((5, 5))
    expected[1:4, 1:4] = 1
    assert np.array_equal(values["y"][0, 0], expected)
    assert (values["s"] == 1).all()


@pytest.mark.parametrize("size", range(1, 8))
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_pool_sizes_are_pytorchs(size: int, kernel: int, stride: int, ceil_mode: bool) -> None:
    x = torch.zeros(1, 1, size, size)
    for padding in range(kernel // 2 + 1):
        pairs = {"kernel": (kernel, kernel), "stride": (stride, stride), "padding": (padding, padding)}
        op = Op("p", "max_pool", ("x",), "y", attributes={**pairs, "ceil_mode": ceil_mode})
        mine = KINDS["max_pool"].shape(op.attributes, (1, size, size))
        try:
            expected = F.max_pool2d(x, kernel, stride, padding, 1, ceil_mode).shape[1:]
        except RuntimeError:
            assert min(mine) < 1
        else:
            assert mine == tuple(expected)
            assert Value("real", *mine).numbers == expected.numel()
