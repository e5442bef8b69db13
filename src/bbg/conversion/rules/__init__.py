"""The lowering rules, one per layer, function or method, each from torch to ops of docs/format.md.

Importing this package registers them all. A rule reads the layer's parameters and forms, and knows no method's name.
Vectors stay in float64 until the passes have combined them. Every op carries the function that computes the same in
torch: the layer itself.
"""

from __future__ import annotations

from bbg.conversion.rules import (  # noqa: F401  (each registers its own)
    comparisons,
    composed,
    conv,
    elementwise,
    functional,
    norm,
    pool,
    powers,
    sequences,
    shape,
    softmax,
    transposed,
)
