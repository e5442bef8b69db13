"""`bbg eval` and `predict` see the same pixels: those of the file's own preprocessing, whatever it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import bbg
from bbg.cli import main

RED, BLUE = (255, 0, 0), (0, 0, 255)
PREPROCESSES = {
    "the middle": bbg.Preprocess(32, 40, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    "not square": bbg.Preprocess((16, 20), 24, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    "own colours": bbg.Preprocess(32, mean=(0.9, 0.5, 0.0), std=(0.1, 1.0, 2.0)),
    "grey": bbg.Preprocess(32, 40, mode="L", mean=(0.2,), std=(0.5,)),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide pictures with the subject in the middle, and another colour at the sides, of two colours."""
    root = tmp_path_factory.mktemp("wide")
    for part in ("train", "test"):
        for name, middle, side in (("blue", BLUE, RED), ("red", RED, BLUE)):
            (root / part / name).mkdir(parents=True)
            for i in range(3):
                pixels = np.zeros((40, 120, 3), np.uint8)
                pixels[:] = side
                pixels[:, 40:80] = middle
                pixels[i] = 90
                Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    return root


@pytest.mark.parametrize("case", PREPROCESSES)
def test_eval_and_predict_agree(case: str, photos: Path, tmp_path: Path) -> None:
    preprocess = PREPROCESSES[case]
    channels = len(preprocess.mean)
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 2))
    head = net[2]
    assert isinstance(head, nn.Linear)
    with torch.no_grad():  # more blue than red; bright is red, since its grey is brighter than that of blue
        head.weight.copy_(torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]] if channels == 3 else [[-1.0], [1.0]]))
        head.bias.zero_()
    file, example = tmp_path / "wide.bbg", torch.zeros(2, channels, *preprocess.size)
    bbg.convert(
        net.eval(), file, example, preprocess=preprocess, labels=["blue", "red"], provenance={"dataset": "folders"}
    )
    engine = bbg.load(file, threads=1)
    pictures = sorted((photos / "test").rglob("*.png"))
    predicted = np.mean([engine.predict(p, top=1)[0].label == p.parent.name for p in pictures])
    main(["eval", str(file), "--data", str(photos), "--json", str(tmp_path / "out.json")])
    assert json.loads((tmp_path / "out.json").read_text())["accuracy"] == predicted
    if case == "the middle":
        assert predicted == 1  # squashed whole, the sides would decide


def test_a_file_without_preprocessing_is_not_scored(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    bbg.convert(
        net, tmp_path / "n.bbg", torch.zeros(2, 3, 8, 8), labels=["blue", "red"], provenance={"dataset": "folders"}
    )
    with pytest.raises(SystemExit):
        main(["eval", str(tmp_path / "n.bbg"), "--data", str(photos)])
    assert "packed without preprocessing" in capsys.readouterr().err
