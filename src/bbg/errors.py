"""The one exception type of the package, and how its sentences name what is allowed."""

from __future__ import annotations

from collections.abc import Iterable


class BbgError(ValueError):
    """A request `bbg` refuses.

    The message is one sentence that says what came, what is allowed and what to do. The command line prints it and
    exits with status 2.
    """


def allowed(name: object, known: Iterable[str], intro: str = "allowed are") -> str:
    """The end of a sentence about a `name` that is not among `known`: "allowed are adam, sgd (did you mean 'sgd'?)".

    The question is left out where no name is spelled alike. Upper and lower case count as the same.
    """
    import difflib  # only an error needs it

    names = list(known)
    folded = {one.casefold(): one for one in names}
    close = difflib.get_close_matches(str(name).casefold(), folded, 1)
    question = f" (did you mean {folded[close[0]]!r}?)" if close else ""
    return f"{intro} {', '.join(names) or 'none'}{question}"
