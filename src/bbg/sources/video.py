"""The frames of a video or of a camera, by OpenCV (`pip install opencv-python-headless`), imported when it is used."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from bbg.errors import BbgError, not_installed
from bbg.formats import MAX_PIXELS

SUFFIXES = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}
CAMERA = "camera:"  # and its number


def frames(source: str, every: int = 1) -> Iterator[tuple[str, np.ndarray | BbgError]]:
    """Every `every`-th frame of `source` as uint8 `[H, W, 3]`, red first, named `clip.mp4#12`, counted from 0.

    `source`: a file, or "camera:0". One frame is in memory. What cannot be read, and an end before the last frame that
    the file promises, is an error in the place of a frame.
    """
    try:
        capture = _open(source)
    except BbgError as error:
        yield source, error
        return
    try:
        number = 0
        pixels = 0 if source.startswith(CAMERA) else _pixels(capture)
        if pixels > MAX_PIXELS:
            yield source, BbgError(f"{source}: has frames of {pixels:,} pixels; allowed are at most {MAX_PIXELS:,}")
            return
        while capture.grab():
            if number % every == 0:
                sound, frame = capture.retrieve()
                if sound:
                    yield f"{source}#{number}", np.ascontiguousarray(frame[:, :, ::-1])
                else:
                    yield f"{source}#{number}", BbgError(f"{source}#{number}: this frame cannot be decoded")
            number += 1
        promised = 0 if source.startswith(CAMERA) else _promised(capture)
        if source.startswith(CAMERA):
            yield f"{source}#{number}", BbgError(f"{source}: gives no more frames; look whether it is connected")
        elif number < 0.98 * promised - 1:  # it may be an estimate
            yield (
                f"{source}#{number}",
                BbgError(f"{source}: ends after {number:,} frames of {promised:,}; it may be damaged"),
            )
    finally:
        capture.release()


def count(source: str, every: int = 1) -> int | None:
    """How many images `frames` will give, as the file promises; None for a camera, and for a file that does not say."""
    if source.startswith(CAMERA):
        return None
    try:
        capture = _open(source)
    except BbgError:
        return 1  # the error
    promised = _promised(capture)
    capture.release()
    return -(-promised // every) if promised > 0 else None


def _promised(capture: Any) -> int:
    """The frames that a file says it has; some formats only estimate them, or have none, which is 0 or less."""
    import cv2

    return int(capture.get(cv2.CAP_PROP_FRAME_COUNT))


def _pixels(capture: Any) -> int:
    """The pixels of a frame, as the file says before one is decoded."""
    import cv2

    return int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)) * int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))


def _open(source: str) -> Any:
    """OpenCV's capture of `source`; BbgError where it is not installed or cannot open it."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # what is wrong is told by our sentence
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        import cv2
    except ImportError as error:
        raise not_installed(f"{source}: a video", "cv2") from error
    if source.startswith(CAMERA):
        number = source.removeprefix(CAMERA)
        if not (number.isascii() and number.isdecimal() and len(number) < 5):
            raise BbgError(f"{source!r} names no camera; give one by its number, such as {CAMERA}0")
        capture = cv2.VideoCapture(int(number))
    else:
        try:
            with open(source, "rb"):  # its reason is better than OpenCV's, which has none
                pass
        except OSError as error:
            raise BbgError(f"{source}: cannot be read ({error.strerror}); give a readable video") from error
        # A path in full, since a name with a percent sign or a colon has a meaning of its own.
        capture = cv2.VideoCapture(os.path.abspath(source), cv2.CAP_FFMPEG)
    if not capture.isOpened():
        capture.release()
        what = "no camera of this number" if source.startswith(CAMERA) else "damaged or no video"
        raise BbgError(f"{source}: {what} that OpenCV can open; give another one")
    return capture
