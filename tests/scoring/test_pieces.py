"""A source in pieces: the same images in files, shards and tables, whatever the size of the pieces."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.many import as_shards, as_table, pictures

from bbg.errors import BbgError
from bbg.scoring.pieces import Listing, Reader, listed

pytest.importorskip("pyarrow")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    files = pictures(folder / "photos")
    as_shards(folder / "shards", files)
    for name, structure in (("table.parquet", False), ("hub.parquet", True)):
        as_table(folder / name, files, structure=structure)
    return folder


def contents(listing: Listing, size: int) -> list[bytes]:
    reader, found = Reader(), []
    for number, piece in enumerate(listing.pieces(size)):
        images = [image for _, image in reader.images(piece)]
        assert piece.number == number
        assert len(images) == piece.images
        found += [image if isinstance(image, bytes) else Path(str(image)).read_bytes() for image in images]
    return found


@pytest.mark.parametrize("size", [1, 4, 7, 100])
@pytest.mark.parametrize(
    "source", ["photos", "shards", "table.parquet", "hub.parquet", "shards/*.tar", "photos/**/*.jpg"]
)
def test_every_image_comes_once_and_in_order(here: Path, source: str, size: int) -> None:
    listing = listed([str(here / source)])
    wanted = [path.read_bytes() for path in sorted((here / "photos").rglob("*.jpg"))]
    assert len(listing) == len(wanted) == 30
    assert contents(listing, size) == wanted


def test_a_table_in_one_row_group_is_read_in_few_pieces(here: Path, tmp_path: Path) -> None:
    files = sorted((here / "photos").rglob("*.jpg"))
    as_table(tmp_path / "one.parquet", files, rows=1000)
    listing = listed([str(tmp_path)])
    assert len(list(listing.pieces(1))) == 15  # of two images each: at most 16 begin in a row group
    assert contents(listing, 1) == [file.read_bytes() for file in files]


def test_names_are_those_of_files_members_and_columns(here: Path) -> None:
    def first(source: str) -> str:
        listing = listed([str(here / source)])
        return next(Reader().images(next(listing.pieces(8))))[0]

    assert first("photos") == first("table.parquet") == first("hub.parquet") == str(here / "photos/a/0000.jpg")
    assert first("shards") == f"{here}/shards/some-0000.tar:0000.jpg"


def test_a_row_without_a_name_has_its_number_and_one_without_bytes_is_an_error(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"data": [b"a", None, b"c"]}), tmp_path / "t.parquet", row_group_size=2)
    (one, (name, none)), (three,) = (
        list(Reader().images(piece)) for piece in listed([str(tmp_path / "t.parquet")]).pieces(8)
    )
    assert one == (f"{tmp_path}/t.parquet:0", b"a")
    assert three == (f"{tmp_path}/t.parquet:2", b"c")
    assert isinstance(none, BbgError)
    assert str(none).startswith(name)


def test_what_is_wrong_in_a_shard_has_a_row(here: Path, tmp_path: Path) -> None:
    data = bytearray((here / "shards" / "some-0000.tar").read_bytes())
    data[512 * 4 : 512 * 4 + 100] = b"\1" * 100  # in a header or in an image
    data = data[: len(data) // 2]
    (tmp_path / "cut.tar").write_bytes(data)
    listing = listed([str(tmp_path)])
    found = [image for piece in listing.pieces(3) for _, image in Reader().images(piece)]
    assert len(found) == len(listing)
    errors = [str(image) for image in found if isinstance(image, BbgError)]
    assert errors
    assert all("is damaged at byte" in error or "has no image" in error for error in errors)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["nothing"], "does not exist"),
        (["*.gif"], "no image in"),
        (["photos", "shards"], "has images and shards; give one of them"),
        (["-"], "cannot be shared out"),
        (["camera:0"], "cannot be shared out"),
        (["https://a.b/c.jpg"], "cannot be shared out"),
        (["a.mp4"], "is a video"),
        (["packed.tar"], "is compressed"),
        (["bad.parquet"], "is no Parquet file"),
        (["other.parquet"], "has the columns a; encoded images are taken from"),
        (["two.parquet"], "has several columns of bytes"),
        (["empty.tar"], "have no image"),
    ],
)
def test_other_sources_are_refused(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], reason: str
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.chdir(tmp_path)
    for name in ("photos", "shards"):
        Path(name).symlink_to(here / name)
    Path("a.mp4").touch()
    Path("packed.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    Path("empty.tar").write_bytes(bytes(1024))
    Path("bad.parquet").write_bytes(b"PAR1")
    pq.write_table(pa.table({"a": [1]}), "other.parquet")
    pq.write_table(pa.table({"a": [b""], "b": [b""]}), "two.parquet")
    with pytest.raises(BbgError, match=reason):
        listed(words)


def test_the_digest_tells_sources_apart_and_the_answers_are_no_source(here: Path, tmp_path: Path) -> None:
    files = sorted((here / "photos").rglob("*.jpg"))[:5]
    as_table(tmp_path / "a.parquet", files)
    first = listed([str(tmp_path)])
    (tmp_path / "out").mkdir()
    as_table(tmp_path / "out" / "part.parquet", files)
    assert listed([str(tmp_path)], tmp_path / "out").digest == first.digest
    assert listed([str(tmp_path)]).digest != first.digest
    as_table(tmp_path / "a.parquet", files[:4])
    assert listed([str(tmp_path)], tmp_path / "out").digest != first.digest
