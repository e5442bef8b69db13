"""The real-valued twin, which every binary method is compared with: `y = relu(BN(conv(x, w)) + shortcut(x))`.

Topology and widths are those of the binary networks, with plain convolutions; the shortcut has no gate (as in ResNet,
arXiv 1512.03385, but around every convolution).
"""

from __future__ import annotations

from bbg.methods.base import Method

FLOAT = Method("float", None, None, shortcut="fixed", act="relu")
