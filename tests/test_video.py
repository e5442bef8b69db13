"""Videos and cameras as sources of images."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.colours import strongest_colour
from support.commands import refused, run

from bbg.sources import find
from bbg.sources.find import COUNTED

SIZE = (48, 64)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Says which colour is the strongest."""
    return strongest_colour(tmp_path_factory.mktemp("model") / "net.bbg")


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


def test_a_list_of_parts_is_no_video(clip: Path) -> None:
    """It names other files, which nobody gave."""
    parts = clip.with_name("parts.avi")
    parts.write_text(f"ffconcat version 1.0\nfile {clip.name}\n")
    ((name, error),) = find([str(parts)])
    parts.unlink()
    assert name == str(parts)
    assert "damaged or no video" in str(error)


def test_a_name_of_any_bytes_is_a_name(clip: Path) -> None:
    names = ["-x.avi", "a\nb.avi", "%03d.avi", "file:x.avi", "\udce9.avi"]
    for name in names:
        try:
            shutil.copy(clip, path := clip.with_name(name))
        except OSError:
            continue  # this file system takes text only
        assert sum(isinstance(frame, np.ndarray) for _, frame in find([str(path)])) == 25, name
        path.unlink()


def ended(process: int, seconds: float = 5) -> bool:
    """Whether the process is gone, or waits for nobody but its parent."""
    state = Path(f"/proc/{process}/stat")
    for _ in range(int(20 * seconds)):
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes cannot be looked at here")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, None])
def test_the_decoder_ends_with_whoever_waits_for_it(
    how: signal.Signals | None, model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also one that has nothing to say for a long time."""
    capture = f"""
        def __init__(self, *source): open({str(tmp_path / "begun")!r}, "w").write(str(os.getpid()))
        def isOpened(self): return True
        def get(self, what): return 9
        def grab(self): time.sleep(0.01); return True
        def retrieve(self): return True, np.zeros((9, 9, 3), np.uint8)
    """
    stand_in(monkeypatch, tmp_path, capture)
    (tmp_path / "x.avi").touch()
    images = iter(find([str(tmp_path / "x.avi")], every=10**6 if how else 1))
    if how is None:
        next(images)
        images.close()  # type: ignore[attr-defined]
        assert ended(int((tmp_path / "begun").read_text()), 0.1)
        return
    path = os.pathsep.join(filter(None, sys.path))
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from bbg.sources import find; list(find([sys.argv[1]], every=10**6))"
    command = [sys.executable, "-c", code, str(tmp_path / "x.avi")]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.DEVNULL)
    while not (tmp_path / "begun").exists() or not (tmp_path / "begun").read_text():
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(how)
    process.wait(10)
    assert ended(int((tmp_path / "begun").read_text()))


def test_a_decoder_that_cannot_be_started_is_an_error(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    found = find([str(clip)])
    assert found.total() is None
    ((_, error),) = found
    assert "cannot be started: Too many open files" in str(error)


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
                time.sleep(20)
            return True
        def retrieve(self): return True, np.full(({SIZE[0]}, {SIZE[1]}, 3), (250, 0, 0), np.uint8)  # blue first
    """
    stand_in(monkeypatch, tmp_path, capture)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background may ignore it
    try:
        status = run("predict", "camera:7", "--model", model, "--json", tmp_path / "out")
    finally:
        signal.signal(signal.SIGINT, before)
    assert status == 0
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


# A checkpoint ---------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_refused_with_the_command_to_run(tmp_path: Path, capsys: Any) -> None:
    torch.save({"version": 3}, tmp_path / "last one.ckpt")
    command = f"bbg convert '{tmp_path}/last one.ckpt' -o 'last one.bbg'"
    refused(tmp_path, capsys, command, "predict", "x.jpg", "--model", tmp_path / "last one.ckpt")
