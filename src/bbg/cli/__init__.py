"""The command `bbg`: every verb mirrors a call of the library.

Verbs import what they need when they run, so `bbg predict` starts in a tenth of a second and never imports torch.
Whatever a user can get wrong is one sentence on stderr and exit status 2.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import warnings
from contextlib import suppress
from importlib import import_module
from io import TextIOWrapper

from bbg._version import __version__
from bbg.cli.parser import STDOUT, parser
from bbg.errors import BbgError, allowed, not_installed, visible
from bbg.log import terminal

# Each verb and the module of this package that declares it.
MODULES = {
    "bench": "bench",
    "check": "check",
    "compare": "compare",
    "completion": "completion",
    "convert": "convert",
    "eval": "evaluate",
    "inspect": "inspect",
    "plan": "plan",
    "predict": "predict",
    "recipe": "recipe",
    "shard": "shard",
    "train": "train",
    "zoo": "zoo",
}

FIRST = ("-h", "--help", "--version")  # options that stand in the place of a verb

# What torch says in a RuntimeError where there is no memory.
TORCHS_MEMORY_ERRORS = ("can't allocate memory", "out of memory", "Storage size calculation overflowed")


def declare(verb: str | None = None) -> None:
    """Import the module of one `verb`, so that it starts at once, or of all of them where it is none."""
    for module in [MODULES[verb]] if verb in MODULES else MODULES.values():
        import_module(f"{__name__}.{module}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line `arguments` (None: those of the process); exit with status 2 for bad input."""
    _open_streams()
    try:
        try:
            with warnings.catch_warnings():
                if not sys.warnoptions:  # libraries warn programmers; what a user must know, a message of ours says
                    warnings.simplefilter("ignore")
                _run(sys.argv[1:] if arguments is None else arguments)
        finally:
            sys.stdout.flush()  # here, where it may fail
    except BrokenPipeError:  # whoever reads the output wants no more of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EIO, errno.EBADF):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _end(2, f"cannot write the output: {error.strerror}")
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(words in str(error) for words in TORCHS_MEMORY_ERRORS):
            raise
        _end(2, "there is not enough memory for that; give a smaller batch, or a smaller network")
    except BbgError as error:
        _refused(error)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("bbg"):
            raise
        _end(2, str(not_installed("this verb", error.name)))
    except KeyboardInterrupt:
        _interrupted(at_once=arguments is None)


def _open_streams() -> None:
    """Give the process the standard streams that it was started without, so that no file of ours gets their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  # as long as the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a file's name need not be text
            stream.reconfigure(errors="backslashreplace")


def _run(arguments: list[str]) -> None:
    given = _helped(arguments)
    declare(given[0])
    options = vars(parser(__version__).parse_args(given))
    call = options.pop("call")
    with terminal(_level(options.pop("quiet"), options.pop("verbose")), _messages(options)):
        call(**options)


def _level(quiet: bool, verbose: bool) -> int:
    if quiet and verbose:
        raise BbgError("--quiet and --verbose are opposites; give one of them")
    return logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO


def _messages(options: dict[str, object]) -> str:
    """Where messages go: not to stdout where that is a file for a program."""
    return "stderr" if STDOUT in options.values() else "stdout"


def _helped(given: list[str]) -> list[str]:
    """The command line, its help where it names no verb; `bbg help VERB` is `bbg VERB --help`."""
    words = given or ["--help"]
    if words[0] == "help":
        if len(words) > 2:
            raise BbgError(f"{words[2]!r} is one argument too many; see bbg --help")
        words = [*words[1:], "--help"]
    if words[0].startswith("-") and words[0] not in FIRST:
        raise BbgError(f"unknown option {words[0]!r}; {allowed(words[0], FIRST)}; options of a verb stand behind it")
    if words[0] not in MODULES and not words[0].startswith("-"):
        raise BbgError(f"unknown verb {words[0]!r}; {allowed(words[0], MODULES)}; see bbg --help")
    return words


def _interrupted(at_once: bool) -> None:
    """End the process; `at_once` without waiting for threads, which may be in a decoder for seconds."""
    if at_once:
        with suppress(OSError):
            print("bbg: interrupted", file=sys.stderr, flush=True)
        os._exit(130)
    _end(130, "interrupted")


def _refused(error: BbgError) -> None:
    """End the process with the sentence of an error; with one line for each cause where there are several."""
    if len(error.causes) > 1:
        lines = (f"  {i}. {visible(' '.join(cause.split()))}" for i, cause in enumerate(error.causes, 1))
        print(f"bbg: {len(error.causes)} causes", *lines, sep="\n", file=sys.stderr)
        sys.exit(2)
    _end(2, str(error))


def _end(status: int, message: str) -> None:
    print("bbg:", visible(" ".join(message.split())), file=sys.stderr)
    sys.exit(status)
