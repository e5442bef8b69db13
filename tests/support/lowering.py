"""What the tests of the lowering share: networks of one function, and images."""

from __future__ import annotations

import torch

from cases.functional import Functional

__all__ = ["EXAMPLE", "Functional"]

EXAMPLE = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
