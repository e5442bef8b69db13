"""The layers of a network whose layers have 1, 8 or 32 bits each.

BinaryConv2d, BinaryLinear     torch's layers at 1 bit (binary.py)
ByteConv2d, ByteLinear         torch's layers at 8 bits (byte.py)
Unit                           a convolution of any width, and what stands around it (unit.py)
FixedSize                      refuses images of another size (fixed_size.py)
set_bits                       change the width of the layers of a network (bits.py)
"""

from __future__ import annotations

from bbg.layers.binary import BinaryConv2d, BinaryLinear
from bbg.layers.bits import Bits, set_bits
from bbg.layers.byte import ByteConv2d, ByteLinear
from bbg.layers.fixed_size import FixedSize
from bbg.layers.unit import LinearUnit, Projection, Shortcut, Unit, pointwise

__all__ = [
    "BinaryConv2d",
    "BinaryLinear",
    "Bits",
    "ByteConv2d",
    "ByteLinear",
    "FixedSize",
    "LinearUnit",
    "Projection",
    "Shortcut",
    "Unit",
    "pointwise",
    "set_bits",
]
