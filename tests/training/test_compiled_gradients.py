"""The gradients of compiled units, in numbers: in float32 beside float64, with bf16 autocast beside float32.

Torch 2.14 compiled a unit of stride 2 with 32 to 64 channels to one whose gradients in bf16 were wrong by as much as
their own size: its PReLU had rounded the real-valued stream to bf16.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from bbg.layers import Unit
from bbg.methods import get

torch.set_num_threads(1)

IMAGES, SIDE = 32, 32


def gradients(run: nn.Module, unit: nn.Module, dtype: torch.dtype, bf16: bool = False) -> dict[str, Tensor]:
    """The gradients of a weighted sum of the outputs for drawn inputs, by parameter."""
    draws = torch.Generator().manual_seed(1)
    x, weights = (torch.randn(IMAGES, c, s, s, generator=draws) for c, s in ((32, SIDE), (64, SIDE // 2)))
    unit.zero_grad()
    given = x.to(dtype, memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        y = run(given)
    (y.to(dtype) * weights.to(dtype)).sum().backward()
    assert given.grad is not None
    found = {name: p.grad for name, p in unit.named_parameters() if p.grad is not None}
    return {"input": given.grad, **found}


@pytest.mark.parametrize(
    "method", ["bbg", *(pytest.param(name, marks=pytest.mark.slow) for name in ("reactnet", "irnet"))]
)
def test_compiled_units_learn_as_the_formula_says(method: str) -> None:
    torch.manual_seed(0)
    unit = Unit.build(32, 64, 3, stride=2, padding=1, method=get(method), act="rprelu")
    unit = unit.to(memory_format=torch.channels_last).train()
    torch.compiler.reset()
    compiled = torch.compile(unit, dynamic=False)
    exact = gradients(twin := copy.deepcopy(unit).double(), twin, torch.float64)
    float32 = gradients(compiled, unit, torch.float32)
    bf16 = gradients(compiled, unit, torch.float32, bf16=True)
    assert exact.keys() == float32.keys() == bf16.keys()
    for name, wanted in exact.items():
        assert float((float32[name] - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max()), name
        # 2^-8 is the rounding of one bf16 number; here the products' inputs and the outputs' gradients are rounded.
        assert float((bf16[name] - wanted).norm()) <= 0.05 * float(wanted.norm()), name
