"""Words that the rooms of the graph share: what a value is, and what an op carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

Type = Literal["real", "bits", "bytes"]  # float32, signs, integers from 0 to 255
Shape = tuple[int, int, int]  # channels, height, width of one image
Attributes = Mapping[str, Any]
Tensors = Mapping[str, np.ndarray]

LIMIT = 2**31  # numbers in one value of one image, and in one weight
