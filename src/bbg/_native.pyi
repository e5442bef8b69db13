"""The native engine (native/python.cpp). Failures are ValueError; `bbg.engine` raises them as BbgError."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

Attribute = tuple[int, int] | int | float | bool | str

class Kind(TypedDict):
    """A row of native/kinds.h, which `bbg.graph.kinds` mirrors. `operands` 0: two or more; `weight` "": it has none."""

    main: str
    operands: int
    attributes: list[str]
    required: list[str]
    optional: list[str]
    epilogue: list[str]
    shortcut: bool
    real_output: bool
    weight: str

def kinds() -> dict[str, Kind]:
    """The op kinds, in the order of the format."""

def attributes() -> dict[str, str]:
    """Each attribute's form: "pair of integers", "integer", "number", "boolean" or "word"."""

def epilogue() -> list[str]:
    """The epilogue parameters, in order."""

def functions() -> list[str]:
    """The functions of the kind `unary`, in order."""

def kernel_sets() -> list[tuple[str, bool]]:
    """Names of the kernel sets, best first, and whether this machine runs them."""

def choose(name: str | None) -> str:
    """The kernel set that an engine asked for by `name` gets (None: what BBG_ISA says, else the best).

    ValueError, with the sets that this machine has, where it has none of that name.
    """

def roofline(kernel_set: str) -> float:
    """GMAC/s of the plain xor, popcount and addition loop with this set's instructions, measured now on this thread."""

def detect(
    offsets: NDArray[np.float32],
    logits: NDArray[np.float32],
    priors: NDArray[np.float32],
    move: float,
    scale: float,
    score: float,
    overlap: float,
    each: int,
    most: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float64]]:
    """What `bbg.boxes.detect` gives. ValueError where an output is not finite."""

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
        attributes: Mapping[str, Attribute],
        tensors: Mapping[str, np.ndarray],
        low: float | None,
        high: float | None,
    ) -> None:
        """`tensors`: weight, acc_threshold, tap_bias, and_mask, index, and each epilogue parameter by its name."""
    def output(self, parts: Sequence[tuple[str, str]], shape: Sequence[int]) -> None:
        """Adds an output `[N, *shape]`: for each image, the numbers of its parts, one part after another.

        A part is a value and the order in which its axes are written, a permutation of "CHW" ("HWC": channels last).
        `shape`: one to six integers, whose product is the number of the parts' numbers.
        """

class Engine:
    """A graph lowered for one kernel set (`isa` None: what BBG_ISA says, else the best).

    A byte of channel c of an image stands for the number `scale[c] * byte + bias[c]`; both are empty where that is
    unknown: then the input must have the graph's type.
    """

    def __init__(
        self,
        graph: Graph,
        isa: str | None,
        threads: int,
        scale: Sequence[float],
        bias: Sequence[float],
        memory: int,
        operations: int,
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
