"""Signs as bits: +1 is 1, least significant bit first, in rows of 64-bit words."""

from __future__ import annotations

import numpy as np

from bbg.errors import BbgError


def words(bits: int) -> int:
    """64-bit words that hold `bits` bits."""
    return -(-bits // 64)


def pack_bits(signs: np.ndarray, rows: int) -> np.ndarray:
    """`signs` (booleans, or +1 and -1), read as `rows` rows, to uint64 `[rows, ceil(bits/64)]`, first bit lowest."""
    if signs.dtype != bool and not (np.abs(signs) == 1).all():
        raise BbgError("pack_bits takes booleans or +1 and -1 only")
    dense = np.packbits((signs > 0).reshape(rows, -1), axis=1, bitorder="little")
    padded = np.pad(dense, ((0, 0), (0, -dense.shape[1] % 8)))
    return padded.view("<u8").astype(np.uint64)


def unpack_bits(packed: np.ndarray, bits: int) -> np.ndarray:
    """The inverse: uint64 `[rows, ceil(bits/64)]` to int8 `[rows, bits]` of +1 and -1."""
    dense = np.ascontiguousarray(packed, "<u8").view(np.uint8)
    return np.unpackbits(dense, axis=1, count=bits, bitorder="little").astype(np.int8) * 2 - 1
