"""`bbg inspect --checkpoint`: the tables are those of bbg.analysis, and bad input is one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.commands import QUICK, RECIPE, contents, refused, run

from bbg.analysis import activity, costs, weight_entropy
from bbg.data import open_data
from bbg.training.checkpoint import Checkpoint

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of one epoch on the digits."""
    out = tmp_path_factory.mktemp("run")
    assert run("train", RECIPE, *QUICK, "--out", out) == 0
    return out / "last.ckpt"


def report(folder: Path, *arguments: object) -> Any:
    assert run("inspect", "--checkpoint", *arguments, "--json", folder / "out.json") == 0
    return json.loads((folder / "out.json").read_text())


def test_the_tables_are_those_of_the_library(trained: Path, tmp_path: Path, capsys: Any) -> None:
    before = contents(trained.parent)
    found = report(tmp_path, trained, "--histograms", tmp_path / "a.png")
    assert contents(trained.parent) == before
    state = Checkpoint.load(trained)
    model, test = state.network(), open_data("digits", None).test
    rows = {row.name: row for row in weight_entropy(model)}
    assert {r["layer"]: (r["entropy"], r["least_of_a_filter"], r["mean_of_filters"]) for r in found["weights"]} == {
        name: (row.layer, row.least, row.mean) for name, row in rows.items()
    }
    x = torch.from_numpy(state.preprocess.normalize(test.images))
    active = activity(model, x)
    assert [(r["layer"], r["dead"], r["stuck"]) for r in found["activity"]] == [
        (a.name, int(a.dead.sum()), int(a.stuck.sum())) for a in active
    ]
    assert found["images_looked_at"] == 360
    assert [row["unit"] for row in found["gates"]] == [f"units.{i}" for i in range(6)]
    assert found["sign_flips"] == [{"epoch": 1, "share": state.history[0]["flips"]}]
    cost = costs(model, x[:1])
    assert {r["bits"]: (r["bytes"], r["operations"]) for r in found["by_bit_width"]} == {
        bits: (cost.bytes[bits], cost.macs[bits]) for bits in (1, 8, 32)
    }
    assert sum(row["bytes"] for row in found["costs"]) == found["bytes"] == sum(cost.bytes.values())
    assert found["bytes_if_all_were_float32"] == cost.float_bytes
    assert Image.open(tmp_path / "a.png").format == "PNG"
    keys = {key: value for key, value in json.loads(json.dumps(state.recipe.to_dict())).items() if value is not None}
    assert {row["key"]: row["value"] for row in found["recipe"]} == keys
    out = capsys.readouterr().out
    assert all(words in out for words in ("least of a filter", "share negative", "sign flips", "by bit width"))


def test_without_images_and_flips_their_tables_are_left_out(trained: Path, tmp_path: Path) -> None:
    state = Checkpoint.load(trained)
    state.recipe = state.recipe.changed({"dataset": "folders"})
    del state.history[0]["flips"]
    state.save(tmp_path / "a.ckpt")
    found = report(tmp_path, tmp_path / "a.ckpt")
    assert {"weights", "gates", "costs", "by_bit_width"} <= set(found)
    assert not {"activity", "sign_flips", "histograms"} & set(found)
    assert found["images_looked_at"] == 0


def test_a_real_valued_network_has_costs_only(tmp_path: Path, capsys: Any) -> None:
    assert run("train", RECIPE, *QUICK, "--set", "method=float", "--out", tmp_path / "run") == 0
    found = report(tmp_path, tmp_path / "run" / "last.ckpt")
    assert not {"weights", "gates", "activity", "sign_flips"} & set(found)
    assert found["by_bit_width"][0] == {"bits": 1, "bytes": 0, "operations": 0}
    assert found["bytes"] == found["bytes_if_all_were_float32"]
    picture = tmp_path / "a.png"
    refused(
        tmp_path,
        capsys,
        "no binary layer",
        "inspect",
        "--checkpoint",
        tmp_path / "run" / "last.ckpt",
        "--histograms",
        picture,
    )


USAGE = {
    "a model as well": (["net.bbg", "--checkpoint", "{ckpt}"], "give one of them"),
    "the kernel sets as well": (["--cpu", "--checkpoint", "{ckpt}"], "give one of them"),
    "data of a packed file": (["net.bbg", "--data", "{folder}"], "with --checkpoint CKPT only"),
    "histograms of a packed file": (["net.bbg", "--histograms", "{folder}/a.png"], "with --checkpoint CKPT only"),
    "no such file": (["--checkpoint", "{folder}/nope.ckpt"], "nope.ckpt"),
    "no checkpoint": (["--checkpoint", RECIPE], "no checkpoint of bbg"),
    "histograms onto a folder": (["--checkpoint", "{ckpt}", "--histograms", "{folder}"], "argument --histograms"),
    "histograms into no folder": (["--checkpoint", "{ckpt}", "--histograms", "{folder}/no/a.png"], "--histograms"),
}


@pytest.mark.parametrize("case", USAGE)
def test_bad_usage(case: str, trained: Path, tmp_path: Path, capsys: Any) -> None:
    arguments, words = USAGE[case]
    refused(tmp_path, capsys, words, "inspect", *(a.format(ckpt=trained, folder=tmp_path) for a in arguments))


def test_only_a_checkpoint_needs_torch(trained: Path, tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None\nfrom bbg.cli import main; main(['inspect', *sys.argv[1:]])"
    for arguments, status in ((["--checkpoint", str(trained)], 2), (["resnet20-cifar10"], 0), (["--cpu"], 0)):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
        assert ("this verb needs torch" in done.stderr) == (status == 2)
