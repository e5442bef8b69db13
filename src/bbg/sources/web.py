"""A file of the web: fetched by the standard library, within a time and a size."""

from __future__ import annotations

import time
from http.client import HTTPException
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
        with _opener().open(Request(url, headers={"User-Agent": f"bbg/{__version__}"}), timeout=silence) as answer:
            parts, size = [], 0
            while part := answer.read1(_PART):
                parts.append(part)
                size += len(part)
                if size > most:
                    raise BbgError(f"larger than {most / 2**20:,.0f} MB, which is allowed")
                if time.monotonic() > end:
                    raise BbgError(f"not read in {longest:.0f} s, which is allowed")
            if answer.length:  # of what the server has promised
                raise BbgError("the connection ended before the last byte")
            return b"".join(parts)
    except BbgError as error:
        raise BbgError(f"{url}: {error}; fetch it yourself, and give the file") from None
    except HTTPError as error:
        reason = " ".join(str(error.reason).split())
        raise BbgError(f"{url}: the server says {error.code} {reason}; give the address of {what}") from error
    except (OSError, HTTPException, ValueError) as error:  # ValueError: an address that is none
        why = getattr(error, "reason", None) or error
        raise BbgError(f"{url}: cannot be fetched ({why}); give the address of {what}") from error


def _check(url: str) -> None:
    if urlsplit(url).scheme.lower() not in SCHEMES:
        raise BbgError(f"the scheme is {urlsplit(url).scheme!r}, allowed are {' and '.join(SCHEMES)}")


class _Redirects(HTTPRedirectHandler):
    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        _check(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> OpenerDirector:
    """Knows http and https, and no files."""
    opener = OpenerDirector()
    handlers = (ProxyHandler, HTTPHandler, HTTPSHandler, _Redirects, HTTPErrorProcessor, HTTPDefaultErrorHandler)
    for handler in handlers:
        opener.add_handler(handler())
    return opener
