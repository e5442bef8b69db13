"""The table of op kinds: Python's is the native one, row by row, and its rows agree with each other."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bbg import _native
from bbg.graph.kinds import ATTRIBUTES, EPILOGUE, FUNCTIONS, KINDS, TENSORS, VERSION, Kind

FORMAT = Path(__file__).parents[2] / "docs" / "format.md"


def row(kind: Kind) -> dict[str, Any]:
    """A row as the native module gives it."""
    return {
        "main": kind.main,
        "operands": kind.operands or 0,
        "attributes": list(kind.attributes),
        "required": list(kind.required),
        "optional": list(kind.optional),
        "epilogue": list(kind.epilogue),
        "shortcut": kind.shortcut,
        "real_output": kind.real_output,
        "weight": "" if kind.weight is None else kind.weight.dtype,
    }


def assert_same_tables() -> None:
    native = _native.kinds()
    assert list(KINDS) == list(native)
    for name, kind in KINDS.items():
        assert row(kind) == native[name], name
    assert list(FUNCTIONS) == _native.functions()
    assert list(EPILOGUE) == _native.epilogue()
    assert {name: rule.form for name, rule in ATTRIBUTES.items()} == _native.attributes()


def test_the_table_is_the_native_one() -> None:
    assert_same_tables()


DIFFERENT = {
    "main": "bytes",
    "operands": 2,
    "attributes": ("kernel",),
    "required": ("index",),
    "optional": ("tap_bias",),
    "epilogue": ("scale",),
    "shortcut": False,
    "real_output": False,
    "weight": KINDS["byte_conv"].weight,
}


@pytest.mark.parametrize("field", DIFFERENT)
@pytest.mark.parametrize("name", ["pointwise", "unary"])
def test_one_row_that_differs_is_found(name: str, field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, name, dataclasses.replace(KINDS[name], **{field: DIFFERENT[field]}))
    with pytest.raises(AssertionError, match=name):
        assert_same_tables()


def test_a_function_that_the_native_side_lacks_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FUNCTIONS, "of Python alone", FUNCTIONS["silu"])
    with pytest.raises(AssertionError, match="of Python alone"):
        assert_same_tables()


@pytest.mark.parametrize("name", KINDS)
def test_a_row_names_what_there_is(name: str) -> None:
    kind = KINDS[name]
    assert set(kind.attributes) <= set(ATTRIBUTES)
    assert set(kind.required + kind.optional) <= set(TENSORS)
    assert set(kind.epilogue) <= set(EPILOGUE)
    assert ("weight" in kind.required) == (kind.weight is not None)
    assert not kind.epilogue or kind.real_output


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_function_exceeds_its_bound(name: str) -> None:
    function = FUNCTIONS[name]
    x = np.concatenate([np.linspace(-30, 30, 6001), [-1e4, 1e4]])
    x = x[x >= function.least]
    assert (np.abs(function.formula(x)) <= function.bound(x)).all()


def documented() -> dict[str, list[str]]:
    """The rows of the table of kinds in docs/format.md: cells without their marks, by kind."""
    lines = FORMAT.read_text(encoding="utf-8").splitlines()
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `"))
    return {c[0].strip("`"): c for c in cells if c[0].strip("`") in KINDS}


def test_the_specification_has_the_same_table() -> None:
    table = documented()
    assert list(table) == list(KINDS)
    for name, (_, operands, attributes, tensors, *_) in table.items():
        kind = KINDS[name]
        count = {1: kind.main, 2: f"2 {kind.main}", None: f"2+ {kind.main}"}[kind.operands]
        assert operands == count, name
        assert re.findall(r"\w+", attributes) == list(kind.attributes), name
        named = re.findall(r"`(\w+)(\??)`", tensors)
        assert [tensor for tensor, mark in named if not mark] == list(kind.required), name
        assert [tensor for tensor, mark in named if mark] == list(kind.optional), name


def test_the_specification_is_of_this_version() -> None:
    text, version = FORMAT.read_text(encoding="utf-8"), "{}.{}".format(*VERSION)
    assert text.startswith(f"# The packed file, format {version}\n")
    assert f'| `version` | `"{version}"`:' in text


def test_the_specification_names_every_function_parameter_and_default() -> None:
    text = FORMAT.read_text(encoding="utf-8")
    for name in FUNCTIONS:
        assert f"| `{name}` |" in text, name
    for name, neutral in EPILOGUE.items():
        assert f"`{name}` {neutral}" in text, name
