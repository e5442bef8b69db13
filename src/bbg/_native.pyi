"""The native engine (native/python.cpp). Failures are ValueError; `bbg.engine` raises them as BbgError."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

def kernel_sets() -> list[tuple[str, bool]]:
    """Names of the kernel sets, best first, and whether this machine runs them."""

def roofline(kernel_set: str) -> float:
    """GMAC/s of the plain xor, popcount and addition loop with this set's instructions, measured now on this thread."""

def choose(name: str | None) -> str:
    """The kernel set of an engine that is asked for by `name` (None: what BBG_ISA says, else the best)."""

def kinds() -> dict[str, dict[str, Any]]:
    """The table of op kinds, by name in order: main, operands (0: two or more), attributes, required and optional
    tensors, epilogue, shortcut, real_output, weight.
    """

def functions() -> list[str]:
    """Names of the scalar functions of the kind "unary"."""

def epilogue() -> list[str]:
    """Names of the parameters of the epilogue, in order."""

def attributes() -> dict[str, str]:
    """The form of each attribute."""

class Graph:
    """A builder: ops are added in execution order and checked one by one. Arrays are kept, not copied."""

    def __init__(self, input: str, bytes: bool, channels: int, height: int, width: int) -> None: ...
    def add(
        self,
        name: str,
        kind: str,
        operands: Sequence[str],
        shortcut: str | None,
        real: str | None,
        bits: str | None,
        bytes: str | None,
        attributes: Mapping[str, Any],
        tensors: Mapping[str, np.ndarray],
        low: float | None,
        high: float | None,
    ) -> None:
        """`tensors`: weight, acc_threshold, tap_bias, and_mask, index, and each epilogue parameter by its name."""
    def output(self, parts: Sequence[tuple[str, str]], shape: Sequence[int]) -> None:
        """`parts`: a value and the order of its axes each, such as "CHW"; they are joined and reshaped."""

class Engine:
    """A graph lowered for one kernel set (`isa` None: what BBG_ISA says, else the best).

    A byte of channel c of an image stands for the number `scale[c] * byte + bias[c]`; both are empty where that is
    unknown: then the input must have the graph's type.
    """

    def __init__(
        self, graph: Graph, isa: str | None, threads: int, scale: Sequence[float], bias: Sequence[float]
    ) -> None: ...
    @property
    def isa(self) -> str: ...
    @property
    def bytes(self) -> tuple[int, int]:
        """Bytes of constants and of the workspace."""
    def run_floats(self, images: NDArray[np.float32]) -> list[NDArray[np.float32]]: ...
    def run_bytes(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]: ...
    def time_floats(self, images: NDArray[np.float32]) -> list[float]:
        """Seconds per op."""
    def time_bytes(self, images: NDArray[np.uint8]) -> list[float]: ...
