"""What a person sees on terminals of 80 and 120 columns, in a file, with --quiet: nothing wiped, wrapped or doubled."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.commands import QUICK, RECIPE, run
from support.screen import Screen, bbg

from bbg.log import LOGGER, Bar, terminal, track

TRAIN = ("train", RECIPE, "--epochs", "3", "--set", "width=8", "--set", "bn_batches=0")


def bars(looks: list[str]) -> list[str]:
    return [look for look in looks if look.endswith("left") or " left  " in look]


@pytest.mark.parametrize("columns", [80, 120])
def test_a_training_on_a_terminal(columns: int, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    screen, looks, status = bbg(*TRAIN, "--out", "run", columns=columns, folder=tmp_path, COLUMNS="250")
    assert (status, screen.wrapped) == (0, 0)
    lines = screen.text()
    told = [line for line in lines if line.startswith("epoch  ")]
    assert [line[:12] for line in told] == ["epoch   1/3 ", "epoch   2/3 ", "epoch   3/3 "]
    assert lines.index(told[-1]) - lines.index(told[0]) == 2, "nothing stands between them"
    assert any(line.startswith("test accuracy: ") for line in lines[lines.index(told[-1]) :])
    seen = bars(looks)
    assert seen, "a bar was shown while it ran"
    assert not bars(lines), "and none stayed"
    assert max(map(len, seen)) < columns
    assert {look.split()[1] for look in seen} <= {"1/3", "2/3", "3/3"}
    shares = [int(look.partition(" %")[0].split()[-1]) for look in seen]
    assert shares == sorted(shares)
    for epoch in (1, 2, 3):
        ends = [share for share, look in zip(shares, seen, strict=True) if look.split()[1] == f"{epoch}/3"]
        assert all(share <= 100 * epoch / 3 + 1 for share in ends), "its end is that of the whole run"


def test_a_training_that_is_stopped_says_how_to_go_on(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    code = (
        "import os, signal, sys, threading, time\nfrom bbg.cli import main\n"
        "def wait():\n"
        "    while not os.path.exists('run/history.csv'): time.sleep(0.1)\n"
        "    time.sleep(0.3)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=wait, daemon=True).start()\nmain(sys.argv[1:])"
    )
    (tmp_path / "stopped.py").write_text(code)
    more = ("--epochs", "900", "--out", "run")
    screen, _, status = bbg(*TRAIN, *more, columns=80, script=tmp_path / "stopped.py", folder=tmp_path)
    assert status == 130
    text = "\n".join(screen.text())
    assert "; go on with --resume" in text
    assert "bbg: interrupted" in text
    assert len([line for line in screen.text() if line.startswith("epoch ")]) >= 1


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bbg` with bars from the first moment on, and time to see them."""
    script = tmp_path_factory.mktemp("slow") / "slow.py"
    script.write_text("""
import sys, time
import bbg.log as log
from bbg.cli import main
def slowly(bar, *more, step=log.Bar.step, **figures):
    time.sleep(0.004)
    step(bar, *more, **figures)
log.DELAY, log.Bar.step = 0, slowly
main(sys.argv[1:])""")
    return script


@pytest.mark.parametrize("columns", [80, 120])
def test_predict_on_a_terminal(columns: int, slow: Path, tmp_path: Path) -> None:
    """Names longer than the line are left to the terminal, whole; the bar below them does not stay."""
    draws = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    names = [f"{i}-{'long' * 30}.png" if i == 7 else f"{i}.png" for i in range(60)]
    for name in names:
        Image.fromarray(draws.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / "photos" / name)
    command = ("predict", tmp_path / "photos", "--top", "1", "--batch", "4")
    screen, looks, status = bbg(*command, columns=columns, script=slow)
    assert status == 0
    seen = [look for look in looks if look.startswith("predicting  ")]
    assert bars(seen)
    assert not [look for look in seen if re.match(r"predicting +\d", look)], "a folder says how many there are"
    assert max(map(len, seen)) < columns
    assert not [line for line in screen.text() if line.startswith("predicting")]
    shown = "".join(line.ljust(columns) if len(line) == columns else f"{line}\n" for line in screen.text())
    assert [shown.count(f"/{name}\n") for name in names] == [1] * 60
    assert len([line for line in screen.text() if " %  " in line]) == 60


def test_a_stream_shows_how_many_it_was_so_far(slow: Path, tmp_path: Path) -> None:
    for i in range(60):
        Image.new("RGB", (32, 32)).save(tmp_path / f"{i}.png")
    code = f"""
import os, sys, threading, time
def say():
    for i in range(60):
        os.write(end, f"{tmp_path}/{{i}}.png\\n".encode())
        time.sleep(0.02)
    os.close(end)
start, end = os.pipe()
os.dup2(start, 0)
threading.Thread(target=say, daemon=True).start()
{slow.read_text()}"""
    (tmp_path / "piped.py").write_text(code)
    command = ("predict", "-", "--top", "1", "--batch", "1")
    screen, looks, status = bbg(*command, columns=80, script=tmp_path / "piped.py")
    assert status == 0
    assert not bars(looks)
    counts = [int(bar[1]) for look in looks if (bar := re.fullmatch(r"predicting  (\d+)  \d:\d\d", look))]
    assert counts == sorted(counts)
    assert 0 < counts[-1] <= 60
    assert len([line for line in screen.text() if " %  " in line]) == 60


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint, a packed file, and labelled pictures, one of them damaged."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("scored")
    draws = np.random.default_rng(0)
    for label in range(10):
        (folder / "digits" / "test" / str(label)).mkdir(parents=True)
        for i in range(30):
            picture = Image.fromarray(draws.integers(0, 256, (8, 8), np.uint8))
            picture.save(folder / "digits" / "test" / str(label) / f"{i}.png")
    (folder / "digits" / "test" / "3" / "7.png").write_bytes(b"no picture")
    assert run(*TRAIN, "-q", "--out", folder / "run") == 0
    assert run("convert", folder / "run" / "last.ckpt", "-q", "-o", folder / "net.bbg") == 0
    return folder


@pytest.mark.parametrize(("model", "columns"), [("run/last.ckpt", 80), ("net.bbg", 80), ("net.bbg", 120)])
def test_eval_on_a_terminal(model: str, columns: int, scored: Path, slow: Path) -> None:
    """The report, once, and nothing of the bar; in a file it is the same."""
    of = ("--dataset", "folders", "--data", "digits", "--out", "pictures", "--csv", "scores.csv")
    words = ("eval", model, *of)
    screen, looks, status = bbg(*words, columns=columns, script=slow, folder=scored)
    assert (status, screen.wrapped) == (0, 0)
    seen = [look for look in looks if look.startswith("evaluating  ")]
    assert bars(seen), "a bar was shown while it ran"
    assert max(map(len, seen)) < columns
    lines = screen.text()
    assert not [line for line in lines if line.startswith("evaluating")]
    tables = ["per class", "the 10 most frequent of", "worst images", "skipped files"]
    figures = ["model: ", "test images: 299", "skipped: 1", "accuracy: ", "top 5: ", "calibration error: "]
    for start in (*tables, *figures):
        assert len([line for line in lines if line.startswith(start)]) == 1, start
    assert "\n".join(lines).count("digits/test/3/7.png") == 1, "a name is said once"
    command = [sys.executable, "-m", "bbg", *map(str, words)]
    done = subprocess.run(command, cwd=scored, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines() == lines[:-1]
    assert done.stderr == ""


def test_in_a_file_there_are_plain_lines(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    command = [sys.executable, "-m", "bbg", *TRAIN, "--epochs", "1", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    assert "\nepoch   1/1  loss " in done.stdout


def test_quiet_is_silent_and_verbose_tells_more(tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("torch")
    command = ("train", RECIPE, *QUICK, "--out", tmp_path / "run", "--overwrite")
    assert run(*command, "-q") == 0
    assert capsys.readouterr() == ("", "")
    assert run(*command, "-q", "--json", tmp_path / "out.json") == 0
    assert json.loads((tmp_path / "out.json").read_text())["epochs"] == 1
    assert run(*command, "-q", "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["epochs"] == 1
    assert run(*command, "--json", "-") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["epochs"] == 1
    assert "epoch   1/1" in captured.err
    assert run(*command) == 0
    plain = capsys.readouterr().out
    assert run(*command, "--verbose") == 0
    verbose = capsys.readouterr().out
    assert "kept " in verbose
    assert "kept /" not in plain
    assert run("zoo", "-q") == 0
    assert "resnet20-cifar10" in capsys.readouterr().out, "what a verb is asked for is printed all the same"
    assert run("zoo", "-q", "-v") == 2


def test_warnings_are_seen_on_stderr_also_when_quiet(capsys: Any) -> None:
    with terminal(logging.WARNING):
        LOGGER.info("fine")
        LOGGER.warning("odd")
    assert capsys.readouterr() == ("", "warning: odd\n")


def test_the_lines_of_a_comparison_name_method_and_seed(tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("torch")
    command = ("compare", RECIPE, *QUICK, "--methods", "bbg-balanced,float", "--seeds", "2", "--out", tmp_path)
    assert run(*command) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if "loss " in line]
    names = [f"{method}, seed {seed}" for seed in (0, 1) for method in ("bbg-balanced", "float")]
    assert [line.partition("   1/1  loss ")[0] for line in told] == names
    assert max(map(len, told)) < 80


# Bars ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [10, 20, 40, 79, 119, 200])
@pytest.mark.parametrize("total", [None, 1, 12_345])
def test_a_bar_fits_into_its_line(width: int, total: int | None) -> None:
    bar = Bar("epoch 12/200", total)
    bar.figures = ["loss 1.234", "accuracy 0.456", "12345 images/s"]
    bar.since -= 5000
    for done in (0, 1, (total or 50) // 2, total or 50):
        bar.done = done
        text = "".join(part for part, _ in bar.parts(width))
        assert len(text) <= max(width, 34)
        assert text.count("━") + text.count("╌") <= 24
        if width >= 79:
            assert "loss 1.234" in text


def test_the_time_that_is_left_is_that_of_the_whole() -> None:
    bar = Bar("epoch 1/4", 100, begun=20)
    bar.since = time.monotonic() - 10
    bar.done = 40
    assert "0:30 left" in "".join(part for part, _ in bar.parts(79)), "20 steps took 10 s, 60 are left"


def test_a_total_that_was_estimated_too_low_ends_at_its_end() -> None:
    bar = Bar("predicting", 100)
    bar.done = 103
    text = "".join(part for part, _ in bar.parts(79))
    assert "  100 %  0:00 left" in text
    assert text.count("━") == 24


def test_without_a_terminal_there_is_no_bar(capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("bbg.log.DELAY", 0)
    with terminal():
        assert list(track(iter("abc"), "reading", 3)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_the_screen_of_these_tests_wipes_and_wraps() -> None:
    """The judge itself: what is wiped is gone, what is too long wraps and is counted."""
    screen = Screen(10)
    screen.feed("first\r\nsecond\r\x1b[2Kthird\r\n\x1b[1A\x1b[2Kfourth\r\n")
    assert screen.text() == ["first", "fourth", ""]
    screen.feed("0123456789ab")
    assert (screen.text()[-1], screen.wrapped) == ("ab", 1)
