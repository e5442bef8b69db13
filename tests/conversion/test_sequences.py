"""Sequences `[N, C, L]`, which are lines of a map: layers over one axis are lowered as their 2-D kinds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.lowering import Functional
from torch import Tensor, nn

import bbg
from bbg import BbgError
from bbg.graph.file import read

IMAGES = torch.randn(3, 6, 7, 12, generator=torch.Generator().manual_seed(0))


def norm(channels: int) -> nn.BatchNorm1d:
    layer = nn.BatchNorm1d(channels)
    for numbers in (layer.weight, layer.bias, layer.running_mean):
        nn.init.normal_(numbers)
    nn.init.uniform_(layer.running_var, 0.5, 2)
    return layer


Layers = Callable[[], tuple[nn.Module, ...]]
SEQUENCES: dict[str, tuple[Callable[..., Tensor], Layers]] = {
    "a mean of rows": (lambda x, c: c(x.mean(2)), lambda: (nn.Conv1d(6, 8, 3, padding=1),)),
    "a mean of columns": (lambda x, c: c(x.mean(3)), lambda: (nn.Conv1d(6, 8, 3, 2, 2, 2),)),
    "a text line": (
        lambda x, a, b, c, d: d(c(F.max_pool1d(b(a(x).mean(2)).relu(), 2)).flatten(1)),
        lambda: (nn.Conv2d(6, 8, 3, padding=1), norm(8), nn.Conv1d(8, 10, 3), nn.Linear(40, 5)),
    ),
    "a stack of layers": (
        lambda x, *layers: nn.Sequential(*layers)(x.mean(2)),
        lambda: (
            nn.Conv1d(6, 12, 3, padding="same", groups=3, bias=False),
            norm(12),
            nn.ReLU(),
            nn.MaxPool1d(3, 2, 1),
            nn.Conv1d(12, 12, 5, padding=2, groups=12),
            nn.AvgPool1d(2, 1, 1, count_include_pad=False),
            nn.AdaptiveAvgPool1d(3),
            nn.AdaptiveMaxPool1d(2),
            nn.Flatten(),
            nn.Linear(24, 5),
        ),
    ),
    "columns down": (
        lambda x, *layers: nn.Sequential(*layers)(x.mean(3)).mean(2),
        lambda: (
            nn.Conv1d(6, 12, 3, padding=1, groups=2),
            norm(12),
            nn.MaxPool1d(2, ceil_mode=True),
            nn.Conv1d(12, 4, 2),
        ),
    ),
    "channels and rows": (lambda x, c: c(x.flatten(1, 2)), lambda: (nn.Conv1d(42, 8, 3, padding=1),)),
    "channels and columns": (lambda x, c: c(x.transpose(2, 3).flatten(1, 2)), lambda: (nn.Conv1d(72, 8, 3),)),
    "rows and channels": (lambda x, c: c(x.permute(0, 2, 1, 3).flatten(1, 2)), lambda: (nn.Conv1d(42, 8, 3),)),
    "channels and rows, in groups": (lambda x, c: c(x.flatten(1, 2)), lambda: (nn.Conv1d(42, 8, 3, groups=2),)),
    "channels and rows, each": (lambda x, c: c(x.flatten(1, 2)), lambda: (nn.Conv1d(42, 42, 3, groups=42),)),
    "rows and channels, in groups": (
        lambda x, c: c(x.permute(0, 2, 1, 3).flatten(1, 2)),
        lambda: (nn.Conv1d(42, 14, 3, groups=7),),
    ),
    "pools of channels and rows": (
        lambda x, c: c(F.avg_pool1d(F.max_pool1d(x.flatten(1, 2), 3, 1, 1), 2)),
        lambda: (nn.Conv1d(42, 8, 3),),
    ),
    "a pool of rows and channels": (
        lambda x, c: c(F.adaptive_avg_pool1d(x.permute(0, 2, 1, 3).reshape(x.size(0), 42, 12), 5)),
        lambda: (nn.Conv1d(42, 8, 3),),
    ),
    "all pixels": (lambda x, c: c(x.flatten(2)), lambda: (nn.Conv1d(6, 8, 9, 2, 4),)),
    "all pixels, column by column": (lambda x, c: c(x.transpose(2, 3).flatten(2)), lambda: (nn.Conv1d(6, 8, 5),)),
    "a pool of all pixels": (lambda x: F.adaptive_max_pool1d(x.flatten(2), 5), lambda: ()),
    "a part": (lambda x, c: c(x.mean(2)[:, :, 1:-2]), lambda: (nn.Conv1d(6, 8, 3),)),
    "every other": (lambda x, c: c(x.mean(3)[:, 2:, ::2]), lambda: (nn.Conv1d(4, 8, 3),)),
    "one row": (lambda x, c: c(x[:, :, 3]), lambda: (nn.Conv1d(6, 8, 3),)),
    "mirrored": (lambda x, c: c(x.mean(2).flip(2)), lambda: (nn.Conv1d(6, 8, 3),)),
    "two beside each other": (
        lambda x, a, b: b(torch.cat([a(x.mean(2)), x.mean(2)], 1)),
        lambda: (nn.Conv1d(6, 2, 3, padding=1), nn.Conv1d(8, 8, 3)),
    ),
    "a sum": (lambda x, c: c(x.mean(2)) + x.mean(2), lambda: (nn.Conv1d(6, 6, 3, padding=1),)),
    "of features": (lambda x, c: c(x.mean((2, 3))[:, :, None]), lambda: (nn.Conv1d(6, 8, 1),)),
    "a linear layer of each column": (
        lambda x, a, b: b(F.relu(a(x.mean(2)).transpose(1, 2))),
        lambda: (nn.Conv1d(6, 8, 3), nn.Linear(8, 5)),
    ),
    "a linear layer of columns": (lambda x, c: c(x.flatten(1, 2).transpose(1, 2)), lambda: (nn.Linear(42, 5),)),
    "a linear layer of rows": (lambda x, c: c(x.transpose(1, 2).flatten(2)), lambda: (nn.Linear(72, 5, bias=False),)),
    "a linear layer of pixels": (lambda x, c: c(x.flatten(2).transpose(1, 2)), lambda: (nn.Linear(6, 5),)),
    "as the last axis": (lambda x, c: c(x.mean(2)).transpose(1, 2), lambda: (nn.Conv1d(6, 8, 3),)),
}


@pytest.mark.parametrize("case", SEQUENCES)
def test_the_engine_computes_what_torch_does(case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    function, layers = SEQUENCES[case]
    model = Functional(function, *layers()).eval()
    bbg.check(model, IMAGES)
    bbg.convert(model, tmp_path / "net.bbg", IMAGES)
    given = bbg.load(tmp_path / "net.bbg")(IMAGES.numpy())
    with torch.no_grad():
        wanted = model(IMAGES).numpy()
    assert given.shape == wanted.shape
    assert np.abs(given - wanted).max() <= 2e-5 * np.abs(wanted).max()


def test_channels_and_rows_need_no_op_of_their_own(tmp_path: Path) -> None:
    """The kernel has all rows."""
    function, layers = SEQUENCES["channels and rows"]
    bbg.convert(Functional(function, *layers()), tmp_path / "net.bbg", IMAGES)
    (op,) = read(tmp_path / "net.bbg").graph.ops
    assert (op.kind, op.attributes["kernel"], op.attributes["padding"]) == ("conv", (7, 3), (0, 1))


REFUSED: dict[str, tuple[Callable[..., Tensor], Layers, str]] = {
    "channels as the sequence": (
        lambda x, c: c(x.flatten(2).transpose(1, 2)),
        lambda: (nn.Conv1d(84, 4, 3),),
        "give it",
    ),
    "all numbers": (lambda x, c: c(x.flatten(1)[:, None]), lambda: (nn.Conv1d(1, 4, 3),), "give it [N, C, L]"),
    "a mirrored edge": (
        lambda x, c: c(x.mean(2)),
        lambda: (nn.Conv1d(6, 4, 3, padding=1, padding_mode="reflect"),),
        "padding_mode is 'reflect'",
    ),
    "places": (lambda x: F.max_pool1d(x.mean(2), 2, return_indices=True)[0], lambda: (), "indices"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_others_are_refused(case: str, tmp_path: Path) -> None:
    function, layers, sentence = REFUSED[case]
    with pytest.raises(BbgError) as error:
        bbg.convert(Functional(function, *layers()), tmp_path / "net.bbg", IMAGES)
    assert sentence in str(error.value)
    assert not (tmp_path / "net.bbg").exists()
