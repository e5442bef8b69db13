"""The command line: each verb does its job, and each bad input is one sentence, status 2, and no file touched."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from support.commands import QUICK, RECIPE, refused, run
from support.files import join, model, parts, resealed

import bbg
from bbg.cli import declare
from bbg.cli.parser import VERBS
from bbg.cpu import most_threads
from bbg.engine import load
from bbg.graph.breakdown import byte_breakdown
from bbg.graph.file import encode, read, write
from bbg.recipe import Recipe, recipe_names


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A packed file with preprocessing and four labels."""
    path = tmp_path / "small.bbg"
    write(path, model())
    return path


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one epoch on the digits."""
    pytest.importorskip("torch").set_num_threads(1)
    out = tmp_path_factory.mktemp("run")
    assert run("train", RECIPE, *QUICK, "--out", out) == 0
    return out


@pytest.fixture(scope="module")
def converted(trained: Path) -> Path:
    """Its packed file."""
    path = trained / "digits.bbg"
    arguments = ("convert", trained / "last.ckpt", "-o", path, "--edges", "fp32", "--json", trained / "convert.json")
    assert run(*arguments) == 0
    return path


# Every verb, on good input ------------------------------------------------------------------------------------------


def test_predict_prints_what_the_library_says(packed: Path, photo: Path, tmp_path: Path, capsys: Any) -> None:
    assert run("predict", photo, photo, "--model", packed, "--top", "2", "--json", tmp_path / "out.json") == 0
    expected = load(packed).predict(str(photo), top=2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(photo)
    assert lines[1].split() == [f"{100 * expected[0].score:.1f}", "%", expected[0].label]
    for line in (tmp_path / "out.json").read_text().splitlines():
        written = json.loads(line)
        assert written["image"] == str(photo)
        assert [(p["label"], p["score"]) for p in written["predictions"]] == [tuple(p) for p in expected]


def test_recipes_are_listed_shown_and_written(tmp_path: Path, capsys: Any) -> None:
    assert run("recipe", "--json", tmp_path / "all.json") == 0
    assert [row["recipe"] for row in json.loads((tmp_path / "all.json").read_text())["recipes"]] == recipe_names()
    assert run("recipe", "digits_resnet8", "-o", tmp_path / "own.toml") == 0
    capsys.readouterr()
    assert run("recipe", "digits_resnet8") == 0
    assert capsys.readouterr().out == Recipe.find("digits_resnet8").to_toml()
    assert Recipe.load(tmp_path / "own.toml") == Recipe.find("digits_resnet8")
    assert run("recipe", "--keys") == 0
    assert "never on gates, BN, thresholds or biases" in capsys.readouterr().out
    refused(tmp_path, capsys, "which recipe", "recipe", "-o", tmp_path / "none.toml")


def test_inspect_itemises_every_byte(packed: Path, tmp_path: Path, capsys: Any) -> None:
    assert run("inspect", packed, "--json", tmp_path / "out.json") == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert sum(item["bytes"] for item in report["bytes"]) == report["file_bytes"] == packed.stat().st_size
    assert [row["layer"] for row in report["layers"]] == [op.name for op in model().graph.ops]
    assert {row["weight_bits"] for row in report["layers"]} >= {1, 32}
    assert report["binary_operations"] == sum(r["operations"] for r in report["layers"] if r["weight_bits"] == 1) > 0
    assert report["classes"] == 4
    assert {row["note"]: row["value"] for row in report["provenance"]} == model().provenance
    out = capsys.readouterr().out
    assert all(item.name in out and f"{item.bytes:,}" in out for item in byte_breakdown(model()))


def test_inspect_cpu_marks_the_set_that_runs(packed: Path, tmp_path: Path, monkeypatch: Any) -> None:
    for chosen in (None, "scalar"):
        if chosen:
            monkeypatch.setenv("BBG_ISA", chosen)
        assert run("inspect", "--cpu", "--json", tmp_path / "cpu.json") == 0
        sets = json.loads((tmp_path / "cpu.json").read_text())["kernel_sets"]
        best = next(s["name"] for s in sets if s["supported"])
        assert [s["name"] for s in sets if s["chosen"]] == [load(packed).kernels] == [chosen or best]


def test_bench_times_every_layer_and_the_whole(packed: Path, tmp_path: Path) -> None:
    assert run("bench", packed, "--seconds", "0.02", "--batch", "2", "--json", tmp_path / "out.json") == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert [row["layer"] for row in report["layers"]] == [op.name for op in model().graph.ops]
    (whole,) = report["whole_network"]  # the network is of no known topology, so it has no twin
    for row, unit in [*((layer, "us") for layer in report["layers"]), (whole, "ms")]:
        assert 0 <= row[f"min_{unit}"] <= row[f"median_{unit}"]
    assert whole["calls"] >= 5


def test_version_and_help(capsys: Any) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"bbg {bbg.__version__}\n"
    assert run("--help") == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in ("train", "eval", "convert", "predict", "bench", "inspect", "zoo"))


def test_training_reports_and_resumes(trained: Path, tmp_path: Path, capsys: Any) -> None:
    arguments = ("train", RECIPE, *QUICK, "--out", trained, "--resume", "--json", tmp_path / "out.json")
    assert run(*arguments) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["test_images"] == 360
    assert "width = 4" in capsys.readouterr().out, "the recipe is echoed as it was changed"
    assert run("train", RECIPE, *QUICK, "--seed", "3", "--init", trained / "last.ckpt", "--out", tmp_path / "new") == 0


def test_eval_scores_both_sides_alike(trained: Path, converted: Path, tmp_path: Path) -> None:
    scores = []
    for scored in (trained / "last.ckpt", converted):
        assert run("eval", scored, "--dataset", "digits", "--json", tmp_path / "out.json") == 0
        report = json.loads((tmp_path / "out.json").read_text())
        assert report["test_images"] == 360
        scores.append(report["accuracy"])
    history = (trained / "history.csv").read_text().splitlines()
    quoted = float(dict(zip(history[0].split(","), history[-1].split(","), strict=True))["test_accuracy"])
    assert scores[0] == pytest.approx(quoted, abs=1e-6), "eval repeats the figure of the training"
    assert abs(scores[0] - scores[1]) <= 1 / 360


def test_convert_compares_both_sides(trained: Path, converted: Path) -> None:
    report = json.loads((trained / "convert.json").read_text())
    assert report["test_images"] == 360
    assert report["disagreements"] <= 1
    assert abs(report["accuracy_torch"] - report["accuracy_engine"]) <= 1 / 360


def test_convert_tells_what_8_bit_edges_cost(trained: Path, converted: Path, tmp_path: Path) -> None:
    assert run("convert", trained / "last.ckpt", "-o", tmp_path / "8.bbg", "--json", tmp_path / "out.json") == 0
    report = json.loads((tmp_path / "out.json").read_text())
    sizes = [path.stat().st_size for path in (converted, tmp_path / "8.bbg")]
    # The accuracies that the two files state have other digits.
    assert abs(report["edges_bytes_saved"] - (sizes[0] - sizes[1])) <= 32
    assert {row["part"]: row["packed"] for row in report["bytes"]}["total"] == sizes[1]
    assert report["edges_ranges"] == "recorded in training on 512 images"
    assert ("warning" in report) is (report["disagreements"] > 3.6)  # one per cent of the test images
    assert report["edges_output_diff_max"] > report["output_diff_max"]
    assert report["accuracy_engine"] > report["accuracy_torch"] - 0.1  # four channels wide, one epoch


def test_a_converted_model_is_benched_beside_its_twin(converted: Path, tmp_path: Path) -> None:
    assert run("bench", converted, "--seconds", "0.02", "--json", tmp_path / "out.json") == 0
    sides = json.loads((tmp_path / "out.json").read_text())["whole_network"]
    assert [s["runs_as"] for s in sides] == ["packed, bbg", "real-valued twin, torch"]


# Every verb, on bad input -------------------------------------------------------------------------------------------


def edited(change: Any) -> bytes:
    """The packed file after `change(header, description)`."""
    header, description, payload = parts(encode(model()))
    change(header, description)
    return join(header, description, payload)


def binary(description: dict[str, Any]) -> dict[str, Any]:
    return next(op for op in description["ops"] if op["kind"] == "binary_conv")


def name_of_weight(header: dict[str, Any]) -> str:
    return next(name for name, entry in header.items() if name.endswith(".weight") and entry["dtype"] == "U64")


def without_a_weight() -> bytes:
    data = encode(model())
    header, description, _ = parts(data)
    tensors = safetensors.numpy.load(data)
    del tensors[name_of_weight(header)]
    return resealed(safetensors.numpy.save(tensors, {"bbg": json.dumps(description)}))


def overlap(header: dict[str, Any], _: Any) -> None:
    first, second, *_ = sorted((n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"])
    size = header[second]["data_offsets"][1] - header[second]["data_offsets"][0]
    start = header[first]["data_offsets"][0]
    header[second]["data_offsets"] = [start, start + size]


def reshape(header: dict[str, Any], _: Any) -> None:
    entry = header[name_of_weight(header)]
    entry["shape"] = [*entry["shape"], 1]


DAMAGE = {
    "truncated": (lambda: encode(model())[:-3], "damaged"),
    "later version": (lambda: edited(lambda h, d: d.update(version="99.0")), "of format 99.0"),
    "wrong shape": (lambda: edited(reshape), "it must be uint64"),
    "wrong dtype": (lambda: edited(lambda h, d: h[name_of_weight(h)].update(dtype="I64")), "dtype I64"),
    "overlap": (lambda: edited(overlap), "damaged"),
    "missing tensor": (without_a_weight, "tensor 'weight' is missing"),
    "cycle": (lambda: edited(lambda h, d: d["ops"].reverse()), "cycle or its ops are out of order"),
    "dangling input": (lambda: edited(lambda h, d: binary(d)["inputs"].__setitem__(0, "nowhere")), "no op writes"),
    "unknown kind": (lambda: edited(lambda h, d: binary(d).update(kind="deconv")), "unknown kind"),
    "unknown attribute": (lambda: edited(lambda h, d: binary(d)["attributes"].update(twist=1)), "unknown attribute"),
    "overflow": (lambda: edited(lambda h, d: d["input"].update(shape=[3, 2**31, 2**31])), "below 2^31"),
    "no packed file": (lambda: b"GIF89a" + bytes(100), "is no packed file"),
    "a text": (lambda: b"dataset = 1\n", "is no packed file"),
    "empty": (lambda: b"", "is no packed file, or a truncated one"),
}


@pytest.mark.parametrize("verb", ["predict", "bench", "inspect", "eval"])
@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_packed_file(case: str, verb: str, tmp_path: Path, photo: Path, capsys: Any) -> None:
    make, words = DAMAGE[case]
    path = tmp_path / "damaged.bbg"
    path.write_bytes(make())
    if verb == "eval":
        pytest.importorskip("torch")
    refused(tmp_path, capsys, words, verb, *([photo, "--model", path] if verb == "predict" else [path]))


USAGE = {
    "no verb of this name": (["frobnicate"], "unknown verb 'frobnicate'"),
    "no image": (["predict"], "required: IMAGE"),
    "no such option": (["zoo", "--frob"], "unknown option '--frob'"),
    "a word too many": (["zoo", "resnet20-cifar10", "all"], "'all' is one argument too many"),
    "top below 1": (["predict", "x.jpg", "--top", "0"], "argument --top: '0'"),
    "top no number": (["predict", "x.jpg", "--top", "many"], "argument --top: 'many'"),
    **{f"{s} seconds": (["bench", "x", "--seconds", s], f"argument --seconds: '{s}'") for s in ("inf", "nan", "-1")},
    **{
        f"threads of {v}": ([v, "x", "--threads", "9" * 20], f"no integer from 1 to {most_threads()}")
        for v in ("predict", "eval")
    },
    "memory that is not there": (["bench", "{packed}", "--batch", "9" * 9], "not enough memory"),
    "inspect nothing": (["inspect"], "either a MODEL or --cpu"),
    "inspect both": (["inspect", "x", "--cpu"], "either a MODEL or --cpu"),
    "unknown model": (["inspect", "resnet1000"], "resnet1000"),
    "JSON into no folder": (["zoo", "--json", "{folder}/none/zoo.json"], "argument --json"),
    "JSON onto a folder": (["zoo", "--json", "{folder}"], "argument --json"),
}


@pytest.mark.parametrize("case", USAGE)
def test_bad_usage(case: str, packed: Path, photo: Path, tmp_path: Path, capsys: Any) -> None:
    arguments, words = USAGE[case]
    refused(tmp_path, capsys, words, *(a.format(packed=packed, photo=photo, folder=tmp_path) for a in arguments))


def test_a_truncated_image(packed: Path, photo: Path, tmp_path: Path, capsys: Any) -> None:
    photo.write_bytes(photo.read_bytes()[:300])
    refused(tmp_path, capsys, "photo.jpg", "predict", photo, "--model", packed, status=1)


def test_an_impossible_kernel_set(packed: Path, photo: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("BBG_ISA", "mmx")
    refused(tmp_path, capsys, "mmx", "predict", photo, "--model", packed)
    refused(tmp_path, capsys, "mmx", "inspect", "--cpu")


def recipe_file(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


FOLDERS = 'dataset = "folders"\nnetwork = "resnet8"\n'

TRAINING = {
    "missing recipe": (None, ["nope.toml"], "cannot read recipe"),
    "no TOML": ("dataset = ", ["{recipe}"], "no TOML"),
    "unknown key": (FOLDERS + "tint = 1\n", ["{recipe}"], "unknown recipe key 'tint'"),
    "wrong type": (FOLDERS + 'epochs = "many"\n', ["{recipe}"], "'epochs'"),
    "unknown key in --set": (FOLDERS, ["{recipe}", "--set", "tint=1"], "unknown recipe key 'tint'"),
    "no value in --set": (FOLDERS, ["{recipe}", "--set", "lr"], "key=value"),
    "epochs below 1": (FOLDERS, ["{recipe}", "--epochs", "0"], "'epochs'"),
    "no data named": (FOLDERS, ["{recipe}"], "--data"),
    "missing folder": (FOLDERS, ["{recipe}", "--data", "{folder}/none"], "no folder"),
    "empty class folder": (FOLDERS, ["{recipe}", "--data", "{folder}/images"], "no readable image"),
    "width beyond the memory": (None, [RECIPE, "--set", "width=20000000"], "not enough memory"),
    "width beyond all numbers": (None, [RECIPE, "--set", "width=100000000000"], "not enough memory"),
    "unwritable --out": (None, [RECIPE, "--out", "{folder}/file"], "--out"),
    "nothing to resume": (None, [RECIPE, "--out", "{folder}/run", "--resume"], "nothing to resume"),
    "missing --init": (None, [RECIPE, "--out", "{folder}/run", "--init", "nope.ckpt"], "nope.ckpt"),
    "JSON into no folder": (None, [RECIPE, "--json", "{folder}/none/a.json"], "argument --json"),
}


@pytest.mark.parametrize("case", TRAINING)
def test_bad_training(case: str, tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("torch")
    text, arguments, words = TRAINING[case]
    recipe = recipe_file(tmp_path, text or "")
    (tmp_path / "file").write_text("in the way")
    for name in ("cat", "dog"):
        (tmp_path / "images" / "train" / name).mkdir(parents=True)
        (tmp_path / "images" / "test" / name).mkdir(parents=True)
    refused(tmp_path, capsys, words, "train", *(a.format(recipe=recipe, folder=tmp_path) for a in arguments))


def test_a_run_is_not_overwritten(trained: Path, capsys: Any) -> None:
    refused(trained, capsys, "holds a run already", "train", RECIPE, *QUICK, "--out", trained)
    refused(trained, capsys, "cannot resume", "train", RECIPE, *QUICK, "--seed", "9", "--out", trained, "--resume")


def test_bad_conversion(trained: Path, tmp_path: Path, capsys: Any) -> None:
    checkpoint, old = trained / "last.ckpt", tmp_path / "old.bbg"
    old.write_bytes(b"an older file")
    refused(tmp_path, capsys, "no checkpoint", "convert", RECIPE, "-o", old)
    refused(tmp_path, capsys, "nope.ckpt", "convert", "nope.ckpt", "-o", old)
    refused(tmp_path, capsys, "cannot write", "convert", checkpoint, "-o", tmp_path / "none" / "new.bbg")
    refused(tmp_path, capsys, "cannot write", "convert", checkpoint, "-o", tmp_path)
    refused(tmp_path, capsys, "int7", "convert", checkpoint, "-o", old, "--edges", "int7")
    damaged = tmp_path / "damaged.ckpt"
    damaged.write_bytes(checkpoint.read_bytes()[:5000])
    refused(tmp_path, capsys, "damaged.ckpt", "convert", damaged, "-o", old)


def test_bad_evaluation(converted: Path, packed: Path, tmp_path: Path, capsys: Any) -> None:
    refused(tmp_path, capsys, "does not say what it was trained on", "eval", packed)
    refused(tmp_path, capsys, "which the model does not know", "eval", packed, "--dataset", "digits")
    refused(tmp_path, capsys, "--data", "eval", packed, "--dataset", "folders")
    refused(tmp_path, capsys, "unknown dataset", "eval", converted, "--dataset", "letters")
    refused(tmp_path, capsys, "nope", "eval", "nope", "--dataset", "digits")
    write(headless := tmp_path / "headless.bbg", replace(read(converted), head=None))
    refused(tmp_path, capsys, "packed without a head", "eval", headless)


# The process --------------------------------------------------------------------------------------------------------


def test_predict_needs_no_torch(packed: Path, photo: Path) -> None:
    code = f"""
import sys
sys.modules["torch"] = None
from bbg.cli import main
try:
    main(["predict", {str(photo)!r}, "--model", {str(packed)!r}])
finally:
    print([m for m in sys.modules if m.split(".")[0] in ("torch", "torchvision", "matplotlib", "scipy")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "['torch']", "the blocked entry alone"


def test_training_without_torch_says_what_to_install() -> None:
    code = f"import sys; sys.modules['torch'] = None\nfrom bbg.cli import main; main(['train', {RECIPE!r}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    advice = "pip install torch torchvision lightning-fabric matplotlib"
    assert done.stderr == f"bbg: this verb needs torch, which is not installed; run {advice}\n"


def test_names_of_users_are_no_markup(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "[red]a.bbg"
    write(path, model())
    assert run("inspect", path) == 0
    assert f"file: {path}\n" in capsys.readouterr().out


def test_every_verb_writes_its_figures_as_json() -> None:
    declare()
    for verb, arguments in VERBS.items():
        assert verb.__name__ == "completion" or any("--json" in names for names, _ in arguments), verb.__name__


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "bbg", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"bbg {bbg.__version__}\n"
