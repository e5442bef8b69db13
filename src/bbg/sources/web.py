"""A file of the web: fetched by the standard library, within a time and a size."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from io import BufferedReader, RawIOBase
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
)

from bbg._version import __version__
from bbg.errors import BbgError

SCHEMES = ("http", "https")
MOST_BYTES = 64 * 2**20
SILENCE, LONGEST = 10.0, 60.0  # seconds: without a byte, and until the last one
_PART = 2**16


def fetch(
    url: str, most: int = MOST_BYTES, silence: float = SILENCE, longest: float = LONGEST, what: str = "an image"
) -> bytes:
    """What lies at `url`; BbgError where it is of another scheme than http and https, too large, too slow or missing.

    An address that leads on is followed, to http and https alone. `most`: bytes. `silence`, `longest`: seconds. `what`
    should lie there, for what an error says.
    """
    end = time.monotonic() + longest
    try:
        _check(url)
        request = Request(url, headers={"User-Agent": f"bbg/{__version__}"})
        with _opener(end, longest).open(request, timeout=silence) as answer:
            parts, size = [], 0
            while part := answer.read1(_PART):
                parts.append(part)
                size += len(part)
                if size > most:
                    raise BbgError(f"larger than {most / 2**20:,.0f} MB, which is allowed")
            if answer.length:  # of what the server has promised
                raise BbgError("the connection ended before the last byte")
            return b"".join(parts)
    except BbgError as error:
        raise BbgError(f"{url}: {error}; fetch it yourself, and give the file") from None
    except HTTPError as error:
        error.close()
        reason = " ".join(str(error.reason).split())
        raise BbgError(f"{url}: the server says {error.code} {reason}; give the address of {what}") from error
    except (OSError, HTTPException, ValueError) as error:  # ValueError: an address that is none
        why = getattr(error, "reason", None) or error
        raise BbgError(f"{url}: cannot be fetched ({why}); give the address of {what}") from error


def _check(url: str) -> None:
    if urlsplit(url).scheme.lower() not in SCHEMES:
        raise BbgError(f"the scheme is {urlsplit(url).scheme!r}, allowed are {' and '.join(SCHEMES)}")


class _Redirects(HTTPRedirectHandler):
    def http_error_302(self, req: Request, fp: Any, code: int, msg: str, headers: Any) -> Any:
        fp.close()  # else its body would be read, however large it is
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        _check(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Timed(RawIOBase):
    """The bytes of a connection, none of which is awaited after `end`: the headers may come slowly, too."""

    def __init__(self, sock: Any, opened: Any, end: float, longest: float) -> None:
        self._sock, self._opened, self._end, self._longest = sock, opened, end, longest
        self._silence = sock.gettimeout()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if (left := self._end - time.monotonic()) > 0:
            try:
                self._sock.settimeout(min(left, self._silence))
                return int(self._sock.recv_into(buffer))
            except TimeoutError:
                if left > self._silence:
                    raise
        raise BbgError(f"not read in {self._longest:.0f} s, which is allowed")

    def close(self) -> None:
        self._opened.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, sock: Any, *words: Any, end: float, longest: float, **others: Any) -> None:
        super().__init__(sock, *words, **others)
        self.fp = BufferedReader(_Timed(sock, self.fp, end, longest))


class _Connections(HTTPHandler, HTTPSHandler):
    """Connections whose answers end in time."""

    def __init__(self, end: float, longest: float) -> None:
        super().__init__()
        self._response = partial(_Response, end=end, longest=longest)

    def _made(self, kind: Callable[..., HTTPConnection], *words: Any, **others: Any) -> HTTPConnection:
        connection = kind(*words, **others)
        connection.response_class = self._response  # type: ignore[assignment]
        return connection

    def http_open(self, req: Request) -> HTTPResponse:
        return self.do_open(partial(self._made, HTTPConnection), req)

    def https_open(self, req: Request) -> HTTPResponse:
        return self.do_open(partial(self._made, HTTPSConnection), req)


def _opener(end: float, longest: float) -> OpenerDirector:
    """Knows http and https, and no files."""
    opener = OpenerDirector()
    opener.add_handler(_Connections(end, longest))
    for handler in (ProxyHandler, _Redirects, HTTPErrorProcessor, HTTPDefaultErrorHandler):
        opener.add_handler(handler())
    return opener
