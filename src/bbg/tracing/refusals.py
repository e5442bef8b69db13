"""All that is refused of a network, told at once.

    refusals = Refusals()
    refusals.add(Refusal("features.3", "Softmin", "it cannot be converted; leave it out", place))
    refusals.error()                # one BbgError, whose `causes` are all, and whose message numbers them

The same cause at many modules is one cause: it has the first place and says how many more there are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from bbg.errors import LONGEST, BbgError
from bbg.tracing.places import Place

_ROOM = LONGEST - 60  # for the causes in a message, beside what stands around them


@dataclass(frozen=True)
class Refusal:
    """One call that is refused. `where`: the qualified name; `layer`: the type of the module; `reason`: with a remedy.

    `of_input`: it is refused for how its input is arranged, which is not known behind another refusal.
    """

    where: str
    layer: str
    reason: str
    place: Place | None = None
    of_input: bool = False

    def text(self, more: int = 0) -> str:
        """A sentence; `more`: how many others have the same cause."""
        at = f" at {self.place}" if self.place is not None else ""
        others = f" and {more} more" if more else ""
        name = f"{self.where} ({self.layer})" if self.layer else self.where
        return f"{name}{at}{others}: {self.reason}" if name else self.reason

    @property
    def kind(self) -> tuple[str, str]:
        """What is equal where two have the same cause: the numbers in it, as sizes of maps, may differ."""
        return self.layer, re.sub(r"\d+", "#", self.reason)


@dataclass
class Refusals:
    """What was refused so far, in the order of the forward."""

    found: list[Refusal] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.found)

    def add(self, refusal: Refusal) -> None:
        """Note one more; what is refused again at the same place, as in a loop, is known."""
        if refusal not in self.found:
            self.found.append(refusal)

    @property
    def causes(self) -> tuple[str, ...]:
        """A sentence for each cause."""
        kinds: dict[tuple[str, str], list[Refusal]] = {}
        for refusal in self.found:
            kinds.setdefault(refusal.kind, []).append(refusal)
        return tuple(same[0].text(len(same) - 1) for same in kinds.values())

    def error(self) -> BbgError:
        """The error that tells them all: one as it is, several numbered, as many as a message has room for."""
        causes = self.causes
        if len(causes) == 1:
            return BbgError(causes[0])
        text, shown = f"{len(causes)} causes:", 0
        for i, cause in enumerate(causes, 1):
            if shown and len(text) + len(cause) > _ROOM:
                text += f" ... and {len(causes) - shown} more, in the error's `causes`"
                break
            text, shown = f"{text} ({i}) {cause}", i
        return BbgError(text, causes)
