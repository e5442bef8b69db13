"""What an image file holds beside its pixels: read where it says what these mean, ignored everywhere else."""

from __future__ import annotations

import re
import struct
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from PIL.Image import Image

SWAPPED, RIGHT_TO_LEFT, BOTTOM_TO_TOP = (5, 6, 7, 8), (2, 3, 6, 7), (3, 4, 7, 8)  # orientations of an upright picture

_ORIENTATION = 0x0112  # in EXIF and TIFF
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
# Of a JPEG: in the pixels a zero, or the mark of a restart, follows 0xff.
_MARKER, _SCAN, _END, _BLOCK = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])"), b"\xda", b"\xd9", 512
_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # the chunks of a PNG that make its pixels


def turn_of(image: Image) -> int:
    """The orientation that the EXIF tag states, from 1 to 8; 1 is upright. Pillow turns a TIFF by itself."""
    if image.format == "TIFF":
        return 1
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a damaged block of tags says nothing of the pixels
        return 1


def upright(image: Image, turn: int) -> Image:
    """The pixels turned. Pillow's own function writes all tags anew, and fails on odd ones."""
    from PIL.Image import Transpose

    how = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(turn)
    return image if how is None else image.transpose(how)


def tiff_tag(image: Image, tag: int) -> Any:
    """The value of a tag of a TIFF, the first where it has several; None where it has none, or is no TIFF."""
    value = getattr(image, "tag_v2", {}).get(tag)
    return value[0] if isinstance(value, tuple) and value else value


def jpeg_scans(file: BinaryIO, most: int) -> int:
    """The scans of a JPEG, for each of which the decoder goes over the whole picture; none are counted beyond `most`.

    What lies behind the picture, such as the video of a moving photograph, is not read.
    """
    begin = file.tell()
    scans, place, size = 0, len(_JPEG), _BLOCK
    while scans <= most:
        file.seek(place)
        block = file.read(size)
        found = _MARKER.search(block)
        if found is None:
            if len(block) < size:
                break
            place, size = place + size - 1, min(2 * size, 2**20)  # the last byte may begin a marker
            continue
        if (marker := found[1]) == _END:
            break
        scans += marker == _SCAN
        place, size = place + found.end(), _BLOCK
        file.seek(place)
        place += int.from_bytes(file.read(2), "big")  # of the segment that it begins
    file.seek(begin)
    return scans


def without_metadata(data: bytes) -> bytes | None:
    """A PNG or JPEG without what neither makes its pixels nor turns them; None where there is nothing to leave out.

    Pillow refuses a whole picture for a damaged profile, or for a comment that is longer than it allows.
    """
    try:
        bare = _png(data) if data.startswith(_PNG) else _jpeg(data) if data.startswith(_JPEG) else data
    except (struct.error, IndexError):
        return None
    return bare if len(bare) < len(data) else None


def _png(data: bytes) -> bytes:
    parts, at = [_PNG], len(_PNG)
    while at < len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        chunk = data[at : at + length + 12]
        whole = struct.pack(">I", zlib.crc32(chunk[4:-4])) == chunk[-4:]
        if name in _PIXELS or (name == b"eXIf" and whole):
            parts.append(chunk)
        at += length + 12
    return b"".join(parts)


def _jpeg(data: bytes) -> bytes:
    parts, at = [_JPEG], len(_JPEG)
    while data[at] == 0xFF and data[at + 1] != 0xDA:  # the pixels begin there
        (length,) = struct.unpack_from(">H", data, at + 2)
        marker, content = data[at + 1], data[at + 4 : at + 2 + length]
        application = 0xE0 <= marker <= 0xEF or marker == 0xFE
        colours = marker == 0xEE and content.startswith(b"Adobe") and len(content) >= 12
        if not application or colours or (marker == 0xE1 and content.startswith(b"Exif\0\0")):
            parts.append(data[at : at + 2 + length])
        at += 2 + length
    return b"".join([*parts, data[at:]])
