"""Checkpoints and weights of strangers: small files that stand for gigabytes or hours are refused at once."""

from __future__ import annotations

import copy
import io
import pickle
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bbg.errors import BbgError
from bbg.image import Preprocess
from bbg.recipe import Recipe
from bbg.training import checkpoint
from bbg.training.checkpoint import Checkpoint
from bbg.training.factory import build
from bbg.training.torch_files import read_torch
from bbg.training.transfer import Weights

LEVELS = 40
RECIPE = Recipe(dataset="digits", network="resnet8", width=4, act="rprelu")
GREY = Preprocess(8, mode="L", mean=(0.3,), std=(0.4,))


def saved(state: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(state, file, **options)
    return file.getvalue()


def nested(pair: Callable[[Any], Any]) -> Any:
    value: Any = ("x",)
    for _ in range(LEVELS):
        value = pair(value)
    return value


def in_itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def pickled(state: bytes, old: bool = False) -> bytes:
    """A file of torch whose pickle is `state`, made by hand."""
    if old:
        return saved({}, _use_new_zipfile_serialization=False).replace(pickle.dumps({}, 2), state)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in {"data.pkl": state, "version": b"3\n", "byteorder": b"little"}.items():
            archive.writestr(f"archive/{name}", content)
    return file.getvalue()


def nested_key(old: bool = False) -> bytes:
    """A dict whose key is a tuple of twice a tuple of twice ..., by hand: Python would take hours to make it."""
    doubled = b"".join(b"h%c\x86q%c" % (i, i + 1) for i in range(LEVELS))
    state = b"\x80\x02}X\x01\x00\x00\x00x\x85q\x00" + doubled + b"K\x01s."
    return pickled(state, old)


def compressed() -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved(torch.zeros(2**24)))) as plain, zipfile.ZipFile(packed, "w", 8) as archive:
        for part in plain.infolist():
            archive.writestr(part.filename, plain.read(part))
    return packed.getvalue()


def overlapping() -> bytes:
    file = io.BytesIO(saved({"a": torch.zeros(2**16)}))
    with zipfile.ZipFile(file, "a") as archive:
        largest = max(archive.infolist(), key=lambda part: part.file_size)
        for i in range(100):
            twin = copy.copy(largest)
            twin.filename = f"archive/data/{i + 10}"
            archive.filelist.append(twin)
        archive.writestr("archive/more", b"")  # so that the directory is written anew
    return file.getvalue()


class Allocated:
    """A tensor by its size alone, which torch allows."""

    def __reduce__(self) -> tuple[Any, ...]:
        return torch.Tensor, (2**26,)


def called(what: bytes, old: bool = False) -> bytes:
    """A pickle that calls `what`, a module and a name, with a number."""
    state = b"\x80\x02c" + what + b"\n\x8a\x08" + (2**34).to_bytes(8, "little") + b"\x85R."
    return pickled(state, old)


def encoded() -> bytes:
    """A text encoded as hexadecimal digits, those again, and so on: twice as long each time."""
    state = b"\x80\x02c_codecs\nencode\nq\x00" + b"h\x00" * 26 + b"X\x08\0\0\0aaaaaaaaX\x05\0\0\0utf-8\x86R"
    state += b"X\x03\0\0\0hex\x86R" * 26 + b"."
    return pickled(state)


HOSTILE: dict[str, Callable[[], bytes]] = {
    "lists": lambda: saved({"width": nested(lambda v: [v, v])}),
    "tuples": lambda: saved([nested(lambda v: (v, (v,)))]),
    "a tuple as a key": nested_key,
    "a tuple as a key, old form": lambda: nested_key(old=True),
    "dicts": lambda: saved(nested(lambda v: {"a": v, "b": v})),
    "a list in itself": lambda: saved(in_itself()),
    "compressed": compressed,
    "overlapping": overlapping,
    "expanded": lambda: saved({"a": torch.zeros(1).expand(2**40)}),
    "expanded, twice": lambda: saved({"a": torch.zeros(2, 1).expand(2, 2**30)}),
    "windows": lambda: saved({"a": torch.zeros(100).as_strided((50, 50), (1, 1))}),
    "allocated": lambda: saved({"a": Allocated()}),
    "without memory": lambda: saved({"a": torch.empty(2**50, device="meta")}),
    "sparse": lambda: saved({"a": torch.sparse_coo_tensor([[0]], [1.0], (2**50,))}),
    "many names of one": lambda: saved({f"n{i}": t for t in [torch.zeros(10**4)] for i in range(1000)}),
    "a long text": lambda: saved({"a": "x" * 2**21}),
    "a large integer": lambda: saved({"a": 10**5000}),
    "bytes of a number": lambda: called(b"builtins\nbytearray"),
    "bytes of a number, Python 2": lambda: called(b"__builtin__\nbytearray"),
    "bytes of a number, old form": lambda: called(b"builtins\nbytearray", old=True),
    "a storage of a number": lambda: called(b"torch.storage\nUntypedStorage"),
    "a storage with a type, of a number": lambda: called(b"torch.storage\nTypedStorage"),
    "encoded again and again": encoded,
    "a tensor of a number": lambda: called(b"torch\nTensor"),
    "a vector of a number": lambda: called(b"torch\nFloatTensor"),
}


@pytest.mark.filterwarnings("ignore:.*[Ss]parse")
@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_that_stands_for_more_than_it_holds_is_refused_at_once(case: str, tmp_path: Path) -> None:
    file = tmp_path / "a.ckpt"
    file.write_bytes(HOSTILE[case]())
    began = time.process_time()
    with pytest.raises(BbgError, match="is damaged or no checkpoint of bbg"):
        Checkpoint.load(file)
    with pytest.raises(BbgError, match="is damaged, or holds more than tensors"):
        Weights.read(file)
    assert time.process_time() - began < 4


@pytest.mark.parametrize("legacy", [False, True])
def test_what_torch_saves_is_read(legacy: bool) -> None:
    tied = torch.randn(5, 5)
    state = {
        "tied": [tied, tied.t(), tied[1:3]],
        "dict": {("a", 1): (1, 2.5, None, True), "b": b"bytes"},
        "half": torch.ones(3, dtype=torch.bfloat16),
        "none": torch.empty(0, 4),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    found = read_torch(saved(state, _use_new_zipfile_serialization=not legacy))
    assert found["dict"] == state["dict"]
    assert all(map(torch.equal, found["tied"], state["tied"]))
    assert torch.equal(found["half"], state["half"])


def test_a_parameter_with_attributes_of_its_own_is_refused() -> None:
    """They took the place of the tensor's methods."""
    odd = torch.nn.Parameter(torch.ones(2))
    odd.is_floating_point = 0  # type: ignore[assignment,method-assign]
    with pytest.raises(ValueError, match=r"it calls torch\._utils _rebuild_parameter_with_state"):
        read_torch(saved({"weight": odd}))


@pytest.mark.parametrize("width", [5, 4000, 2**40])
def test_weights_are_compared_before_the_network_takes_memory(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    made: list[str] = []

    def counted(*arguments: Any) -> Any:
        network = build(*arguments)
        made.append(next(network.parameters()).device.type)
        return network

    monkeypatch.setattr(checkpoint, "build", counted)
    weights = build(RECIPE, 3, GREY).state_dict()
    trained = Checkpoint(RECIPE, 1, 0, weights, {}, ["a", "b", "c"], GREY)
    assert trained.network().state_dict().keys() == weights.keys()
    assert made == ["meta", "cpu"]
    made.clear()
    with pytest.raises(BbgError, match=r"do not fit this network|cannot be built"):
        replace(trained, recipe=replace(RECIPE, width=width)).network()
    assert made in (["meta"], [])
