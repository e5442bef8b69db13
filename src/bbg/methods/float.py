"""The real-valued twin: same topology and widths, plain convolutions, ReLU, shortcut without gate."""

from __future__ import annotations

from bbg.methods.base import Method

FLOAT = Method("float", None, None, shortcut="fixed", act="relu")
