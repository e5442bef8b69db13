"""`bbg eval` gives each image the answer of `bbg predict`, without torch, and one report of files and checkpoints."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support import factories
from support.commands import QUICK, RECIPE, refused, run

import bbg
from bbg.data import open_data
from bbg.recipe import Recipe
from bbg.training.checkpoint import Checkpoint

CLASSES = ("cat", "日本語", "a dog of a rather long name, which no table or picture has the room for")
PREPROCESS = bbg.Preprocess(8, 10, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
MODES = ("L", "LA", "P", "RGBA", "CMYK", "1", "I;16", "RGB")
BAD = 2  # files that are no images
IMAGES = 300


def picture(mode: str, height: int, width: int, rng: np.random.Generator) -> Image.Image:
    """Random pixels in the mode."""
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 2**16, (height, width), dtype=np.uint16))
    colours = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    if mode == "RGBA":
        colours.putalpha(Image.fromarray(rng.integers(0, 256, (height, width), dtype=np.uint8)))
        return colours
    return colours.convert("L").convert("LA") if mode == "LA" else colours.convert(mode)


def fill(root: Path) -> None:
    """IMAGES pictures of every mode, size and orientation in class folders, some of them in folders below."""
    rng = np.random.default_rng(0)
    for i in range(IMAGES - BAD):
        mode, orientation = MODES[i % len(MODES)], i // len(MODES) % 9
        folder = root / "test" / CLASSES[i % 3] / ("" if i % 5 else "below")
        folder.mkdir(parents=True, exist_ok=True)
        image = picture(mode, 9 + i % 23, 9 + i % 31, rng)
        tags = Image.Exif()
        if orientation:
            tags[0x0112] = orientation
        suffix = {"CMYK": "jpg", "RGB": "jpg", "1": "tiff"}.get(mode, "png")
        image.save(folder / f"{i}.{suffix}", exif=tags.tobytes())
    for i in range(BAD):
        (root / "test" / CLASSES[i] / f"bad{i}.jpg").write_bytes(b"no image")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    fill(root)
    return root


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return factories.convolution(len(CLASSES), 3)


@pytest.fixture(scope="module")
def packed(network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("packed") / "net.bbg"
    example = torch.randn(2, 3, *PREPROCESS.size)
    bbg.convert(network, file, example, edges="fp32", preprocess=PREPROCESS, labels=list(CLASSES))
    return file


def rows(file: Path) -> list[dict[str, str]]:
    with open(file, newline="", encoding="utf-8") as text:
        return list(csv.DictReader(text))


def without_torch(*words: object) -> subprocess.CompletedProcess[str]:
    """`bbg words` in a process where torch and matplotlib cannot be imported."""
    code = f"""
import sys
for name in ("torch", "torchvision", "matplotlib", "lightning"): sys.modules[name] = None
from bbg.cli import main
main({[str(word) for word in words]!r})
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


def test_eval_and_predict_agree_image_by_image_with_and_without_torch(
    photos: Path, packed: Path, tmp_path: Path
) -> None:
    """The law of one preprocessing: mixed sizes, modes and orientations, one answer for each image."""
    scores, answers = tmp_path / "scores.csv", tmp_path / "answers.csv"
    evaluate = ("eval", packed, "--data", photos, "--csv")
    predict = ("predict", photos / "test", "--model", packed, "--top", 1, "--csv")
    assert run(*evaluate, scores) == 0
    assert run(*predict, answers) == 1, "two of them are no images"
    own, theirs = rows(scores), {row["image"]: row for row in rows(answers)}
    assert len(own) == len(theirs) == IMAGES
    for row in own:
        other = theirs[row["image"]]
        assert (row["answer"], row["score"], row["error"]) == (other["label"], other["score"], other["error"])
    assert sum(bool(row["error"]) for row in own) == BAD
    assert len({row["answer"] for row in own}) > 2, "the answers differ"
    assert without_torch(*evaluate, tmp_path / "bare.csv").returncode == 0
    assert (tmp_path / "bare.csv").read_bytes() == scores.read_bytes()
    assert without_torch(*predict, tmp_path / "bare_answers.csv").returncode == 1
    assert (tmp_path / "bare_answers.csv").read_bytes() == answers.read_bytes()


def test_a_checkpoint_gives_the_same_report_of_the_same_pixels(
    photos: Path, packed: Path, network: torch.nn.Module, tmp_path: Path
) -> None:
    recipe, weights = Recipe("folders", None), network.state_dict()
    checkpoint, factory = tmp_path / "own.ckpt", ("--factory", "support.factories:convolution")
    Checkpoint(recipe, 1, 0, weights, {}, list(CLASSES), PREPROCESS, custom=True).save(checkpoint)
    assert run("eval", packed, "--data", photos, "--csv", tmp_path / "packed.csv", "--json", tmp_path / "a.json") == 0
    own = ("--csv", tmp_path / "own.csv", "--json", tmp_path / "b.json")
    assert run("eval", checkpoint, "--data", photos, *factory, *own) == 0
    for packed_row, own_row in zip(rows(tmp_path / "packed.csv"), rows(tmp_path / "own.csv"), strict=True):
        assert packed_row["image"] == own_row["image"]
        assert packed_row["error"] == own_row["error"]
        if not own_row["error"]:
            assert float(packed_row["truth_score"]) == pytest.approx(float(own_row["truth_score"]), abs=1e-5)
    a, b = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert a.keys() == b.keys()
    assert a["test_images"] == b["test_images"] == IMAGES - BAD
    assert a["accuracy"] == pytest.approx(b["accuracy"], abs=0.01)


def test_the_report_agrees_with_its_rows_and_draws_pictures(photos: Path, packed: Path, tmp_path: Path) -> None:
    out, table, file = tmp_path / "deep" / "pictures", tmp_path / "rows.csv", tmp_path / "report.json"
    done = without_torch("eval", packed, "--data", photos, "--out", out, "--csv", table, "--json", file)
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    good = [row for row in rows(table) if not row["error"]]
    right = [row["truth"] == row["answer"] for row in good]
    assert report["accuracy"] == pytest.approx(np.mean(right))
    assert [row["class"] for row in report["per_class"]] == list(CLASSES), "in the order of the model"
    assert sum(row["correct"] for row in report["per_class"]) == sum(right)
    assert np.trace(report["confusion_matrix"]) == sum(right)
    assert report["skipped"] == len(report["skipped_files"]) == BAD
    worst = sorted(good, key=lambda row: float(row["truth_score"]))[:40]
    assert rows(out / "worst.csv") == worst
    assert f"accuracy: {report['accuracy']:.4g}\n" in done.stdout
    lines = done.stdout.splitlines()
    for row in report["per_class"]:
        told = next(line for line in lines if line.startswith(row["class"]))
        assert str(row["images"]) in told.removeprefix(row["class"]).split()
    for table in ("confused", "worst images", "skipped files"):
        assert table in lines
    for name in ("confusion.png", "worst.png", "calibration.png"):
        with Image.open(out / name) as drawn:
            assert min(drawn.size) > 300
            assert np.asarray(drawn.convert("L")).std() > 10, "something is drawn"


def test_the_data_come_in_several_forms(photos: Path, packed: Path, tmp_path: Path) -> None:
    """The test half alone, class folders alone, parts of them, fewer classes than the model has."""

    def scored(*words: object) -> dict[str, Any]:
        assert run("eval", packed, *words, "--json", tmp_path / "found.json") == 0
        found: dict[str, Any] = json.loads((tmp_path / "found.json").read_text())
        return found

    everything = scored("--data", photos)["test_images"]
    halves = [scored("--data", photos / "test", "--part", part)["test_images"] for part in ("test", "train", "all")]
    assert halves[0] + halves[1] == halves[2] == everything
    assert 0.1 < halves[0] / everything < 0.35, "about a fifth is for testing"
    held_out = open_data("folders", photos / "test", preprocess=PREPROCESS).test
    assert halves[0] == len(held_out), "those that a training keeps"
    few = tmp_path / "few" / "val"
    few.mkdir(parents=True)
    (few / CLASSES[1]).symlink_to(photos / "test" / CLASSES[1])
    found = scored("--data", few.parent)
    assert found["classes_without_images"] == [CLASSES[0], CLASSES[2]]
    whole = scored("--data", photos)["per_class"]
    assert found["per_class"][1]["correct"] == whole[1]["correct"] > 0, "by the model's own number of the class"


def test_images_in_no_class_folder_are_told(
    photos: Path, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "beside.png")
    for name in CLASSES:
        (tmp_path / name).symlink_to(photos / "test" / name)
    assert run("eval", packed, "--data", tmp_path, "--part", "all", "--json", tmp_path / "r.json") == 0
    assert json.loads((tmp_path / "r.json").read_text())["test_images"] == IMAGES - BAD
    told = f"warning: 1 images lie in no class folder and are left out, such as {tmp_path / 'beside.png'}\n"
    assert capsys.readouterr().err == told


def test_what_cannot_be_scored_is_one_sentence(
    photos: Path, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat, other = tmp_path / "flat", tmp_path / "other"
    flat.mkdir()
    refused(tmp_path, capsys, "holds no images, it has no class folders", "eval", packed, "--data", flat)
    Image.new("RGB", (9, 9)).save(flat / "a.png")
    refused(tmp_path, capsys, "holds 1 images without labels", "eval", packed, "--data", flat)
    for name in ("cat", "mouse"):
        (other / "test" / name).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(other / "test" / name / "a.png")
    refused(tmp_path, capsys, "the class 'mouse', which the model does not know", "eval", packed, "--data", other)
    (other / "test" / "mouse" / "a.png").unlink()
    (other / "test" / "mouse").rmdir()
    (other / "test" / "cat" / "a.png").write_bytes(b"no image")
    refused(tmp_path, capsys, "none of the images could be read", "eval", packed, "--data", other)
    refused(tmp_path, capsys, "no folder '", "eval", packed, "--data", other, "--part", "train")
    refused(tmp_path, capsys, "no folder '", "eval", packed, "--data", tmp_path / "nowhere")
    refused(tmp_path, capsys, "allowed are test, train, all", "eval", packed, "--data", other, "--part", "some")
    refused(tmp_path, capsys, "cannot make folder", "eval", packed, "--data", photos, "--out", packed / "x")
    refused(tmp_path, capsys, "standard output", "eval", packed, "--data", photos, "--json", "-", "--csv", "-")


def test_the_digits_are_scored_as_the_training_scored_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, file = tmp_path / "run", tmp_path / "found.json"
    assert run("train", RECIPE, *QUICK, "--out", out) == 0
    assert run("eval", out / "last.ckpt", "--json", file, "--csv", tmp_path / "rows.csv") == 0
    trained = Checkpoint.load(out / "last.ckpt").history[-1]["test_accuracy"]
    assert json.loads(file.read_text())["accuracy"] == trained
    assert [row["image"] for row in rows(tmp_path / "rows.csv")[:2]] == ["test/0", "test/1"]
    refused(tmp_path, capsys, "comes with bbg", "eval", out / "last.ckpt", "--data", tmp_path)
