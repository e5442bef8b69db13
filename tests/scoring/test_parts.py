"""A folder of answers: whole parts of one network for one source, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.many import MODEL, pictures, rows

import bbg
from bbg.errors import BbgError
from bbg.graph.file import read_bytes
from bbg.heads import Box, Prediction
from bbg.scoring.parts import Answer, Counts, begin, finished, part, piece_size, write
from bbg.scoring.pieces import Listing, Piece, listed

pytest.importorskip("pyarrow")
OPTIONS = {"head": "classification", "top": 5}
ANSWERS: list[tuple[str, Answer]] = [
    ("a", [Prediction("cat", 0.75), Prediction("dog", 0.25)]),
    ("b\udcff", BbgError("b: is no image")),
]


@pytest.fixture(scope="module")
def listing(tmp_path_factory: pytest.TempPathFactory) -> Listing:
    folder = tmp_path_factory.mktemp("photos")
    pictures(folder)
    return listed([str(folder)])


def network() -> bytes:
    return read_bytes(bbg.zoo.path(MODEL))


def test_a_part_has_a_row_for_each_image(tmp_path: Path) -> None:
    piece = Piece(7, "images", 2, ("a", "b"))
    assert finished(tmp_path, piece) is None
    assert write(tmp_path, piece, ANSWERS, boxes=False) == Counts(2, 1) == finished(tmp_path, piece)
    good, bad = rows(tmp_path)
    assert good == {"path": "a", "error": None, "labels": ["cat", "dog"], "probabilities": [0.75, 0.25]}
    assert bad == {"path": "b\\udcff", "error": "b: is no image", "labels": None, "probabilities": None}


def test_boxes_have_columns_of_their_own(tmp_path: Path) -> None:
    boxes = [Box("cat", 0.5, (1.0, 2.0, 3.0, 4.5))]
    answers: list[tuple[str, Answer]] = [("a", boxes), ("b", []), ("c", BbgError("c: no image"))]
    write(tmp_path, Piece(0, "images", 3, ("a", "b", "c")), answers, boxes=True)
    assert [row["boxes"] for row in rows(tmp_path)] == [[[1.0, 2.0, 3.0, 4.5]], [], None]
    assert [row["labels"] for row in rows(tmp_path)] == [["cat"], [], None]


def test_a_part_with_too_few_rows_or_a_failure_is_never_there(tmp_path: Path) -> None:
    piece = Piece(0, "images", 3, ("a", "b", "c"))
    with pytest.raises(BbgError, match="has changed since the run began"):
        write(tmp_path, piece, ANSWERS, boxes=False)

    def broken() -> Iterator[tuple[str, Answer]]:
        yield ANSWERS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, piece, broken(), boxes=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", [b"", b"PAR1", None])
def test_a_damaged_part_is_made_anew(tmp_path: Path, damage: bytes | None) -> None:
    piece = Piece(0, "images", 2, ("a", "b"))
    write(tmp_path, piece, ANSWERS, boxes=False)
    file = part(tmp_path, piece)
    file.write_bytes(file.read_bytes()[:-20] if damage is None else damage)
    assert finished(tmp_path, piece) is None
    write(tmp_path, piece, ANSWERS, boxes=False)
    assert finished(tmp_path, piece._replace(images=3)) is None
    assert finished(tmp_path, piece) == Counts(2, 1)


def test_a_folder_that_was_begun_is_gone_on_with(tmp_path: Path, listing: Listing) -> None:
    size = begin(tmp_path, network(), listing, ["x"], OPTIONS)
    assert size == begin(tmp_path, network(), listing, ["y"], OPTIONS) == piece_size(30) == 32


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"network": b"another"}, "answers of another network"),
        ({"options": {**OPTIONS, "top": 3}}, "begun with top 5, and top is 3 now"),
        ({"listing": Listing("images", None, (), "0")}, "answers for another source: 30 images of x"),  # type: ignore[arg-type]
    ],
)
def test_a_folder_of_something_else_is_refused(
    tmp_path: Path, listing: Listing, change: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"network": network(), "listing": listing, "options": OPTIONS}
    begin(tmp_path, *(given[key] for key in ("network", "listing")), ["x"], OPTIONS)  # type: ignore[arg-type]
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(Listing, "__len__", lambda self: 30 if self.names else 29)
    given |= change
    with pytest.raises(BbgError, match=reason):
        begin(tmp_path, given["network"], given["listing"], ["x"], given["options"])  # type: ignore[arg-type]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_of_other_things_and_damaged_facts_are_refused(tmp_path: Path, listing: Listing) -> None:
    (tmp_path / "diary.txt").touch()
    with pytest.raises(BbgError, match=r"holds 'diary.txt', and no answers"):
        begin(tmp_path, network(), listing, ["x"], OPTIONS)
    (tmp_path / "_bbg.json").write_text("{")
    with pytest.raises(BbgError, match="is damaged, or of another version"):
        begin(tmp_path, network(), listing, ["x"], OPTIONS)


def test_pieces_are_neither_too_few_nor_too_many() -> None:
    assert [piece_size(n) for n in (1, 1000, 8000, 1_281_167, 100_000_000)] == [32, 32, 125, 256, 10_000]
