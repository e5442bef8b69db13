"""torchvision's networks from end to end: binarized, trained for three steps, converted, judged layer by layer."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import bbg
from bbg.graph import file as packed
from cases.torchvision_networks import NETWORKS, binary_twin

torch.set_num_threads(1)

# The linear layers of the VGGs have a hundred million weights; ResNet-34 is ResNet-18 with more of the same.
SLOW = {"vgg11", "vgg11_bn", "vgg16", "vgg16_bn", "resnet34"}
CASES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in NETWORKS]


@pytest.mark.parametrize("name", CASES)
def test_a_network_of_torchvision_runs_at_one_bit(name: str, tmp_path: Path) -> None:
    side = NETWORKS[name][1]
    network, original, images, losses = binary_twin(name, side)
    assert all(math.isfinite(loss) for loss in losses)
    report = bbg.convert(network, tmp_path / "net.bbg", images, edges="int8", preprocess=bbg.Preprocess(side))
    assert report.difference <= 1e-5
    assert report.agreement.images == len(images) == 8
    ops = packed.read(tmp_path / "net.bbg").graph.ops
    assert sum(op.kind == "binary_conv" for op in ops) == len(network.report.of("binary"))
    assert network.report.share_beside_depthwise >= 0.9  # at 224x224 0.95: squeeze-excite weighs more in small images
    assert report.after < report.before / 3
    assert report.before > 0.9 * sum(4 * p.numel() for p in original.parameters()) or name == "googlenet"
    engine = bbg.load(tmp_path / "net.bbg")
    assert np.array_equal(engine(images.numpy()), bbg.load(tmp_path / "net.bbg", threads=3)(images.numpy()))
