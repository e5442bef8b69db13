"""Files of `torch.save` that a stranger may have written: read without running code, in bounded memory and time.

`torch.load(weights_only=True)` runs no code. It does not keep a file of a kilobyte from standing for gigabytes: parts
of the archive may be compressed, a list may hold itself, or another one twice, forty levels deep, a tensor may have
more numbers than its storage, and what takes memory by a number alone, as `bytearray` does, is called.
"""

from __future__ import annotations

import codecs
import pickletools
import re
import zipfile
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import torch

MOST_VALUES = 4 * 10**5  # numbers, texts, tensors and containers, each as often as it is referred to
DEEPEST = 100  # containers in containers
LONGEST = 2**20  # characters of a text
LARGEST = 2**64  # integers are below
SHARED = 4  # times that the bytes of a file may be referred to: tied weights are there once
ZIP = b"PK\x03\x04"
CODEC = 40  # characters of the name of an encoding
LEGACY = 5  # pickles at the beginning of a file of the form before torch 1.6
# What tensors and containers are made of in a pickle, by module and name. A storage, a type and a function come apart.
MADE_OF = re.compile(
    r"collections OrderedDict|_codecs encode|torch Size|torch [A-Za-z0-9]+Storage|"
    r"torch (float|bfloat|int|uint|bool|double|half|long|short)[0-9a-z_]*|"
    r"torch[.]_utils _rebuild_(tensor|tensor_v2|parameter)"
)


def read_torch(content: bytes) -> Any:
    """What `torch.save` wrote to the file with these bytes, on the CPU.

    ValueError for what takes more than the file holds; any exception of `torch.load` for what is damaged, or is more
    than numbers, texts, tensors and containers.
    """
    if content.startswith(ZIP):
        _check_archive(content)
    else:
        file = BytesIO(content)
        for _ in range(LEGACY):
            _check_encodings(file)
            _check_pickle(file)
    state = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    _check_values(state, len(content))
    return state


def _check_archive(content: bytes) -> None:
    with zipfile.ZipFile(BytesIO(content)) as archive:
        parts = archive.infolist()
        if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
            raise ValueError("its parts are compressed, which torch.save does not do")
        if sum(part.file_size for part in parts) > len(content):
            raise ValueError("its parts overlap")
        for part in parts:
            if part.filename.endswith(".pkl"):
                pickle = BytesIO(archive.read(part))
                _check_encodings(pickle)
                _check_pickle(pickle)


def _check_pickle(file: BytesIO) -> None:
    """Refuse what no tensor or container is made of, and tuples of tuples that would take for ever to hash.

    These are hashed as soon as one is a key of a dict. The pickle is not run. Each step takes values off a stack and
    puts others there; here they are the sizes of what is meant, a tuple's being 1 and those of all that it holds. What
    can change later has no hash, and counts as 1.
    """
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
    for step, argument, _ in pickletools.genops(file):
        if step.name in ("STACK_GLOBAL", "INST") or (step.name == "GLOBAL" and not MADE_OF.fullmatch(str(argument))):
            raise ValueError(f"it calls {argument or 'a function'}; tensors and containers are read")
        if step.name == "MARK":
            marks.append(len(stack))
        elif step.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[int(argument)] = stack[-1]  # type: ignore[arg-type]
        elif step.name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif step.name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[int(argument)])  # type: ignore[arg-type]
        elif step.name == "DUP":
            stack.append(stack[-1])
        else:
            wanted = step.stack_before
            marked = pickletools.markobject in wanted
            begin = marks.pop() if marked else len(stack)
            begin -= wanted.index(pickletools.markobject) if marked else len(wanted)
            if begin < 0:
                raise ValueError("its pickle takes more values than there are")
            taken = stack[begin:]
            del stack[begin:]
            size = 1 + sum(taken) if "TUPLE" in step.name else 1
            if size > MOST_VALUES:
                raise ValueError("it holds tuples in tuples, too many to be read")
            stack.extend([size] * len(step.stack_after))


def _check_encodings(file: BytesIO) -> None:
    """Refuse encodings but that of bytes, latin1: hexadecimal digits of such digits of ... double each time."""
    begin = file.tell()
    texts = {argument for _, argument, _ in pickletools.genops(file) if isinstance(argument, str)}
    file.seek(begin)
    if "_codecs encode" in texts and any(map(_is_codec, texts)):
        raise ValueError("it encodes texts, and names an encoding")


def _is_codec(text: str) -> bool:
    try:
        return len(text) < CODEC and codecs.lookup(text).name != "iso8859-1"
    except (LookupError, ValueError):
        return False


def _check_values(state: Any, most: int) -> None:
    """Refuse what is larger, written out in full, than a file of `most` bytes accounts for."""
    waiting: list[tuple[Any, int]] = [(state, 0)]
    values = numbers = 0
    while waiting:
        value, depth = waiting.pop()
        values += 1
        if values > MOST_VALUES or depth > DEEPEST:
            raise ValueError("it holds lists in lists, too many to be read")
        if isinstance(value, torch.Tensor):
            numbers += _bytes_of(value)
            if numbers > SHARED * most:
                raise ValueError("its tensors have more numbers than the file")
        elif isinstance(value, Mapping):
            waiting.extend((each, depth + 1) for pair in value.items() for each in pair)
        elif isinstance(value, (list, tuple, set, frozenset)):
            waiting.extend((each, depth + 1) for each in value)
        elif isinstance(value, (str, bytes, bytearray)) and len(value) > LONGEST:
            raise ValueError(f"it holds a text of {len(value):,} characters")
        elif isinstance(value, int) and abs(value) >= LARGEST:
            raise ValueError("it holds an integer of more than 64 bits")


def _bytes_of(tensor: torch.Tensor) -> int:
    """Bytes of all numbers, each of which must have a place of its own in the storage."""
    if tensor.layout is not torch.strided or tensor.device.type != "cpu":
        raise ValueError(f"it holds a tensor of layout {tensor.layout} on {tensor.device}; dense ones are read")
    size = tensor.numel() * tensor.element_size()
    if size > tensor.untyped_storage().nbytes():
        raise ValueError("it holds a tensor with more numbers than its storage")
    return size
