"""What a set is read without: files left out from the beginning, and those that turn out damaged when they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Skipped(NamedTuple):
    """A file that is not part of its set, and why."""

    path: str
    reason: str


class Damage:
    """The images of a set that could not be read so far, for which others stood in: names and reasons, each once.

    Worker processes have copies of it; the loader brings home what they note (`since`, `add`). `told`: how many of them
    the user has heard of.
    """

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}
        self.told = 0

    def __len__(self) -> int:
        return len(self.reasons)

    def add(self, rows: Sequence[tuple[str, str]]) -> None:
        """Note these names with their reasons; one that is known stays as it is."""
        for name, reason in rows:
            self.reasons.setdefault(name, reason)

    def since(self, count: int = 0) -> list[Skipped]:
        """Those that were noted behind the first `count`."""
        return [Skipped(*row) for row in [*self.reasons.items()][count:]]


def damage_of(data: Any) -> Damage:
    """What was found damaged of a set; of one that notes nothing, an empty list of its own."""
    while hasattr(data, "whole") and not callable(data.whole):  # a part of another set
        data = data.whole
    found = getattr(data, "damage", None)
    return found if isinstance(found, Damage) else Damage()
