"""The members of tar files: those that tarfile finds, and no byte outside of the file, whatever is in it."""

from __future__ import annotations

import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from support.tars import sample, write_tar

from bbg.data.tar import Broken, Member, members


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_all_forms_of_headers_are_read_as_tarfile_reads_them(tmp_path: Path, form: int) -> None:
    long = "d" * 90 + "/" + "f" * 90 + ".jpg"
    entries = [("a.jpg", b"1" * 513), (long, b"2"), ("\u00e9.cls", b""), ("b.cls", b"3" * 512)]
    if form != tarfile.USTAR_FORMAT:
        entries.insert(1, ("x" * 300 + ".png", b"4"))
    path = write_tar(tmp_path / "x.tar", entries, form)
    with path.open("rb") as file:
        found = list(members(file))
    with tarfile.open(path) as tar:
        assert [(one[0].decode(), *one[1:]) for one in found] == [(m.name, m.offset_data, m.size, "file") for m in tar]


def header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    """A header with this field for the size, and a checksum that is right."""
    head = bytearray(512)
    head[:100], head[100:108], head[124:136] = name.ljust(100, b"\0"), b"0000644\0", size.ljust(12, b"\0")
    head[148:156], head[156:157], head[257:265] = b" " * 8, kind, b"ustar\00000"
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


@pytest.mark.parametrize(
    "size", [b"77777777777", b"\x80" + b"\xff" * 11, b"\xff" * 12, b"-1", b"9", b"\x80" + b"\0" * 3 + b"\x01" * 8]
)
@pytest.mark.parametrize("kind", [b"0", b"x", b"L", b"S"])
def test_no_size_leads_out_of_the_file(tmp_path: Path, size: bytes, kind: bytes) -> None:
    good = write_tar(tmp_path / "good.tar", sample("b", 1)).read_bytes()
    file = BytesIO(header(b"a.jpg", size, kind) + b"x" * 512 + good)
    found = list(members(file))
    assert isinstance(found[0], Broken)
    assert [one.name for one in found if isinstance(one, Member)] == [b"b.jpg", b"b.cls"]
    assert all(one.offset + one.size <= len(file.getvalue()) for one in found if isinstance(one, Member))


def test_sizes_and_names_of_pax_are_no_way_out_either(tmp_path: Path) -> None:
    good = write_tar(tmp_path / "good.tar", sample("b", 1)).read_bytes()
    for record in (b"24 size=99999999999999999\n", b"0 size=5\n", b"999999999999 a=b\n", b"x", b"10 path=\xff\n"):
        body = record.ljust(512, b"\0")
        text = header(b"p", b"%o" % len(record), b"x") + body + header(b"a.jpg", b"5") + b"x" * 512 + good
        found = [one for one in members(BytesIO(text)) if isinstance(one, Member)]
        assert [one.name for one in found][-2:] == [b"b.jpg", b"b.cls"]
        assert all(one.offset + one.size <= len(text) for one in found)


def test_any_damage_is_told_or_stepped_over(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "x.tar", [one for i in range(4) for one in sample("k" * 120 + str(i), i)]).read_bytes()
    draws = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(whole[: draws.integers(1, len(whole))])
        for place in draws.integers(0, len(data), 20):
            data[place] = draws.integers(256)
        for one in members(BytesIO(bytes(data))):
            assert one.offset <= len(data)
            assert isinstance(one, Broken) or 0 <= one.size <= len(data) - one.offset
