"""Lowering rules of softmax and log-softmax: over the channels of each pixel, and over branches."""

from __future__ import annotations

from functools import reduce

import torch
from torch import nn

from bbg.conversion.builder import MOST_PARTS, Builder
from bbg.conversion.rules.elementwise import add, mul, sub
from bbg.conversion.rules.registry import lowers
from bbg.conversion.views import TracedTensor


@lowers(nn.Softmax, nn.LogSoftmax, nn.Softmax2d)
def softmax(builder: Builder, layer: nn.Softmax | nn.LogSoftmax | nn.Softmax2d, x: TracedTensor) -> TracedTensor:
    """Softmax over the channels -> softmax, log_softmax; over branches -> differences, made shares by unary ops."""
    x = builder.in_channel_order(x)
    dim = -3 if isinstance(layer, nn.Softmax2d) else layer.dim
    if dim is None:
        raise builder.error("names no axis; give it dim=1")
    ndim = x.tensor.ndim
    kind = "log_softmax" if isinstance(layer, nn.LogSoftmax) else "softmax"
    axes = x.axes
    if dim % ndim and x.indices.shape[dim % ndim - 1] == 1:  # one number has the whole share
        return add(builder, mul(builder, x, 0.0), 1.0 if kind == "softmax" else 0.0)
    if axes is not None and dim % ndim and axes[dim % ndim - 1] == 0:
        return builder.add(kind, (x,), layer)
    if kind == "softmax" and dim % ndim and axes is None:
        return _over_branches(builder, x, dim % ndim - 1)
    raise builder.error(
        f"its axis {dim} of {x.describe()} is none of channels; take it over the channels", of_input=True
    )


def _over_branches(builder: Builder, x: TracedTensor, axis: int) -> TracedTensor:
    """Share i is `1 / sum_j exp(x_j - x_i)`; of two branches it is `sigmoid(x_i - x_j)`."""
    branches = [builder.materialize(x.with_layout(layout)) for layout in x.indices.unbind(axis)]
    if len(branches) > MOST_PARTS:
        raise builder.error(f"it has {len(branches)} branches; use at most {MOST_PARTS}")
    shares = []
    for own in branches:
        above = [sub(builder, other, own) for other in branches if other is not own]
        if len(above) == 1:
            share = sub(builder, own, next(other for other in branches if other is not own))
            shares.append(builder.add("unary", (share,), torch.sigmoid, suffix=".share", function="sigmoid"))
            continue
        parts = [builder.add("unary", (other,), torch.exp, suffix=".part", function="exp") for other in above]
        total = add(builder, reduce(lambda a, b: add(builder, a, b), parts), 1.0)
        shares.append(builder.add("unary", (total,), torch.reciprocal, suffix=".share", function="reciprocal"))
    whole = tuple(TracedTensor(share.name, share.value) for share in shares)
    joined = builder.add("concat", whole, lambda *given: torch.cat(given, 1))
    layouts = [share.indices + i * share.numbers for i, share in enumerate(shares)]
    return joined.with_layout(torch.stack(layouts, axis))
