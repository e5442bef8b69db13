"""Adding a model to the zoo: from a file or from the web, checked before it is kept."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bbg.errors import BbgError
from bbg.files import write_bytes
from bbg.graph.file import decode, read_bytes
from bbg.reading import contents
from bbg.zoo.listing import added, names, path

MOST_BYTES = 256 * 2**20  # of a model of the web; packed networks have a hundredth of it
LONGEST = 600.0  # seconds
NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}"
MOST_CARD = 2**20


def add(source: str | os.PathLike[str], sha256: str | None = None, name: str | None = None) -> Path:
    """Take the packed file `source`, a path or an address (http, https), into the zoo; returns where it lies.

    The model is called as the file is, without `.bbg`, or `name`. A card beside a file, `<file's name>.md`, is taken
    along. `sha256`: the checksum of the file in hexadecimal, which must fit. An address needs it, since whoever serves
    a file can change it.

    Raises BbgError for what is no sound packed file, for a checksum that differs or is missing, for a name of other
    characters than letters, digits, `-` and `_`, and for a name of the zoo that means another file.
    """
    text = os.fspath(source)
    remote = "://" in text
    place = _path_of(text) if remote else Path(text)
    called = place.name.removesuffix(".bbg") if name is None else name
    if not re.fullmatch(NAME, called):
        raise BbgError(f"a model cannot be called {called!r}; give it a name of letters, digits, - and _, 100 at most")
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise BbgError(f"the checksum is {sha256!r}; a SHA-256 has 64 hexadecimal digits")
    data = _fetched(text, sha256) if remote else read_bytes(place)
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256.lower():
        raise BbgError(f"{text}: its SHA-256 is {found}, not {sha256.lower()}; ask whoever publishes it which is right")
    try:
        decode(data)
    except BbgError as error:
        raise BbgError(f"{text}: {error}") from error
    if called in names():
        old = path(called)
        if read_bytes(old) != data:
            raise BbgError(f"the zoo has another model called {called!r}, {old}; give this one another name")
        return old
    folder = added()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BbgError(f"{folder}: cannot be made ({error.strerror}); set BBG_ZOO to another folder") from error
    kept = folder / f"{called}.bbg"
    if os.path.lexists(kept):  # a folder, a pipe, a link that leads nowhere: not one of the models
        raise BbgError(f"{kept}: is no file; move it away, or give another name")
    _take_card(None if remote else place.with_suffix(".md"), folder / f"{called}.md")
    write_bytes(kept, data)
    return kept


def _take_card(card: Path | None, kept: Path) -> None:
    """Keep a copy of `card`, where there is one; one that was left by another model goes."""
    try:
        with suppress(FileNotFoundError):
            kept.unlink()
        if card is not None and card.is_file() and card.stat().st_size <= MOST_CARD:
            write_bytes(kept, contents(card, MOST_CARD))
    except OSError as error:
        raise BbgError(f"{card}: the card cannot be taken along ({error.strerror}); move it away") from error


def _path_of(address: str) -> Path:
    try:
        return Path(unquote(urlsplit(address).path))
    except ValueError as error:
        raise BbgError(f"{address}: is no address ({error}); give one such as https://host/net.bbg") from error


def _fetched(address: str, sha256: str | None) -> bytes:
    from bbg.sources.web import fetch  # here, since its imports take longer than those of the rest

    if sha256 is None:
        raise BbgError(f"{address}: a model of the web needs its SHA-256; ask whoever publishes it, and give it")
    return fetch(address, MOST_BYTES, longest=LONGEST, what="a packed file")
