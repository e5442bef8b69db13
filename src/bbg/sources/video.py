"""The frames of a video or of a camera, by OpenCV (`pip install opencv-python-headless`) in a process of its own.

A damaged video may crash its decoder. That is then the error of this one video, as of any that cannot be read.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from bbg.errors import BbgError, not_installed
from bbg.formats import MAX_PIXELS
from bbg.reading import regular_file
from bbg.sources import decoder

SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}
CAMERA = decoder.CAMERA
QUIET = {"OPENCV_LOG_LEVEL": "OFF", "OPENCV_FFMPEG_LOGLEVEL": "-8"}  # what is wrong is told by our sentence
PIPE = 2**20  # bytes that wait between the processes; few at a time make it three times slower
LONGEST_LINE = 2000  # bytes that the decoder says of a frame
# A list of parts, or a playlist, would name other files.
FORMATS = "avi,mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpeg,mpegts,mpegvideo,m4v,asf"
ONLY = {"OPENCV_FFMPEG_CAPTURE_OPTIONS": f"format_whitelist;{FORMATS}|protocol_whitelist;file"}


def frames(source: str, every: int = 1) -> Iterator[tuple[str, np.ndarray | BbgError]]:
    """Every `every`-th frame of `source` as uint8 `[H, W, 3]`, red first, named `clip.mp4#12`, counted from 0.

    `source`: a file, or "camera:0". One frame is in memory. What cannot be read, and an end before the last frame that
    the file promises, is an error in the place of a frame.
    """
    try:
        started = _Decoder("frames", str(MAX_PIXELS), str(every), _place(source))
    except BbgError as error:
        yield source, error
        return
    number = 0
    with started as answers:
        while "number" in (said := answers.line()):
            number = said["number"]
            frame = answers.frame(*said["size"]) if "size" in said else None
            name = f"{source}#{number}"
            yield name, BbgError(f"{name}: this frame cannot be decoded") if frame is None else frame
            number += every
    name = f"{source}#{said.get('end', number)}"
    if "error" in said:
        yield name if number else source, BbgError(f"{name if number else source}: {said['error']}")
    elif source.startswith(CAMERA):
        yield name, BbgError(f"{source}: gives no more frames; look whether it is connected")
    elif said["end"] < 0.98 * said["promised"] - 1:  # it may be an estimate
        came = f"ends after {said['end']:,} frames of {said['promised']:,}"
        yield name, BbgError(f"{source}: {came}; it may be damaged")


def count(sources: Sequence[str], every: int = 1) -> int | None:
    """How many images `frames` will give of all `sources`, as the files promise; None where one does not say.

    A file that cannot be opened gives one, its error. A camera does not say, and is not opened.
    """
    if any(source.startswith(CAMERA) for source in sources):
        return None
    places = []
    for source in sources:
        with contextlib.suppress(BbgError):
            places.append(_place(source))
    total = len(sources) - len(places)
    if not places:
        return total
    try:
        started = _Decoder("count", *places)
    except BbgError:
        return None
    with started as answers:
        for _ in places:
            said = answers.line()
            promised = said.get("promised", 0)
            if promised is not None and promised <= 0:
                return None
            total += 1 if promised is None else -(-promised // every)
    return total


def _place(source: str) -> str:
    """`source` as the decoder takes it; BbgError where it cannot be read or OpenCV is not installed."""
    if find_spec("cv2") is None:
        raise not_installed(f"{source}: a video", "cv2")
    if source.startswith(CAMERA):
        number = source.removeprefix(CAMERA)
        if not (number.isascii() and number.isdecimal() and len(number) < 5):
            raise BbgError(f"{source!r} names no camera; give one by its number, such as {CAMERA}0")
        return source
    try:
        with regular_file(source):  # its reason is better than OpenCV's, which has none
            pass
    except OSError as error:
        raise BbgError(f"{source}: cannot be read ({error.strerror}); give a readable video") from error
    return os.path.abspath(source)  # in full, since a name with a percent sign or a colon has a meaning of its own


class _Decoder:
    """A process that runs `decoder.py`, ended with the block. Ctrl-C does not reach it."""

    def __init__(self, *words: str) -> None:
        # OpenCV is looked for where it would be imported from here.
        environment = {**QUIET, **os.environ, **ONLY, "PYTHONPATH": os.pathsep.join(sys.path)}
        try:
            self._process = subprocess.Popen(
                [sys.executable or "python3", "-P", decoder.__file__, *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            why = f"{error.strerror}; close other programs"
            raise BbgError(f"a video needs a process of its own, which cannot be started: {why}") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        with contextlib.suppress(ImportError, AttributeError, OSError):  # where the system has it, and room
            import fcntl

            fcntl.fcntl(self._output, fcntl.F_SETPIPE_SZ, PIPE)

    def __enter__(self) -> _Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._input.close()
        self._output.close()

    def line(self) -> dict[str, Any]:
        """What it says next; an error where it crashed instead."""
        line = self._output.readline(LONGEST_LINE)
        return json.loads(line) if line.endswith(b"\n") else {"error": self._crash()}

    def frame(self, height: int, width: int) -> np.ndarray | None:
        """The frame that its last line announced; None where it crashed instead."""
        pixels = np.empty((height, width, 3), np.uint8)
        return pixels if self._output.readinto(pixels) == pixels.nbytes else None  # type: ignore[attr-defined]

    def _crash(self) -> str:
        status = self._process.wait()
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return f"the decoder of OpenCV crashed ({how}); the video may be damaged, give another one"
