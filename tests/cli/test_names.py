"""A wrong name is told in one sentence, with the name that was meant, before any image is read."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.commands import RECIPE, refused, run
from support.files import model

from bbg.errors import BbgError, allowed
from bbg.graph.file import read, write
from bbg.models import NETWORKS


def test_the_name_that_was_meant_is_asked_for() -> None:
    assert allowed("resnet-20", NETWORKS).endswith(f"{[*NETWORKS][-1]} (did you mean 'resnet20'?)")
    assert allowed("ResNet20", NETWORKS).endswith("(did you mean 'resnet20'?)")
    assert allowed("mobilenet", NETWORKS) == f"allowed are {', '.join(NETWORKS)}"
    assert allowed("x", [], "the zoo has") == "the zoo has none"


def sets(key: str, value: str, words: str, meant: str) -> tuple[tuple[str, ...], str, str]:
    return ("train", RECIPE, "--set", f"{key}={value}"), words, meant


WRONG = {
    "network": sets("network", "resnet-8", "unknown network 'resnet-8'", "resnet8"),
    "method": sets("method", "ir-net", "unknown method 'ir-net'", "irnet"),
    "act": sets("act", "rpreul", "unknown nonlinearity 'rpreul'", "rprelu"),
    "option of the network": (
        ("train", RECIPE, "--set", "network=resnet18", "--set", "shortcut=pol"),
        "shortcut is 'pol'",
        "",
    ),
    "option that the network has not": sets("shortcut", "pool", "has no option 'shortcut'", ""),
    "data set": sets("dataset", "digit", "unknown dataset 'digit'", "digits"),
    "task": sets("task", "clasification", "'task' is 'clasification'", "classification"),
    "optimizer": sets("optimizer", "sdg", "'optimizer' is 'sdg'", "sgd"),
    "schedule": sets("schedule", "cosin", "'schedule' is 'cosin'", "cosine"),
    "precision": sets("precision", "fp23", "'precision' is 'fp23'", "fp32"),
    "key": sets("optimiser", "adam", "unknown recipe key 'optimiser'", "optimizer"),
    "factory": sets("factory", "support.factories:lineal", "cannot import factory", ""),
    "teacher": sets("teacher", "nowhere.ckpt", "no teacher 'nowhere.ckpt'", ""),
    "recipe": (("train", "cifar10-resnet20"), "no recipe 'cifar10-resnet20'", "cifar10_resnet20"),
    "compared method": (("compare", RECIPE, "--methods", "bbg,xnro"), "unknown method 'xnro'", "xnor"),
    "compared network": (("compare", RECIPE, "--set", "network=resnet9"), "unknown network 'resnet9'", "resnet8"),
    "network of the zoo": (("inspect", "resnet20_cifar10"), "called 'resnet20_cifar10'", "resnet20-cifar10"),
    "verb": (("evl",), "unknown verb 'evl'", "eval"),
    "device": (("train", RECIPE, "--device", "cda"), "unknown device 'cda'", "cuda"),
    "part": (("eval", "resnet20-cifar10", "--data", "x", "--part", "tset"), "part is 'tset'", "test"),
    "edges": (("convert", "x.ckpt", "-o", "y.bbg", "--edges", "int9"), "argument --edges: invalid choice: 'int9'", ""),
    "weights": (("train", RECIPE, "--init", "nope.ckpt"), "cannot read weights 'nope.ckpt'", ""),
    "weights of the recipe": sets("weights", "nope.ckpt", "cannot read weights 'nope.ckpt'", ""),
    "run to resume": (("train", RECIPE, "--resume", "--out", "nope"), "nothing to resume: no 'nope/last.ckpt'", ""),
    "two ways to start": (("train", RECIPE, "--resume", "--overwrite", "--out", "nope"), "give one of them", ""),
    "weights for a run that goes on": (("train", RECIPE, "--resume", "--init", "x"), "give one of them", ""),
    "option in the place of a verb": (("--hlep",), "unknown option '--hlep'", "--help"),
    "option before the verb": (("-q", "zoo"), "unknown option '-q'; allowed are -h, --help, --version", ""),
    "word behind help": (("help", "predict", "zoo"), "'zoo' is one argument too many", ""),
    "option": (("predict", "x.jpg", "--thread", "2"), "unknown option '--thread'", "--threads"),
    "option with its value": (("train", RECIPE, "--epoch=2"), "unknown option '--epoch'", "--epochs"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_name_is_told_before_anything_is_read(case: str, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    pytest.importorskip("torch")
    arguments, words, meant = WRONG[case]
    monkeypatch.setattr("bbg.data.open_data", lambda *_, **__: pytest.fail("the images were read"))
    refused(tmp_path, capsys, words, *arguments)
    assert run(*arguments) == 2
    question = f"did you mean {meant!r}?"
    assert (question in capsys.readouterr().err) == bool(meant)


@pytest.mark.parametrize(("verb", "words"), [("predict", ["x.jpg"]), ("train", [RECIPE]), ("zoo", [])])
def test_what_an_option_is_for_is_found_in_the_help_of_its_verb(verb: str, words: list[str], capsys: Any) -> None:
    assert run(verb, *words, "--frob") == 2
    assert capsys.readouterr().err.endswith(f"; see bbg {verb} --help\n")
    assert run(verb, "--help") == 0
    helped = capsys.readouterr().out
    assert run("help", verb) == 0
    assert capsys.readouterr().out == helped


def test_the_command_alone_is_its_help(capsys: Any) -> None:
    for arguments in ((), ("help",)):
        assert run(*arguments) == 0
        assert capsys.readouterr().out.startswith("usage: bbg [-h]")


# Files of the other kind --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch = pytest.importorskip("torch")
    torch.save({"version": 3}, path := tmp_path_factory.mktemp("run") / "last.ckpt")
    return Path(path)


@pytest.mark.parametrize("verb", [("predict", "x.jpg", "--model"), ("inspect",), ("bench",)])
def test_a_checkpoint_is_to_be_converted_first(verb: tuple[str, ...], checkpoint: Path, capsys: Any) -> None:
    words = (
        f"is a checkpoint of bbg, a packed file is wanted; convert it first with: bbg convert {checkpoint} -o last.bbg"
    )
    refused(checkpoint.parent, capsys, words, *verb, checkpoint)
    with pytest.raises(BbgError, match="is a checkpoint of bbg"):
        read(checkpoint)


def test_a_packed_file_is_no_checkpoint(tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("torch")
    write(packed := tmp_path / "net.bbg", model())
    words = "is a packed file, a checkpoint is wanted"
    refused(tmp_path, capsys, words, "convert", packed, "-o", tmp_path / "new.bbg")
    refused(tmp_path, capsys, words, "inspect", "--checkpoint", packed)


@pytest.mark.parametrize("name", ["net.onnx", "net.pt", "last.ckpt", "net", "net.bbg.gz"])
def test_only_packed_files_are_written(name: str, checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    refused(tmp_path, capsys, "does not end in .bbg", "convert", checkpoint, "-o", tmp_path / name)
    (tmp_path / name).write_text("mine")
    refused(tmp_path, capsys, "does not end in .bbg", "convert", checkpoint, "-o", tmp_path / name)


# The shell ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("tra", {"train"}),
        ("train --ep", {"--epochs"}),
        ("train digits_r", {"digits_resnet8"}),
        ("train own", {"own.toml"}),
        ("predict --mod", {"--model"}),
        ("completion z", {"zsh"}),
    ],
)
def test_the_shell_completes(line: str, found: set[str], tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("shtab")
    assert run("completion", "bash") == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    (tmp_path / "own.toml").write_text("")
    asks = f"""source ./script
COMP_WORDS=(bbg {line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_shtab_bbg bbg "${{COMP_WORDS[-1]}}" "${{COMP_WORDS[-2]}}"
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", asks], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert set(done.stdout.split()) == found, done.stderr


def test_both_shells_have_a_script(capsys: Any) -> None:
    pytest.importorskip("shtab")
    assert run("completion", "zsh") == 0
    script = capsys.readouterr().out
    assert script.startswith("#compdef bbg")
    assert "digits_resnet8" in script
    assert run("completion", "fish") == 2


def test_without_shtab_completion_says_what_to_install(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setitem(__import__("sys").modules, "shtab", None)
    assert run("completion", "bash") == 2
    assert "run pip install shtab" in capsys.readouterr().err
