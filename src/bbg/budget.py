"""A budget of time or of bytes, as people write it."""

from __future__ import annotations

import re
from typing import NamedTuple

from bbg.errors import BbgError

UNITS = {"us": ("seconds", 1e-6), "ms": ("seconds", 1e-3), "s": ("seconds", 1.0)}
UNITS |= {"B": ("bytes", 1.0), "kB": ("bytes", 1e3), "MB": ("bytes", 1e6)}


class Budget(NamedTuple):
    """An `amount` of `what`: "seconds" for one image, or "bytes" of weights and their vectors."""

    what: str
    amount: float

    @staticmethod
    def of(text: str) -> Budget:
        """The budget that `text` says, as "200us", "1.5 ms" or "100kB"; BbgError for anything else."""
        found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z]+)\s*", text) if isinstance(text, str) else None
        if found is None or found[2] not in UNITS or not float(found[1]) > 0:
            raise BbgError(
                f"the budget is {text!r}, allowed are a time or bytes: a number and one of {', '.join(UNITS)}"
            )
        what, unit = UNITS[found[2]]
        return Budget(what, float(found[1]) * unit)


def shown(what: str, amount: float) -> str:
    """An amount as people read it."""
    return f"{1e6 * amount:,.1f} us" if what == "seconds" else f"{amount / 1e3:,.1f} kB"
