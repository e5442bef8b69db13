"""Addresses as sources of images."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.colours import strongest_colour
from support.commands import refused, run

from bbg.errors import BbgError
from bbg.image import load_image
from bbg.sources import find
from bbg.sources.web import fetch


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Says which colour is the strongest."""
    return strongest_colour(tmp_path_factory.mktemp("model") / "net.bbg")


REDIRECTS = {
    "file": "file:///etc/passwd",
    "ftp": "ftp://localhost/x",
    "on": "/green.png",
    "loop": "/loop",
    "endless redirect": "/green.png",
    "huge redirect": "/green.png",
}


class Server(BaseHTTPRequestHandler):
    """Answers by the path."""

    def do_GET(self) -> None:
        picture = BytesIO()
        Image.new("RGB", (20, 20), (0, 250, 0)).save(picture, "PNG")
        name = self.path[1:].replace("%20", " ")
        if name == "missing.png":
            self.send_error(404)
            return
        if name in REDIRECTS:
            self.redirect(name)
            return
        if name in ("slow headers", "slow status"):
            try:
                for _ in range(100):
                    self.wfile.write(
                        b"X" if name == "slow status" else b"HTTP/1.0 200 OK\r\n" if not _ else b"X: y\r\n"
                    )
                    self.server.ended.wait(0.1)  # type: ignore[attr-defined]
            except OSError:
                pass
            return
        content = b"x" * 300_000 if name == "large" else picture.getvalue()
        self.send_response(200)
        if name != "endless":
            self.send_header("Content-Length", str(len(content) + 9 * (name == "short")))
        self.end_headers()
        try:
            while name == "endless":
                self.wfile.write(b"x" * 1000)
            if name == "silent":
                self.server.ended.wait()  # type: ignore[attr-defined]
            self.wfile.write(content)
        except OSError:
            pass

    def redirect(self, name: str) -> None:
        self.send_response(302)
        self.send_header("Location", REDIRECTS[name])
        if name == "huge redirect":
            self.send_header("Content-Length", "99999999999")
        self.end_headers()
        try:
            while name == "endless redirect":
                self.wfile.write(b"x" * 100_000)
        except OSError:
            pass

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    served = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    served.daemon_threads = True
    served.ended = threading.Event()  # type: ignore[attr-defined]
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.ended.set()  # type: ignore[attr-defined]
    served.shutdown()
    served.server_close()


def test_an_address_is_fetched_where_it_is_allowed(server: str, model: Path, tmp_path: Path, capsys: Any) -> None:
    words = [f"{server}/green.png", f"{server}/on", "--model", model, "--json", tmp_path / "out"]
    assert run("predict", *words) == 1
    assert "none is fetched unless you say so; add --allow-urls" in capsys.readouterr().err
    assert run("predict", *words, "--allow-urls") == 0
    found = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [line["image"] for line in found] == words[:2]
    assert {line["predictions"][0]["label"] for line in found} == {"green"}


@pytest.mark.parametrize("kind", ["endless", "huge"])
def test_what_stands_beside_a_redirect_is_not_read(server: str, kind: str) -> None:
    begun = time.monotonic()
    assert load_image(fetch(f"{server}/{kind}%20redirect", most=200_000)).shape == (20, 20, 3)
    assert time.monotonic() - begun < 3


def closed_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


NOT_FETCHED = {
    "missing.png": "the server says 404",
    "file": "Redirection to url 'file:///etc/passwd' is not allowed",
    "ftp": "the scheme is 'ftp', allowed are http and https",
    "loop": "redirect",
    "large": "larger than 0 MB, which is allowed",
    "endless": "larger than 0 MB, which is allowed",
    "silent": "cannot be fetched .*timed out",
    "short": "ended before the last byte",
}


@pytest.mark.parametrize("name", NOT_FETCHED)
def test_what_is_not_fetched_is_one_sentence(server: str, name: str) -> None:
    with pytest.raises(BbgError, match=NOT_FETCHED[name]) as caught:
        fetch(f"{server}/{name}", most=200_000, silence=0.5, longest=5)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://localhost/x", "data://x", "http://", "http://[", "gopher://x/"]
)
def test_only_http_is_fetched(url: str, model: Path, capsys: Any, tmp_path: Path) -> None:
    refused(tmp_path, capsys, url, "predict", url, "--model", model, "--allow-urls", status=1)


def test_a_slow_server_is_left(server: str) -> None:
    with pytest.raises(BbgError, match="not read in 0 s"):
        fetch(f"{server}/green.png", longest=0)
    for path in ("slow%20headers", "slow%20status"):
        begun = time.monotonic()
        with pytest.raises(BbgError, match="not read in 1 s"):
            fetch(f"{server}/{path}", longest=1)
        assert time.monotonic() - begun < 3
    with pytest.raises(BbgError, match="cannot be fetched"):
        fetch(f"http://127.0.0.1:{closed_port()}/x", silence=1)


def test_a_file_whose_name_looks_like_an_address_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("http:").mkdir()
    Path("http:/x.png").touch()
    assert list(find(["http://x.png"])) == [("http://x.png", "http://x.png")]


def test_the_start_needs_neither_opencv_nor_http() -> None:
    code = "import sys, bbg.sources, bbg.scoring; print([m for m in ('cv2', 'urllib.request') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
