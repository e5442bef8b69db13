"""The messages of the library reach the terminal where nobody else asks for them, and no other logger changes."""

from __future__ import annotations

import logging
import sys
from io import BytesIO, TextIOWrapper
from typing import Any

import pytest

from bbg.log import LOGGER, terminal

OTHERS = ("", "torch", "lightning_fabric", "lightning.fabric")


def states() -> list[Any]:
    """The level, the handlers and the propagation of the loggers that the context must leave alone, and of its own."""
    loggers = [LOGGER, *map(logging.getLogger, OTHERS)]
    return [(one.name, one.level, list(one.handlers), one.propagate) for one in loggers]


def test_messages_are_plain_lines_once_and_only_within_the_context(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    before = states()
    LOGGER.info("too early")
    with terminal():
        with terminal():
            LOGGER.info("epoch %d [red]", 1)
        assert states()[1:] == before[1:]
        LOGGER.debug("too fine")
        LOGGER.info("done")
    LOGGER.info("too late")
    assert capsys.readouterr() == ("epoch 1 [red]\ndone\n", "")
    assert caplog.messages == []
    assert states() == before


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_name_that_the_terminal_cannot_write_ends_nothing(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = BytesIO()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(written, encoding=encoding, errors="strict"))
    with terminal():
        LOGGER.info("caf\udce9 é")
    assert written.getvalue() == (b"caf\\udce9 \xc3\xa9\n" if encoding == "utf-8" else b"caf\\udce9 \\xe9\n")


def test_the_logger_is_restored_after_an_error() -> None:
    before = states()
    with pytest.raises(KeyError), terminal():
        raise KeyError
    assert states() == before


def test_a_program_that_asks_for_the_messages_gets_them_itself(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="bbg")
    with terminal():
        LOGGER.info("epoch 1")
    assert caplog.messages == ["epoch 1"]
    assert capsys.readouterr().out == ""
