"""Videos and addresses as sources of images."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.commands import refused, run
from torch import nn

import bbg
from bbg.errors import BbgError
from bbg.sources import find
from bbg.sources.find import COUNTED
from bbg.sources.web import fetch

SIZE = (48, 64)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Says which colour is the strongest."""
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3, bias=False))
    with torch.no_grad():
        net[2].weight.copy_(10 * torch.eye(3))
    file = tmp_path_factory.mktemp("model") / "net.bbg"
    bbg.convert(net, file, torch.randn(2, 3, 16, 16), preprocess=bbg.Preprocess(16), labels=["red", "green", "blue"])
    return file


# Videos ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25 frames: 10 red ones, 10 green ones, 5 blue ones; grey grows in them by the frame."""
    cv2 = pytest.importorskip("cv2")
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"MJPG"), 10, SIZE[::-1])
    for number in range(25):
        frame = np.full((*SIZE, 3), 4 * number, np.uint8)
        frame[:, :, number // 10] = 250  # red first
        writer.write(frame[:, :, ::-1])
    writer.release()
    return path


def test_the_frames_of_a_video_are_its_frames(clip: Path) -> None:
    found = dict(find([str(clip)]))
    assert list(found) == [f"{clip}#{number}" for number in range(25)]
    for number, frame in enumerate(found.values()):
        assert isinstance(frame, np.ndarray)
        assert frame.shape == (*SIZE, 3)
        wanted = np.full(3, 4 * number)
        wanted[number // 10] = 250
        assert np.abs(frame.mean((0, 1)) - wanted).max() < 6, number


@pytest.mark.parametrize("every", [1, 7, 30])
def test_each_nth_frame_is_a_line(clip: Path, model: Path, every: int, tmp_path: Path) -> None:
    assert run("predict", clip, "--model", model, "--every", every, "--json", tmp_path / "out", "--batch", 4) == 0
    found = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [line["image"] for line in found] == [f"{clip}#{number}" for number in range(0, 25, every)]
    colours = [("red", "green", "blue")[number // 10] for number in range(0, 25, every)]
    assert [line["predictions"][0]["label"] for line in found] == colours


def test_a_video_in_a_folder_stands_among_its_images(clip: Path) -> None:
    Image.new("RGB", (9, 9)).save(clip.parent / "a.png")
    assert [name for name, _ in find([str(clip.parent)])][:2] == [str(clip.parent / "a.png"), f"{clip}#0"]


@pytest.mark.parametrize("every", [1, 7, 24, 25, 30])
def test_a_video_says_how_many_frames_it_has(clip: Path, every: int) -> None:
    bad = clip.parent / "bad.avi"
    bad.write_bytes(b"no video")
    sources = [str(clip), str(bad), "x.jpg", str(clip)]
    assert find(sources, every=every).total() == len(list(find(sources, every=every)))
    bad.unlink()


def test_of_a_camera_and_of_many_videos_only_the_end_tells(clip: Path) -> None:
    assert find(["camera:0", "x.jpg"]).total() is None, "and the camera is not opened"
    assert find([str(clip)] * COUNTED).total() == 25 * COUNTED
    assert find([str(clip)] * (COUNTED + 1)).total() is None
    assert find(["-"], BytesIO(f"{clip}\n".encode())).total() is None


def stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path, capture: str) -> None:
    """A module cv2 whose VideoCapture has these methods, for the process that decodes."""
    body = "import os, signal, time, numpy as np\nclass VideoCapture:\n" + textwrap.indent(
        textwrap.dedent(capture), "    "
    )
    names = ("CAP_FFMPEG", "CAP_PROP_FRAME_COUNT", "CAP_PROP_FRAME_WIDTH", "CAP_PROP_FRAME_HEIGHT")
    (folder / "cv2.py").write_text(body + "".join(f"\n{name} = {i}" for i, name in enumerate(names)))
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize("frames", [0.0, -1.0, -9.2e18])
def test_a_video_that_promises_no_frames_is_not_counted(
    frames: float, clip: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    capture = f"""
        def __init__(self, *source): pass
        def isOpened(self): return True
        def get(self, what): return {frames}
    """
    stand_in(monkeypatch, tmp_path, capture)
    assert find([str(clip)]).total() is None


CRASHES = {
    "opening": ("os.abort()", "True", "{path}: the decoder of OpenCV crashed (SIGABRT)"),
    "the third frame": (
        "pass",
        "self.n < 2 or os.kill(os.getpid(), 11)",
        "{path}#2: the decoder of OpenCV crashed (SIGSEGV)",
    ),
    "memory": ("raise MemoryError", "True", "{path}: the decoder of OpenCV crashed (exit status 1)"),
}


@pytest.mark.parametrize("case", CRASHES)
def test_a_decoder_that_crashes_is_the_error_of_one_video(
    case: str, monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path
) -> None:
    opens, grabs, words = CRASHES[case]
    capture = f"""
        def __init__(self, *source): self.n = 0; {opens}
        def isOpened(self): return True
        def get(self, what): return 9
        def grab(self): return {grabs}
        def retrieve(self): self.n += 1; return True, np.full((9, 9, 3), (250, 0, 0), np.uint8)  # blue first
    """
    stand_in(monkeypatch, tmp_path, capture)
    path, picture = tmp_path / "x.avi", tmp_path / "y.png"
    path.touch()
    Image.new("RGB", (9, 9), (0, 250, 0)).save(picture)
    assert run("predict", path, picture, "--model", model, "--json", tmp_path / "out") == 1
    found = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert [line["predictions"][0]["label"] for line in found if "error" not in line][-1] == "green"
    (error,) = [line["error"] for line in found if "error" in line]
    assert error.startswith(words.format(path=path))


def bottom_up_avi() -> bytes:
    """An AVI of raw pixels whose rows begin at the bottom, which OpenCV 5.0 reads beside its memory."""
    width, height = 320, 240

    def numbers(*values: int) -> bytes:
        return b"".join((value % 2**32).to_bytes(4, "little") for value in values)

    def chunk(name: bytes, content: bytes) -> bytes:
        return name + numbers(len(content)) + content

    main = numbers(40_000, 0, 0, 16, 5, 0, 1, 0, width, height, 0, 0, 0, 0)
    stream = b"vids" + numbers(0, 0, 0, 0, 1, 25, 0, 5, 100_000, -1, 0, 0, 0)
    pixels = numbers(40, width, height) + b"\1\0\x18\0" + numbers(0, 3 * width * height, 0, 0, 0, 0)
    streams = chunk(b"LIST", b"strl" + chunk(b"strh", stream) + chunk(b"strf", pixels))
    frames = 5 * chunk(b"00dc", b"@" * (3 * width * height))
    header = chunk(b"LIST", b"hdrl" + chunk(b"avih", main) + streams)
    return chunk(b"RIFF", b"AVI " + header + chunk(b"LIST", b"movi" + frames))


def test_a_video_that_crashes_opencv_leaves_the_others(clip: Path, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "a.avi").write_bytes(bottom_up_avi())
    (folder / "b.avi").write_bytes(clip.read_bytes())
    assert run("predict", folder, "--model", model, "--json", tmp_path / "out") in (0, 1)
    found = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert sum(line["image"].startswith(str(folder / "b.avi")) for line in found) == 25
    assert next(line["image"] for line in found).startswith(str(folder / "a.avi"))


def test_the_frames_do_not_wait_in_memory(clip: Path) -> None:
    """One after the other is decoded, however long the video is."""
    taken = iter(find([str(clip)] * 100))
    for _ in range(3):
        next(taken)
    taken.close()  # type: ignore[attr-defined]


def half(clip: Path, path: Path) -> None:
    content = clip.read_bytes()
    path.write_bytes(content[: len(content) // 2])


BAD = {
    "no video": (lambda clip, path: path.write_bytes(b"no video"), "damaged or no video"),
    "empty": (lambda clip, path: path.touch(), "damaged or no video"),
    "a pipe": (lambda clip, path: os.mkfifo(path), "is a pipe or a device"),
    "missing": (lambda clip, path: None, "cannot be read (No such file"),
    "cut off": (half, "it may be damaged"),
    "a name with a pattern of numbers": (lambda clip, path: None, "cannot be read (No such file"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_video_is_a_line_with_its_error(case: str, clip: Path, model: Path, tmp_path: Path) -> None:
    write, words = BAD[case]
    path = tmp_path / ("x%03d.mp4" if "numbers" in case else "x.avi")
    write(clip, path)
    assert run("predict", path, clip, "--model", model, "--json", tmp_path / "out") == 1
    found = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    (error,) = [line for line in found if "error" in line]
    assert words in error["error"]
    assert sum(line["image"].startswith(str(clip)) for line in found) == 25


def test_a_camera_is_a_source(monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path) -> None:
    """A stand-in for one: three frames, then Ctrl-C, which ends the run and keeps what it wrote."""
    capture = f"""
        left = 3
        def __init__(self, number): assert number == 7
        def isOpened(self): return True
        def get(self, what): return 0
        def grab(self):
            self.left -= 1
            if self.left < 0:
                time.sleep(1)  # for the answers
                os.kill(os.getppid(), signal.SIGINT)
                time.sleep(60)
            return True
        def retrieve(self): return True, np.full(({SIZE[0]}, {SIZE[1]}, 3), (250, 0, 0), np.uint8)  # blue first
    """
    stand_in(monkeypatch, tmp_path, capture)
    assert run("predict", "camera:7", "--model", model, "--json", tmp_path / "out") == 0
    found = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert found[0]["image"] == "camera:7#0"
    assert found[0]["predictions"][0]["label"] == "blue"


@pytest.mark.parametrize(("source", "words"), [("camera:x", "names no camera"), ("camera:99", "no camera of this")])
def test_a_camera_that_is_none_is_told(source: str, words: str, model: Path, capfd: Any) -> None:
    pytest.importorskip("cv2")
    assert run("predict", source, "--model", model) == 1
    assert words in capfd.readouterr().err.splitlines()[-1]  # a test before may have let OpenCV speak


def test_without_opencv_the_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    (tmp_path / "x.mp4").touch()
    assert run("predict", tmp_path / "x.mp4", "--model", model) == 1
    assert (
        "a video needs cv2, which is not installed; run pip install opencv-python-headless" in capsys.readouterr().err
    )


# Addresses ------------------------------------------------------------------------------------------------------------


class Server(BaseHTTPRequestHandler):
    """Answers by the path."""

    def do_GET(self) -> None:
        picture = BytesIO()
        Image.new("RGB", (20, 20), (0, 250, 0)).save(picture, "PNG")
        name = self.path[1:].replace("%20", " ")
        if name == "missing.png":
            self.send_error(404)
            return
        if name in ("file", "ftp", "on", "loop"):
            where = {"file": "file:///etc/passwd", "ftp": "ftp://localhost/x", "on": "/green.png", "loop": "/loop"}
            self.send_response(302)
            self.send_header("Location", where[name])
            self.end_headers()
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


# A checkpoint ---------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_refused_with_the_command_to_run(tmp_path: Path, capsys: Any) -> None:
    torch.save({"version": 3}, tmp_path / "last one.ckpt")
    command = f"bbg convert '{tmp_path}/last one.ckpt' -o 'last one.bbg'"
    refused(tmp_path, capsys, command, "predict", "x.jpg", "--model", tmp_path / "last one.ckpt")
