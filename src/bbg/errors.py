"""The one exception type of the package, and the sentences that many errors share: what is allowed, what to install."""

from __future__ import annotations

from collections.abc import Iterable

# The packages of the extras that a user may lack. They are named one by one: `bbg[train]` would mean nothing to pip
# where bbg came from a file.
EXTRAS = {
    "train": ("torch", "torchvision", "lightning-fabric", "matplotlib"),
    "tensorboard": ("tensorboard",),
    "video": ("opencv-python-headless",),
    "ray": ("ray", "pyarrow"),
}
PACKAGES = {"cv2": "opencv-python-headless", "PIL": "pillow"}  # of modules that are called otherwise


LONGEST = 2000  # characters of a message


class BbgError(ValueError):
    """A request `bbg` refuses.

    The message is one sentence that says what came, what is allowed and what to do. The command line prints it and
    exits with status 2. What came may be a stranger's: it is shown as `visible` text, and a long message is cut.

    `causes`: each reason of the refusal as a sentence of its own, where there are several; else the message alone.
    """

    def __init__(self, message: str, causes: Iterable[str] = ()) -> None:
        super().__init__(shortened(visible(message), LONGEST))
        self.causes = tuple(shortened(visible(cause), LONGEST) for cause in causes) or (str(self),)


def visible(text: str) -> str:
    """`text` on one line, control characters as escapes: a name must neither steer the terminal nor feign a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str, most: int) -> str:
    """`text`, or its beginning and its end where it has more than `most` characters."""
    return text if len(text) <= most else f"{text[: most * 3 // 4]} ... {text[-most // 4 :]}"


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


def first_line(error: BaseException) -> str:
    """What another library's error says, without the traces that some put below."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def not_installed(what: str, module: str) -> BbgError:
    """The error that `what` needs `module`; it names all packages of the extra that the module belongs to."""
    name = PACKAGES.get(top := module.partition(".")[0], top.replace("_", "-"))
    packages = next((packages for packages in EXTRAS.values() if name in packages), (name,))
    return BbgError(f"{what} needs {top}, which is not installed; run pip install {' '.join(packages)}")
