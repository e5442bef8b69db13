"""JSON from strangers: every value is checked where it is taken, and a wrong one is a BbgError that shows it."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import Any

from bbg.errors import BbgError

_UNPRINTABLE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def parse(text: str | bytes, what: str) -> dict[str, Any]:
    """The JSON object in `text`; a key may come once in each object."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise BbgError(f"{what}: a key is given twice in {[key for key, _ in pairs]}")
        return dict(pairs)

    try:
        value = json.loads(text if isinstance(text, str) else text.decode(), object_pairs_hook=unique)
    except BbgError:
        raise
    except (ValueError, RecursionError) as error:
        raise BbgError(f"{what} is no JSON ({error}); get the file anew") from error
    return mapping(value, what)


def mapping(
    value: Any, what: str, required: Collection[str] | None = None, optional: Collection[str] = ()
) -> dict[str, Any]:
    """`value` if it is an object with the required and at most the optional keys (required None: any keys)."""
    if not isinstance(value, dict):
        raise BbgError(f"{what} is {shown(value)}, it must be a JSON object")
    if required is not None:
        allowed = ", ".join([*required, *optional])
        for key in value:
            if key not in required and key not in optional:
                raise BbgError(f"unknown key {key!r} in {what}; allowed are {allowed}")
        for key in required:
            if key not in value:
                raise BbgError(f"key {key!r} is missing in {what}; its keys are {allowed}")
    return value


def sequence(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise BbgError(f"{what} is {shown(value)}, it must be a list")
    return value


def names(value: Any, what: str) -> tuple[str, ...]:
    return tuple(name(entry, what) for entry in sequence(value, what))


def string(value: Any, what: str) -> str:
    if not isinstance(value, str) or _UNPRINTABLE.search(value):
        raise BbgError(f"{what} is {shown(value)}, it must be a string without control characters")
    return value


def name(value: Any, what: str) -> str:
    if not string(value, what):
        raise BbgError(f"{what} is empty, it must have a name")
    return str(value)


def optional_name(value: Any, what: str) -> str | None:
    return None if value is None else name(value, what)


def number(value: Any, what: str) -> int | float:
    return _below(value, what, (int, float), "a number")


def integer(value: Any, what: str) -> int:
    return int(_below(value, what, (int,), "an integer"))


def word(value: Any, what: str, allowed: Collection[str]) -> str:
    """`value` if it is one of the words `allowed`."""
    if not isinstance(value, str) or value not in allowed:
        raise BbgError(f"{what} is {shown(value)}, allowed are {', '.join(allowed)}")
    return value


def shown(value: Any) -> str:
    """`value` for a message, at a length that a message can bear."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _below(value: Any, what: str, types: tuple[type, ...], kind: str) -> int | float:
    if type(value) not in types or not abs(value) < 2**63:
        raise BbgError(f"{what} is {shown(value)}, it must be {kind} below 2^63")
    return value  # type: ignore[no-any-return]
