"""Tar files as bytes: written as a test wants them."""

from __future__ import annotations

import tarfile
from io import BytesIO
from pathlib import Path

from support.pictures import encoded, picture

JPEG = encoded(picture(20, 30), "JPEG")
Entry = tuple[str, bytes]


def write_tar(path: Path, entries: list[Entry], form: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, BytesIO(content))
    return path


def sample(key: str, label: object = 0, ending: str = "jpg", image: bytes = JPEG) -> list[Entry]:
    return [(f"{key}.{ending}", image), (f"{key}.cls", str(label).encode())]
