"""`bbg predict` over many images: streamed in batches, one bad image is one line, and the same image twice is two."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import bbg
from bbg import scoring
from bbg.cli import main
from bbg.errors import BbgError
from bbg.scoring.stream import through

PREPROCESS = bbg.Preprocess(16, 20, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))
    file = tmp_path_factory.mktemp("model") / "net.bbg"
    bbg.convert(net, file, torch.randn(2, 3, 16, 16), preprocess=PREPROCESS, labels=["a", "b", "c"])
    return file


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, draws = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(70):
        pixels = draws.integers(0, 256, (20 + i % 7, 25 + i % 5, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    (folder / "33.png").write_bytes(b"no image")
    return folder


def predict(*words: object) -> int:
    try:
        main(["predict", *map(str, words)])
    except SystemExit as end:
        return int(str(end.code))
    return 0


@pytest.mark.parametrize("batch", [1, 7, 32, 100])
def test_each_image_is_a_line_and_agrees_with_the_library(
    model: Path, photos: Path, batch: int, tmp_path: Path
) -> None:
    out, table = tmp_path / "out.json", tmp_path / "out.csv"
    again = photos / "00.png"
    words = [photos, again, again, "--model", model, "--batch", batch, "--top", 2, "--json", out, "--csv", table]
    assert predict(*words) == 1  # one of them is no image
    found = [json.loads(line) for line in out.read_text().splitlines()]
    names = [*(str(photos / f"{i:02}.png") for i in range(70)), str(again), str(again)]
    assert [line["image"] for line in found] == names
    engine = bbg.load(model, threads=1)
    for line in found:
        if line["image"].endswith("33.png"):
            assert "no image" in line["error"]
            assert "predictions" not in line
        else:
            wanted = engine.predict(line["image"], top=2)
            assert line["predictions"] == [p._asdict() for p in wanted]
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 2 * 71 + 1
    assert [row["label"] for row in rows[:2]] == [p["label"] for p in found[0]["predictions"]]
    assert [row["image"] for row in rows if row["error"]] == [str(photos / "33.png")]


def test_the_bad_image_is_told_and_the_good_ones_are_printed(model: Path, photos: Path, capsys: Any) -> None:
    assert predict(photos / "33.png", photos / "01.png", "missing.png", "--model", model, "--top", 1) == 1
    said = capsys.readouterr()
    assert said.out.splitlines()[0] == str(photos / "01.png")
    assert [line.split(":")[1].strip() for line in said.err.splitlines()] == [str(photos / "33.png"), "missing.png"]


@pytest.mark.parametrize("kind", ["--json", "--csv"])
def test_a_dash_prints_nothing_else(model: Path, photos: Path, kind: str, capsys: Any) -> None:
    assert predict(photos / "0*.png", "--model", model, kind, "-") == 0
    lines = capsys.readouterr().out.splitlines()
    if kind == "--json":
        assert len([json.loads(line) for line in lines]) == 10
    else:
        assert lines[0] == "image,place,label,score,error"
        assert len(lines) == 1 + 3 * 10


def test_the_standard_input_is_read(model: Path, photos: Path) -> None:
    command = [sys.executable, "-m", "bbg", "predict", "-", "--model", str(model), "--json", "-"]
    for given in ((photos / "05.png").read_bytes(), f"{photos / '05.png'}\n".encode()):
        done = subprocess.run(command, input=given, capture_output=True, check=True, timeout=60)
        assert json.loads(done.stdout)["predictions"]


def test_no_more_than_a_few_batches_are_in_memory(model: Path, photos: Path) -> None:
    """An endless stream is answered as it comes."""
    taken = 0

    def endless() -> Any:
        nonlocal taken
        while True:
            taken += 1
            yield "x", (photos / "02.png").read_bytes()

    stream = scoring.predictions(bbg.load(model, threads=1), endless(), batch=4)
    for number in range(1, 30):
        next(stream)
        assert taken <= number + 4 * 3  # a batch for the thread, and two more
    stream.close()  # type: ignore[attr-defined]


def test_what_an_engine_cannot_predict_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    bbg.convert(nn.Conv2d(3, 4, 3), tmp_path / "n", torch.zeros(1, 3, 8, 8))
    with pytest.raises(BbgError, match="packed without preprocessing"):
        next(scoring.predictions(bbg.load(tmp_path / "n"), iter([])))


def test_bytes_are_an_image(model: Path) -> None:
    buffer = BytesIO()
    Image.new("RGB", (30, 30)).save(buffer, "PNG")
    ((name, answer),) = scoring.predictions(bbg.load(model, threads=1), [("name", buffer.getvalue())])
    assert name == "name"
    assert not isinstance(answer, BbgError)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("batch", [1, 3, 32])
def test_several_threads_give_the_same_answers_in_order(model: Path, photos: Path, threads: int, batch: int) -> None:
    files = [(path.name, str(path)) for path in sorted(photos.iterdir())]
    engine = bbg.load(model, threads=1)
    found = list(scoring.predictions(engine, files, top=1, batch=batch, threads=threads))
    assert [name for name, _ in found] == [name for name, _ in files]
    for (name, path), (_, answer) in zip(files, found, strict=True):
        if name == "33.png":
            assert isinstance(answer, BbgError)
        else:
            assert answer == engine.predict(path, top=1)


@pytest.mark.parametrize(("threads", "images", "of_engine"), [(None, 1, 1), (2, 1, 2), (2, 3, 1), (None, 3, 1)])
def test_several_images_are_shared_by_calls_and_one_by_threads(
    model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, threads: int | None, images: int, of_engine: int
) -> None:
    made: list[int] = []

    def load(path: str, count: int, limits: bbg.Limits | None) -> bbg.Engine:
        made.append(count)
        return bbg.load(path, count, limits)

    monkeypatch.setattr("bbg.engine.load", load)
    files = sorted(photos.iterdir())[:images]
    assert predict(*files, "--model", model, *(["--threads", threads] if threads else [])) == 0
    assert made == [of_engine]


def test_who_stops_reading_waits_for_few_images(model: Path) -> None:
    read: list[int] = []

    def pixels(item: int) -> np.ndarray:
        read.append(item)
        return np.zeros((2, 2, 3), np.uint8)

    found = through(pixels, lambda batch: range(len(batch)), iter(range(10**9)), batch=8, threads=2)
    assert [item for item, _ in (next(found) for _ in range(100))] == list(range(100))
    found.close()  # type: ignore[attr-defined]
    assert len(read) <= 100 + 8 * (2 + 2) + 8
