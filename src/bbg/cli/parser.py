"""What a verb of the command line is: a function, and the arguments it takes, declared right above it.

    @verb(argument("image", help="..."), argument("--top", type=count, default=5, help="..."))
    def predict(image: str, top: int) -> None:

Plain argparse: a command-line framework would be a third of the time that `bbg predict` takes (docs/results.md).
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Callable, Iterator, Mapping
from glob import has_magic, iglob
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

from bbg.cpu import most_threads
from bbg.errors import BbgError, allowed
from bbg.files import refuse_overlap
from bbg.limits import UNLIMITED

STDOUT = Path("-")
READ = ("CKPT", "DIR", "FILE", "IMAGE", "KEY=VALUE", "MODEL", "RECIPE")  # metavars of what may name a file to read
REPORTS = (".bbg", ".csv", ".json", ".jsonl", ".txt")  # files of ours beside images; a later run may write them anew

Call = TypeVar("Call", bound=Callable[..., None])


class Argument(NamedTuple):
    """The names and keywords of one `add_argument`."""

    names: tuple[str, ...]
    keywords: dict[str, Any]


VERBS: dict[Callable[..., None], tuple[Argument, ...]] = {}


def argument(*names: str, **keywords: Any) -> Argument:
    """An argument, as `argparse` takes it."""
    return Argument(names, keywords)


def verb(*arguments: Argument) -> Callable[[Call], Call]:
    """Make the decorated function the verb of its name; its docstring is the help."""

    def enter(call: Call) -> Call:
        VERBS[call] = arguments
        return call

    return enter


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises BbgError where it would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        """Raise `message`."""
        raise BbgError(f"{message}; see {self.prog} --help")


class VerbParser(Parser):
    """The parser of one verb: it names what it does not know itself, since the one above would only name `bbg`."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """All of `args`; BbgError for an unknown option, and for a word too many."""
        found, rest = super().parse_known_args(args, namespace)
        options = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
        for word in rest:
            name = word.partition("=")[0]
            if name.startswith("-"):
                self.error(f"unknown option {name!r}; {allowed(name, options)}")
            self.error(f"{word!r} is one argument too many")
        self._keep_apart(vars(found))
        return found, rest

    def _keep_apart(self, found: Mapping[str, Any]) -> None:
        """BbgError where a file that is to be written is another one of this command, or one that it reads."""
        written, words = [], []
        for action in self._actions:
            name, value = [str(action.metavar), *action.option_strings][-1], found.get(action.dest)
            if value is not None and action.type in (new_file, text_file, packed_file):
                written.append((name, value))
            elif action.metavar in READ and action.type is not new_folder:
                values = value if isinstance(value, list) else [value]
                words += [(name, str(word)) for word in values if isinstance(word, str | Path)]
        printed = [name for name, path in written if path == STDOUT]
        if len(printed) > 1:
            self.error(f"{' and '.join(printed)} both take the standard output; give one of them a file")
        files = [(name, path) for name, path in written if path != STDOUT]
        old = [path for _, path in files if os.path.isfile(path)]
        refuse_overlap(files, ((name, path) for name, word in words for path in _files_of(word, old)))


def parser(version: str) -> Parser:
    """The parser of all verbs; what it returns has the verb's function as `call` and its arguments beside."""
    top = Parser(
        "bbg", description="Train convolutional networks 1 bit wide and run them at 1 bit.", allow_abbrev=False
    )
    top.add_argument("--version", action="version", version=f"bbg {version}")
    below = top.add_subparsers(metavar="VERB", required=True, title="verbs", parser_class=VerbParser)
    for call, arguments in VERBS.items():
        one = below.add_parser(call.__name__, help=call.__doc__, description=call.__doc__, allow_abbrev=False)
        for names, keywords in (*arguments, *EVERY):
            one.add_argument(*names, **keywords)
        one.set_defaults(call=call)
    return top


def count(text: str) -> int:
    """An integer from 1 to 999,999,999."""
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no integer from 1 to 999999999")
    return int(text)


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 1")
    return found


def thread_count(text: str) -> int:
    """A number of threads."""
    if not text.isdecimal() or not 1 <= int(text) <= most_threads():
        raise argparse.ArgumentTypeError(f"{text!r} is no integer from 1 to {most_threads()}")
    return int(text)


def duration(text: str) -> float:
    """A time to measure for, an hour at most."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0, up to 3600")
    return found


def _files_of(word: str, old: list[Path]) -> Iterator[Path]:
    """The file that an argument names; of a folder or a pattern, those among the files `old` that it reads."""
    if os.path.isdir(word):
        folder = os.path.join(os.path.realpath(word), "")
        yield from (o for o in old if os.path.realpath(o).startswith(folder) and o.suffix.lower() not in REPORTS)
    elif has_magic(word) and not os.path.lexists(word):
        yield from map(Path, iglob(word, recursive=True)) if old else ()
    else:
        yield from (Path(name) for name in (word, word.partition("=")[2]) if os.path.isfile(name))  # --set key=FILE


def new_folder(text: str) -> Path:
    """A folder to write into, which is made where it is missing."""
    return Path(text)


def text_file(text: str) -> Path:
    """A `new_file`, or "-", the standard output."""
    return STDOUT if text in ("-", "/dev/stdout") else new_file(text)


def new_file(text: str) -> Path:
    """A path that can be written, which is asked before any work is done."""
    path = Path(text)
    if text == "-":
        raise argparse.ArgumentTypeError("'-' is the standard output, which takes text only; give a file")
    if os.path.isdir(path) or not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"cannot write {text!r}; give a file in a folder that exists and is writable")
    return path


def packed_file(text: str) -> Path:
    """A packed file that can be written: a path that ends in `.bbg`, or a device or a pipe."""
    path = new_file(text)
    if path.suffix != ".bbg" and (os.path.isfile(path) or not os.path.exists(path)):
        raise argparse.ArgumentTypeError(
            f"{text!r} does not end in .bbg, as every packed file does; it is the only form"
        )
    return path


# What every verb takes, and what several do. --------------------------------------------------------------------------

EVERY = (
    argument("-q", "--quiet", action="store_true", help="no messages and no bars; warnings and errors only"),
    argument("-v", "--verbose", action="store_true", help="more messages"),
)
MODEL = "a packed file or a name of the zoo"
DATA = argument("--data", type=Path, metavar="DIR", help="folder of the images, unless they come with bbg")
RECIPE = argument("recipe", metavar="RECIPE", help="a recipe of bbg by its name, or a TOML file")
FACTORY = argument(
    "--factory", metavar="MODULE:FUNCTION", help="makes a module of one's own, in place of a network of bbg"
)
CHANGES = argument(
    "--set",
    dest="changes",
    action="append",
    default=[],
    metavar="KEY=VALUE",
    help="change a key of the recipe; bbg recipe --keys explains them all",
)
DEVICE = argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 or mps; default: a GPU where there is one")
CACHE = argument(
    "--cache", type=Path, metavar="DIR", help="keep decoded images here, and take them from here next time"
)
LIMITS = argument(
    "--no-limits",
    dest="limits",
    action="store_const",
    const=UNLIMITED,
    help="let a packed file take any memory and time; for one that you trust",
)
JSON = argument("--json", type=text_file, metavar="FILE", help="also write the figures as JSON; -: print nothing else")


def changes_of(pairs: list[str], **more: int | str | None) -> dict[str, Any]:
    """The changes to a recipe that `--set KEY=VALUE` and its short forms ask for."""
    changes: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise BbgError(f"--set got {pair!r}; it takes key=value, such as --set lr=0.001")
        changes[key.strip()] = value.strip()
    return changes | {key: value for key, value in more.items() if value is not None}
