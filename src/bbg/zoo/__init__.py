"""The zoo: packed models by name, those that come with bbg and those that a user has added.

Each is `<name>.bbg` beside its card `<name>.md`. What is added lies in the folder `$BBG_ZOO`, by default
`~/.local/share/bbg/zoo` (below `$XDG_DATA_HOME` where that is set).
"""

from __future__ import annotations

from bbg.zoo.adding import add
from bbg.zoo.listing import added, card, names, path, resolve, sample

__all__ = ["add", "added", "card", "names", "path", "resolve", "sample"]
