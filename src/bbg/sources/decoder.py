"""Decodes a video in a process of its own, which a damaged or malicious file may crash or fill.

`bbg.sources.video` runs this file as a script. It imports nothing of bbg:

    decoder.py frames MOST EVERY SOURCE    # the frames, none of more than MOST pixels
    decoder.py count SOURCE...             # how many frames each file promises, null where it cannot be opened

A line of JSON comes for each frame, `{"number": 3, "size": [H, W]}` and then its `H * W * 3` bytes, red first; without
`size` where it could not be decoded. `{"end": 25, "promised": 25}` or `{"error": ...}` comes last.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO

CAMERA = "camera:"  # and its number
Record = tuple[dict[str, Any], Any]  # what the line says, and what follows it


def opened(source: str) -> Any:
    """OpenCV's capture of a path or `camera:0`, or None."""
    import cv2

    if source.startswith(CAMERA):
        capture = cv2.VideoCapture(int(source.removeprefix(CAMERA)))
    else:
        capture = cv2.VideoCapture(_as_text(source), cv2.CAP_FFMPEG)
    return capture if capture.isOpened() else None


def _as_text(path: str) -> str:
    """A path to the same file that is UTF-8: OpenCV crashes on others."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return f"/dev/fd/{os.open(path, os.O_RDONLY)}"
    return path


def promised(capture: Any) -> int:
    """The frames that a file says it has; some formats only estimate them, or have none, which is 0 or less."""
    import cv2

    return int(capture.get(cv2.CAP_PROP_FRAME_COUNT))


def frames(source: str, most: int, every: int) -> Iterator[Record]:
    import cv2
    import numpy as np

    capture = opened(source)
    if capture is None:
        what = "no camera of this number" if source.startswith(CAMERA) else "damaged or no video"
        yield {"error": f"{what} that OpenCV can open; give another one"}, None
        return
    width, height = (int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if width * height > most:  # known before one is decoded
        yield {"error": f"has frames of {width * height:,} pixels; allowed are at most {most:,}"}, None
        return
    number = 0
    while capture.grab():
        if number % every == 0:
            sound, frame = capture.retrieve()
            if sound and frame.shape[0] * frame.shape[1] <= most:
                yield {"number": number, "size": frame.shape[:2]}, np.ascontiguousarray(frame[:, :, ::-1])
            else:
                yield {"number": number}, None
        number += 1
    yield {"end": number, "promised": 0 if source.startswith(CAMERA) else promised(capture)}, None


def counts(sources: list[str]) -> Iterator[Record]:
    for source in sources:
        capture = opened(source)
        yield {"promised": None if capture is None else promised(capture)}, None


def records(verb: str, *words: str) -> Iterator[Record]:
    try:
        import cv2  # noqa: F401
    except ImportError as error:  # its libraries are missing, too
        yield {"error": f"OpenCV cannot be imported ({str(error)[:500]})"}, None
        return
    if verb == "frames":
        most, every, source = words
        yield from frames(source, int(most), int(every))
    else:
        yield from counts(list(words))


def main(out: BinaryIO) -> None:
    for line, content in records(*sys.argv[1:]):
        out.write(json.dumps(line).encode() + b"\n")
        if content is not None:
            out.write(memoryview(content).cast("B"))
        out.flush()


if __name__ == "__main__":
    # Standard input ends with the process that waits for the answers, however that is killed.
    threading.Thread(target=lambda: (os.read(0, 1), os._exit(0)), daemon=True).start()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print
    try:
        main(answers)
    except BrokenPipeError:  # nobody reads any more
        os._exit(0)
