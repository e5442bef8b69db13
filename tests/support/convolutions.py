"""Convolutions of all forms, as keywords of torch's layer."""

from __future__ import annotations

from typing import Any

CONVS: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
    {"kernel_size": 1},
    {"kernel_size": (5, 3), "padding": (2, 0), "stride": (1, 2)},
    {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 2},
    {"kernel_size": 7, "padding": 3, "bias": False},  # the map is smaller than the kernel
    {"kernel_size": 2, "padding": "same"},
]
