"""A detector beside its packed form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

import bbg
from bbg.graph.file import read


def packed_agrees(model: nn.Module, size: tuple[int, int], path: Path) -> None:
    """The packed form of `model`, in evaluation mode, gives what torch does; its heads write where rows belong."""
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        wanted = model(images)
    classes = wanted["scores"].shape[2] - 1
    report = bbg.convert(
        model, path, images, preprocess=bbg.Preprocess(size), labels=list("abcdef")[:classes], edges="fp32"
    )
    assert report.difference <= 1e-5
    packed = read(path)
    assert packed.head == model.detection
    assert len(packed.graph.outputs[0].parts) == len(packed.head.levels)  # type: ignore[union-attr]
    assert not [op.name for op in packed.graph.ops if op.kind == "concat"]
    found = bbg.load(path, threads=1)(images.numpy())
    assert isinstance(found, dict)
    if not report.agreement.diverged:
        for key, value in wanted.items():
            np.testing.assert_allclose(found[key], value, atol=1e-3 * float(value.abs().max()))
