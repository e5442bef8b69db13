"""The members of a tar file by their offsets, whatever a stranger wrote into it.

Python's tarfile gives up at the first damaged header, and takes a size on trust. Here what is damaged is told and
stepped over, and no member reaches beyond the file. Nothing is ever unpacked, so links and odd names lead nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

BLOCK = 512
SEARCHED = 2**20  # bytes that are looked through at a time for the next header
MOST_EXTRA = 2**16  # bytes of a long name or of what extends a header
FILE, FOLDER, LINK, OTHER = "file", "folder", "link", "other"
KINDS = {b"0": FILE, b"\0": FILE, b"7": FILE, b"5": FOLDER, b"1": LINK, b"2": LINK}
EMPTY = (b"1", b"2", b"3", b"4", b"5", b"6")  # types of members without contents, whatever their header says
EXTENDS = (b"x", b"g", b"L", b"K")  # types of members that tell of the next one


class Member(NamedTuple):
    """A member: its name, as bytes, where its contents begin, how many bytes they are, and what it is."""

    name: bytes
    offset: int
    size: int
    kind: str


class Broken(NamedTuple):
    """A place where the file is no tar file, and why."""

    offset: int
    reason: str


def members(file: BinaryIO) -> Iterator[Member | Broken]:
    """The members of `file` in their order, and the places where it is damaged.

    Behind a damaged place it goes on with the next header whose checksum is right. A file without the zeros that end
    every tar file is told as the last thing.
    """
    end, at, told = file.seek(0, 2), 0, dict[str, bytes]()
    while at + BLOCK <= end:
        file.seek(at)
        head = file.read(BLOCK)
        if not any(head):
            return
        found = _header(head)
        if found is None:
            yield Broken(at, "no header of a tar file")
            at, told = _next_header(file, at + BLOCK, end), {}
            continue
        name, size, type_ = found
        begin, extends = at + BLOCK, type_ in EXTENDS
        if not extends:
            name, size = told.get("path", name), _decimal(told.get("size"), size)
            size = 0 if type_ in EMPTY else size
        if begin + size > end or (extends and size > MOST_EXTRA):
            what = repr(name.decode(errors="replace")[:80])
            yield Broken(at, f"{what} has {size:,} bytes, and {end - begin:,} are left")
            at, told = _next_header(file, begin, end), {}
            continue
        at = begin + -(-size // BLOCK) * BLOCK
        if extends:
            told = told | _told(type_, file.read(size))
            continue
        sparse = any(key.startswith("GNU.sparse") for key in told)
        kind = OTHER if sparse else FOLDER if name.endswith(b"/") else KINDS.get(type_, OTHER)
        told = {}
        yield Member(name, begin, size, kind)
    yield Broken(end, "it ends without an end mark, so the rest may be missing")


def _header(head: bytes) -> tuple[bytes, int, bytes] | None:
    """Name, size and type of a member; None for a block that is no header."""
    stated = _number(head[148:156])
    if stated is None or stated != sum(head) - sum(head[148:156]) + 8 * ord(" "):
        return None
    size = _number(head[124:136])
    if size is None:
        return None
    name = head[:100].partition(b"\0")[0]
    prefix = head[345:500].partition(b"\0")[0] if head[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name), size, head[156:157]


def _number(field: bytes) -> int | None:
    """A number of a header, in octal digits, or in binary behind a first byte of 128; None where it is none."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.partition(b"\0")[0].strip(b" ")
    return (int(text, 8) if text else 0) if all(c in b"01234567" for c in text) else None


def _told(type_: bytes, body: bytes) -> dict[str, bytes]:
    """What a member says of the next one: of its long name, or in records `length key=value` of pax."""
    if type_ == b"L":
        return {"path": body.partition(b"\0")[0]}
    found: dict[str, bytes] = {}
    while type_ == b"x" and body:
        length = _decimal(body.partition(b" ")[0], 0)
        key, equals, value = body[:length].partition(b" ")[2].removesuffix(b"\n").partition(b"=")
        if not equals:
            break
        found[key.decode(errors="replace")] = value
        body = body[length:]
    return found


def _decimal(digits: bytes | None, otherwise: int) -> int:
    return int(digits) if digits is not None and digits.isdigit() and len(digits) < 20 else otherwise


def _next_header(file: BinaryIO, at: int, end: int) -> int:
    """Where the next header begins, from `at` on, which is a multiple of a block; `end` where there is none."""
    while at + BLOCK <= end:
        file.seek(at)
        part = file.read(SEARCHED)
        place = part.find(b"ustar", 257)
        while place >= 0:
            begin = place - 257
            if begin % BLOCK == 0 and _header(part[begin : begin + BLOCK]) is not None:
                return at + begin
            place = part.find(b"ustar", place + 1)
        at += SEARCHED
    return end
