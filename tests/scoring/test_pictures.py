"""Images go through a network that detects in their order, each with its own answer, however many at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.detectors import picture, write_spots

import bbg
from bbg.errors import BbgError
from bbg.heads import Box
from bbg.image import Source
from bbg.scoring import Stages, boxes
from bbg.sources import Image


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> bbg.Engine:
    path = tmp_path_factory.mktemp("net") / "spots.bbg"
    write_spots(path)
    return bbg.load(path, threads=1)


def pictures(number: int, folder: Path, frames: bool) -> list[tuple[str, Image]]:
    """Pictures of which each has another spot; every seventh is none. Files, or frames of a video."""
    from PIL import Image as Pillow

    found: list[tuple[str, Image]] = []
    for i in range(number):
        pixels = picture({(i % 4, i // 4 % 4): ("red", "green")[i % 2]})
        path = folder / f"{i}.png"
        Pillow.fromarray(pixels).save(path) if i % 7 != 3 else path.write_bytes(b"none")
        found.append((str(i), pixels if frames else str(path)))
    return found


@pytest.mark.parametrize("number", [0, 1, 2, 5, 41])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("frames", [False, True])
def test_each_image_has_its_own_answer(
    engine: bbg.Engine, tmp_path: Path, number: int, threads: int, frames: bool
) -> None:
    images, stages = pictures(number, tmp_path, frames), Stages()
    found = list(boxes(engine, images, lambda found, image: (found, image), threads, stages=stages))
    assert [name for name, _ in found] == [name for name, _ in images]
    for (_, image), (_, answer) in zip(images, found, strict=True):
        if isinstance(answer, BbgError):
            with pytest.raises(BbgError) as refused:
                engine.detect(image)  # type: ignore[arg-type]
            assert str(answer) == str(refused.value)
        else:
            assert answer[0] == engine.detect(image)  # type: ignore[arg-type]
            assert len(answer[0]) == 1
            assert answer[1] is image
    assert set(stages.seconds) <= {"decoding", "network", "answer", "drawing"}


def test_what_cannot_be_drawn_fails_alone(engine: bbg.Engine, tmp_path: Path) -> None:
    def make(found: list[Box], image: Source) -> int:
        if str(image).endswith("5.png"):
            raise BbgError("no pen")
        return len(found)

    found = [answer for _, answer in boxes(engine, pictures(9, tmp_path, False), make, 2)]
    assert [str(answer) for answer in found if isinstance(answer, BbgError)][1:] == ["no pen"]
    assert found.count(1) == 7


@pytest.mark.parametrize(("frames", "most"), [(True, 2 + 2 + 1), (False, 9 * 8)])
def test_no_more_images_are_taken_than_are_worked_on(
    engine: bbg.Engine, tmp_path: Path, frames: bool, most: int
) -> None:
    """Of a camera few, since they are old when they are answered; of files some calls of the network."""
    taken, given, ahead, lock = 0, 0, 0, threading.Lock()

    def source() -> Iterator[tuple[str, Image]]:
        nonlocal taken
        for one in pictures(150, tmp_path, frames):
            with lock:
                taken += 1
            yield one

    for _ in boxes(engine, source(), lambda found, _: len(found), 2):
        ahead = max(ahead, taken - given)
        given += 1
    assert given == 150
    assert ahead <= most
