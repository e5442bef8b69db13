"""Laws of the launcher: bad input is told once, who dies returns, and a signal ends all behind the same step."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from support.commands import run
from support.processes import TRAINED, free_port, paths
from support.trainings import bits

from bbg.errors import BbgError
from bbg.training import launch as launcher
from bbg.training.checkpoint import Checkpoint
from bbg.training.device import check_kind
from bbg.training.folder import LAST
from bbg.training.launch import Plan, launch, plan_of

torch.set_num_threads(1)


def command(out: Path, *more: str) -> list[str]:
    """The training of TRAINED on the command line."""
    recipe = out.parent / "recipe.toml"
    recipe.write_text(TRAINED.to_toml())
    return ["train", str(recipe), "--out", str(out), *more]


def begin(words: list[str], **more: Any) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-m", *words], env=paths(), text=True, **pipes, **more)


def children(process: int) -> list[int]:
    """The processes that it has started."""
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def when_kept(out: Path, process: subprocess.Popen[str]) -> None:
    """Wait for the first checkpoint."""
    while not (out / LAST).exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bits of the weights of an undisturbed run of two processes."""
    folder = tmp_path_factory.mktemp("undisturbed")
    code = (
        f"from pathlib import Path; from support.processes import Place, run_case; p = Path({str(folder)!r}); "
        "Place.folder = p; assert run_case('trained', p) == [0, 0]"
    )
    subprocess.run([sys.executable, "-c", code], env=paths(), check=True, timeout=300)
    return bits(Checkpoint.load(folder / "undisturbed" / LAST).model)


# What cannot be.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--processes", "0"], "'0' is no integer from 1"),
        (["--processes", "-2"], "'-2' is no integer from 1"),
        (["--processes", "2", "--device", "mps"], "mps"),
        (["--processes", "40"], "40 processes share a batch of 64, allowed are two images for each"),
        (["--nodes", "2", "--node-rank", "0"], "--nodes 2 takes --node-rank and --master HOST:PORT"),
        (["--nodes", "2", "--node-rank", "2", "--master", "a:1"], "--node-rank is 2, allowed is 0 to 1"),
        (["--nodes", "2", "--node-rank", "0", "--master", "a"], "--master is 'a'; give HOST:PORT"),
        (["--nodes", "2", "--node-rank", "0", "--master", "a:70000"], "give HOST:PORT"),
        (["--node-rank", "1"], "give --nodes too"),
        (["--processes", "2", "--set", "network=none"], "none"),
        (["--processes", "2", "--resume", "--out", "nowhere"], "nothing to resume"),
    ],
)
def test_what_cannot_be_is_told_before_any_process_starts(
    options: list[str], words: str, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: pytest.fail("none must start"))
    assert run("train", "digits_resnet8", *options) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_port_in_use_is_told(capsys: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        options = ["--nodes", "2", "--node-rank", "0", "--master", place]
        assert run("train", "digits_resnet8", *options) == 2
    assert f"cannot listen at {place}: Address already in use" in capsys.readouterr().err


def test_devices_of_several_processes() -> None:
    check_kind(torch.device("cpu"), "cpu", 8)
    with pytest.raises(BbgError, match="there is one only"):
        check_kind(torch.device("mps"), None, 2)
    with pytest.raises(BbgError, match="several processes take a GPU each, by their numbers"):
        check_kind(torch.device("cuda", 1), "cuda:1", 2)
    with pytest.raises(BbgError, match="999 processes take a GPU each, torch sees"):
        check_kind(torch.device("cuda", 0), "cuda", 999)


def test_one_process_needs_no_launcher(monkeypatch: Any) -> None:
    assert plan_of(None, None, None, None) is None
    assert plan_of(1, None, None, None) is None
    assert plan_of(1, 1, 0, None) is None
    assert plan_of(None, 2, 1, "[::1]:80") == Plan(1, 2, 1, "::1", 80)
    assert plan_of(3, 2, 1, "a:80") == Plan(3, 2, 1, "a", 80)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    assert plan_of(2, None, None, None) == Plan(2)  # left over from somewhere
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    with pytest.raises(BbgError, match="torchrun has started this process"):
        plan_of(2, None, None, None)


# How it ends. The processes are not those of a training, and so they start at once.


def pretend(monkeypatch: Any, tmp_path: Path, lines: str) -> None:
    """Let the processes run `lines` with their rank `r` and the attempt `a`, in the place of `bbg`."""
    program = tmp_path / "program.py"
    program.write_text(
        f"import os, signal, sys, time\nr, a = (int(os.environ[n]) for n in ('RANK', 'TORCHELASTIC_RESTART_COUNT'))\n"
        f"open(f'{tmp_path}/{{a}}.{{r}}', 'w').close()\n{lines}"
    )
    start = subprocess.Popen
    monkeypatch.setattr(launcher.subprocess, "Popen", lambda words, **k: start([words[0], str(program)], **k))
    monkeypatch.setattr(launcher, "GRACE", 0.5)


def test_processes_that_die_return_and_not_for_ever(tmp_path: Path, monkeypatch: Any, caplog: Any) -> None:
    pretend(monkeypatch, tmp_path, "os.kill(os.getpid(), 9) if r == 1 and a < 2 else time.sleep(99 * (a < 2))")
    assert launch([], Plan(2)) == 0
    told = [message for message in caplog.messages if "restart" in message]
    assert [message.split(" (")[1] for message in told] == ["restart 1 of 3)", "restart 2 of 3)"]
    assert "process 1 was ended by SIGKILL" in told[0]
    pretend(monkeypatch, tmp_path, "os.kill(os.getpid(), 11)")
    with pytest.raises(BbgError, match="ended by SIGSEGV, after 3 restarts"):
        launch([], Plan(1))


@pytest.mark.parametrize("status", [1, 2])
def test_a_process_that_ends_with_an_error_does_not_return(status: int, tmp_path: Path, monkeypatch: Any) -> None:
    """Those that lost it have a status of their own, and say nothing."""
    pretend(monkeypatch, tmp_path, f"time.sleep(0.2 * r); sys.exit({status} if r else 75)")
    assert launch([], Plan(2)) == status
    assert not list(tmp_path.glob("1.*"))


def test_launchers_of_two_machines_start_again_together(tmp_path: Path, monkeypatch: Any) -> None:
    """Each ends its processes where one dies on the other."""
    pretend(monkeypatch, tmp_path, "os.kill(os.getpid(), 9) if r == 2 and a == 0 else time.sleep(99 * (a == 0))")
    monkeypatch.setattr(launcher, "REMOTE", 0.05)
    port = free_port()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = launch([], Plan(2, 2, 1, "127.0.0.1", port))
        finally:
            os._exit(status)
    assert launch([], Plan(2, 2, 0, "127.0.0.1", port)) == 0
    assert os.waitpid(child, 0)[1] == 0
    assert len(list(tmp_path.glob("[01].[0123]"))) == 8


# Trainings.


@pytest.mark.slow
def test_a_killed_process_changes_no_bit(undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["bbg", *command(out, "--processes", "2", "--device", "cpu")]
    process = begin(words)
    when_kept(out, process)
    os.kill(children(process.pid)[1], signal.SIGKILL)
    _, error = process.communicate(timeout=900)
    assert process.returncode == 0, error
    assert "process 1 was ended by SIGKILL: all processes start again from the last checkpoint (restart 1" in error
    assert "Traceback" not in error
    assert bits(Checkpoint.load(out / LAST).model) == undisturbed


@pytest.mark.slow
def test_a_signal_ends_all_behind_the_same_step_with_a_checkpoint(
    undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    process = begin(["bbg", *command(out, "--processes", "2", "--device", "cpu")])
    when_kept(out, process)
    process.send_signal(signal.SIGINT)
    told, error = process.communicate(timeout=900)
    assert process.returncode == 130
    assert error == "bbg: interrupted\n"
    assert "go on with --resume" in told
    assert run(*command(out, "--resume", "--device", "cpu")) == 0  # one process, whose sums round otherwise
    assert Checkpoint.load(out / LAST).epoch == TRAINED.epochs
    assert bits(Checkpoint.load(out / LAST).model).keys() == undisturbed.keys()


@pytest.mark.slow
def test_torchrun_starts_the_processes_and_starts_them_again(undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    process = begin([*words, "-m", "bbg", *command(out, "--device", "cpu")])
    when_kept(out, process)
    os.kill(children(process.pid)[1], signal.SIGKILL)
    told, error = process.communicate(timeout=900)
    assert process.returncode == 0, error
    assert "started again, from" in told
    assert bits(Checkpoint.load(out / LAST).model) == undisturbed


@pytest.mark.slow
def test_missing_images_are_told_once(tmp_path: Path) -> None:
    words = ["bbg", "train", "cifar10_resnet20", "--data", str(tmp_path), "--processes", "2", "--device", "cpu"]
    process = begin(words, cwd=tmp_path)
    told, error = process.communicate(timeout=900)
    assert process.returncode == 2
    assert error.startswith("bbg: ")
    assert error.count("\n") == 1, error
    assert told == ""
    assert not list(tmp_path.iterdir())
