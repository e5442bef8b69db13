"""What the library says while it works: messages of the logger "bbg", and a bar where something takes long.

A program decides where messages go, as with every logger. Where it does not, `terminal` prints them, one line each, and
shows the bars: below the lines, on a terminal only, and wiped when they are done. Nothing else ever shows a bar.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from bbg.errors import visible

if TYPE_CHECKING:
    from rich.live import Live
    from rich.text import Text

LOGGER = logging.getLogger("bbg")
DELAY = 0.5  # seconds that something takes before it gets a bar

T = TypeVar("T")


class _Screen:
    """Whether bars are shown now, and which one is: a bar inside another stays hidden."""

    bars = False
    bar: Bar | None = None


_SCREEN = _Screen()


class _Lines(logging.Handler):
    """Prints each message as a line to the stream of that name as it is at that time: a bar takes its place a while.

    Warnings go to stderr, so that they are seen where the output is a file or nothing at all.
    """

    def __init__(self, stream: str) -> None:
        super().__init__()
        self.stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        warns = record.levelno >= logging.WARNING
        stream = getattr(sys, "stderr" if warns else self.stream)
        encoding = getattr(stream, "encoding", None) or "utf-8"
        shown = "\n".join(visible(line) for line in self.format(record).split("\n"))
        text = shown.encode(encoding, "backslashreplace").decode(encoding)
        print(f"warning: {text}" if warns else text, file=stream, flush=True)


@contextmanager
def terminal(level: int = logging.INFO, stream: str = "stdout") -> Iterator[None]:
    """Within this context, messages of `level` and above are lines on `stream`, and bars are shown below them.

    Where the program has asked for messages of level INFO itself, they go where it says. Bars are left out for a level
    above INFO. A context inside another changes nothing. Only the logger "bbg" is changed, and it is restored at the
    end.
    """
    if any(isinstance(handler, _Lines) for handler in LOGGER.handlers):
        yield
        return
    before = (LOGGER.level, LOGGER.propagate, _SCREEN.bars)
    handler = None if LOGGER.isEnabledFor(logging.INFO) else _Lines(stream)
    _SCREEN.bars = level <= logging.INFO
    if handler is not None:
        LOGGER.addHandler(handler)
        LOGGER.setLevel(level)
        LOGGER.propagate = False  # else a handler of the program's would print the line once more
    try:
        yield
    finally:
        if handler is not None:
            LOGGER.removeHandler(handler)
        LOGGER.setLevel(before[0])
        LOGGER.propagate, _SCREEN.bars = before[1:]


def hush() -> None:
    """Say nothing more in this process, which is one of several that do the same: another one speaks."""
    LOGGER.disabled, _SCREEN.bars = True, False


def track(items: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """The `items`, one after the other, with a bar of how many are done; `total`: how many there are."""
    if total is None and isinstance(items, Sequence):
        total = len(items)
    with Bar(what, total) as bar:
        for item in items:
            yield item
            bar.step()


class Bar:
    """How far something has come: a line on the terminal, `what  ━━━━╌╌  45 %  1:23 left  figures`.

    `total`: the steps of it all; None: unknown. `begun`: those that were done before, of which the time that is left
    must not be judged. It appears after half a second, and only within `terminal`.
    """

    def __init__(self, what: str, total: int | None, begun: int = 0) -> None:
        self.what, self.total, self.begun, self.done = what, total, begun, begun
        self.figures: Sequence[str] = ()
        self.since = time.monotonic()
        self.live: Live | None = None
        self.streams: dict[str, TextIO] = {}  # those that the bar stands in for

    def __enter__(self) -> Bar:
        if _SCREEN.bar is None and _SCREEN.bars:
            self.streams = {name: getattr(sys, name) for name in ("stdout", "stderr") if _is_terminal(name)}
            _SCREEN.bar = self if self.streams else None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.live is not None:
            for name, stream in self.streams.items():
                getattr(sys, name).flush()
                setattr(sys, name, stream)
            self.live.stop()
            self.live = None
        if _SCREEN.bar is self:
            _SCREEN.bar = None

    @property
    def hidden(self) -> bool:
        """Whether nobody will see it, so that figures need not be made."""
        return _SCREEN.bar is not self

    def step(self, count: int = 1, what: str | None = None, figures: Sequence[str] | None = None) -> None:
        """Say that `count` more steps are done; `what` and `figures` take the place of the older ones."""
        self.done += count
        self.what = self.what if what is None else what
        self.figures = self.figures if figures is None else figures
        if self.live is None and not self.hidden and time.monotonic() - self.since > DELAY:
            self._show()
        if self.live is not None:
            self.live.console.size = _size(self.live.console.file)

    def _show(self) -> None:
        from rich.console import Console  # these take 50 ms, which a verb that is done at once need not spend
        from rich.live import Live

        stream = next(iter(self.streams.values()))
        console = Console(file=stream, force_terminal=True, force_interactive=True)
        console.size = _size(stream)
        self.live = Live(
            self, console=console, refresh_per_second=4, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self.live.start()
        for name, below in self.streams.items():
            setattr(sys, name, _Above(console, below))

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Text]:
        from rich.text import Text

        plain = not _can_write(console.file, "━╌")
        text = Text(no_wrap=True, overflow="crop")
        for part, style in self.parts(options.max_width - 1, "#-" if plain else "━╌"):
            text.append(part, style)
        yield text

    def parts(self, width: int, signs: str = "━╌") -> list[tuple[str, str]]:
        """The line as pieces of text with their styles, at most `width` wide; figures that do not fit are left out."""
        elapsed = time.monotonic() - self.since
        if not self.total:
            told, room = [f"{self.done:,}", _clock(elapsed)], 0
        else:
            steps = max(self.done - self.begun, 1)
            left = elapsed / steps * max(self.total - self.done, 0)
            share = min(1.0, self.done / self.total)  # a total may be an estimate
            told, room = [f"{share:4.0%}".replace("%", " %"), f"{_clock(left)} left"], 6
        what = self.what[: max(0, width - room - sum(len(part) + 2 for part in told) - 2)]
        rest = width - len(what) - room - sum(len(part) + 2 for part in told) - 2
        for figure in self.figures:
            if len(figure) + 2 > rest:
                break
            told.append(figure)
            rest -= len(figure) + 2
        line = [(what, "")]
        if self.total:
            length = room + max(0, min(rest, 18))
            full = min(length, length * self.done // self.total)
            line += [("  ", ""), (signs[0] * full, "green"), (signs[1] * (length - full), "dim")]
        return [*line, ("".join(f"  {part}" for part in told), "")]


class _Above:
    """A stream whose whole lines are printed above the bar of `console`, as long as they are."""

    def __init__(self, console: Any, stream: TextIO) -> None:
        self._console, self._stream, self._rest = console, stream, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Print the lines that are whole now."""
        *lines, self._rest = (self._rest + text).split("\n")
        if lines:
            from rich.text import Text

            printed = Text("\n").join(Text.from_ansi(line) for line in lines)
            self._console.print(printed, soft_wrap=True, highlight=False, markup=False)
        return len(text)

    def flush(self) -> None:
        """Print what is left over, too."""
        if self._rest:
            self.write("\n")


def _size(stream: Any) -> tuple[int, int]:
    """Columns and lines of the terminal. The variables COLUMNS and LINES may be those of another one."""
    columns, lines = os.get_terminal_size(stream.fileno())
    return columns or 80, lines or 24


def _is_terminal(name: str) -> bool:
    stream = getattr(sys, name)
    return stream is not None and stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def _can_write(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _clock(seconds: float) -> str:
    """`1:23`, or `1:02:03` from an hour on."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
