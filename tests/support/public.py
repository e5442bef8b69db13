"""The public names of the package with their signatures, as text: one line each, so that a change shows in a diff.

PYTHONPATH=tests:. python tests/support/public.py     # records them anew in tests/house/public.txt
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from tools.reference import one_line, public_names

RECORD = Path(__file__).parents[1] / "house" / "public.txt"
ROOMS = ("bbg", "bbg.analysis", "bbg.engine", "bbg.layers", "bbg.methods", "bbg.models", "bbg.zoo")


def lines() -> Iterator[str]:
    """The public names of every room."""
    for room in ROOMS:
        module = import_module(room)
        for name in public_names(module):
            yield from described(f"{room}.{name}", getattr(module, name))
        yield ""


def described(name: str, value: object) -> Iterator[str]:
    """A function or a class with its signature, and the class's own public methods and properties."""
    if inspect.ismodule(value):
        yield f"{name}: module"
    elif inspect.isclass(value):
        bases = [base.__name__ for base in value.__bases__ if base is not object]
        yield f"class {name}{signature(value)}{' of ' + ', '.join(bases) if bases else ''}"
        for member, attribute in sorted(vars(value).items()):
            function = getattr(attribute, "__func__", attribute)
            if isinstance(attribute, property):
                yield f"    {member}: {inspect.signature(attribute.fget).return_annotation}"  # type: ignore[arg-type]
            elif inspect.isfunction(function) and (not member.startswith("_") or member == "__call__"):
                yield f"    {member}{signature(function)}"
    elif callable(value):
        yield f"{name}{signature(value)}"
    else:
        yield f"{name}: {type(value).__name__}"


def signature(value: object) -> str:
    """The signature, annotations without quotes; "" for a class that has none, such as an exception."""
    try:
        return one_line(inspect.signature(value))  # type: ignore[arg-type]
    except ValueError:
        return ""


def text() -> str:
    """All lines, as the record holds them."""
    return "\n".join(lines()) + "\n"


if __name__ == "__main__":
    RECORD.write_text(text(), encoding="utf-8")
