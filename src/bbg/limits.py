"""What a packed file may cost: a file of a few hundred bytes can ask for any amount of memory and time."""

from __future__ import annotations

from dataclasses import dataclass

from bbg.errors import BbgError

MOST = 2**62
MEGABYTE = 2**20


@dataclass(frozen=True)
class Limits:
    """What an engine may take. More is refused by `bbg.load`, before memory is taken for it.

    `memory`: bytes of the weights, tables and workspaces of one engine, and of the outputs of one image. `operations`:
    of one image; an operation is a step of a kernel for up to 16 channels, about as long as one instruction.

    None: by the bytes `w` of the file's tensors, so that whoever sends a small file gets little. Memory is 64 MiB +
    16 w, and 4096 w more up to 4 GiB; operations are 10^9 + 10^5 w. Of seven public networks at 224 x 224 pixels,
    DenseNet-121 comes nearest: it takes 1/310 of this memory and 1/14,000 of these operations.
    """

    memory: int | None = None
    operations: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("memory", self.memory), ("operations", self.operations)):
            if value is not None and (type(value) is not int or not 1 <= value <= MOST):
                raise BbgError(f"limits: {name} is {value!r}, allowed are None and integers from 1 to 2^62")

    def of(self, weights: int) -> tuple[int, int]:
        """Memory and operations for a file with so many bytes of tensors."""
        memory = 64 * MEGABYTE + 4096 * min(weights, MEGABYTE) + 16 * weights
        operations = 10**9 + 10**5 * weights
        return self.memory or memory, self.operations or operations


UNLIMITED = Limits(MOST, MOST)  # for networks of one's own
