"""torch.compile leaves every binarizer as it is: the signs, and the pseudo-gradient that a training learns by.

An operation in place at the end of `_Sign` made torch 2.11 compile it without its backward: networks trained, and
reached what their real-valued layers can learn alone.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bbg.layers import BinaryConv2d
from bbg.methods import METHODS

torch.set_num_threads(1)

BINARY = [name for name, method in METHODS.items() if method.weight is not None]


def gradients(run: nn.Module, layer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The output for `x`, and the gradients of a sum with drawn weights, by name."""
    layer.zero_grad()
    given = x.clone().requires_grad_()
    y = run(given)
    (y * torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum().backward()
    found = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
    assert given.grad is not None
    return {"output": y.detach(), "input": given.grad, **found}


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_compiled_layer_learns_as_the_plain_one(name: str, precision: str) -> None:
    torch.manual_seed(0)
    layer = BinaryConv2d(4, 6, 3, padding=1, method=name)
    x = torch.randn(2, 4, 5, 5)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        torch.compiler.reset()
        compiled = torch.compile(layer, dynamic=False, backend="aot_eager", fullgraph=True)
        plain, found = gradients(layer, layer, x), gradients(compiled, layer, x)
    assert plain.keys() == found.keys()
    assert float(plain["weight"].abs().max()) > 0
    for key, value in plain.items():
        assert torch.allclose(found[key], value, rtol=1e-3, atol=1e-5 * float(value.abs().max())), key
