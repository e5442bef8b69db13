"""Networks in their most copied forms go the whole way: binarize with its proof, training, convert, the engine."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import bbg
from bbg.data.digits import digits
from bench.generality import TOLERANCE, difference, learns, packed_answer, settle, tensors
from cases.copied_networks import NETWORKS, MnistNet

torch.set_num_threads(1)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_copied_network_goes_the_whole_way(name: str, tmp_path: Path) -> None:
    make, channels, side = NETWORKS[name]
    torch.manual_seed(0)
    network = make()
    images = torch.randn(4, channels, side, side)
    settle(network, images)
    bbg.check(network, images[:1])
    real = copy.deepcopy(network).eval()
    assert difference(packed_answer(real, images, tmp_path), _answer(real, images)) < TOLERANCE
    binary = bbg.binarize(network, example=images[:1])
    proof = binary.report.proof
    assert max(proof.evaluation, proof.training, proof.gradients, proof.statistics) <= 1e-5
    assert len(binary.report.of("binary")) >= 2
    own = {p.data_ptr() for p in network.parameters()} & {p.data_ptr() for p in binary.parameters()}
    assert own <= learns(binary, images, 2), "a parameter that the given network trains gets no gradient"
    binary.eval()
    assert difference(packed_answer(binary, images, tmp_path), _answer(binary, images)) < TOLERANCE


def _answer(network: nn.Module, images: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return list(tensors(network(images)))


def test_the_mnist_network_reads_digits_at_one_bit(tmp_path: Path) -> None:
    """Two epochs on the digits that come with the package, brought to MNIST's size: nine of ten are read."""
    torch.manual_seed(0)
    train, test = (_as_mnist(images.images) for images in (digits().train, digits().test))
    labels = torch.from_numpy(digits().train.labels)
    network = bbg.binarize(MnistNet(), example=train[:1])
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(2):
        for batch in torch.randperm(len(train)).split(64):
            loss = F.nll_loss(network.train()(train[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    bbg.convert(network.eval(), tmp_path / "net.bbg", train[:8], edges="fp32")
    answers = bbg.load(tmp_path / "net.bbg", threads=1)(test.numpy())
    assert isinstance(answers, np.ndarray)
    assert np.mean(answers.argmax(1) == digits().test.labels) > 0.9


def _as_mnist(pixels: np.ndarray) -> Tensor:
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    return F.interpolate((images - 0.1307) / 0.3081, 28, mode="bilinear")
