"""Balanced activations: the mean of the batch while they learn, the running mean later."""

from __future__ import annotations

import pytest
import torch
from support.kill_train import RECIPE
from torch import Tensor

from bbg.data import open_data
from bbg.layers import BinaryConv2d
from bbg.methods.bbg_plus import BalancedActivation
from bbg.training.evaluate import reestimate_statistics
from bbg.training.factory import build
from bbg.training.loop import training_loader

torch.set_num_threads(1)

SHAPES = [(6, 3, 4, 5), (8, 3)]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Channels whose means are 1, 2, 3, ..."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x + torch.arange(1.0, 1 + shape[1]).reshape(-1, *[1] * (len(shape) - 2))


def means(x: Tensor) -> Tensor:
    return torch.stack([x[:, c].mean() for c in range(x.shape[1])])


def along(vector: Tensor, x: Tensor) -> Tensor:
    return vector.reshape(-1, *[1] * (x.ndim - 2))


@pytest.mark.parametrize("shape", SHAPES)
def test_signs_are_against_the_mean_of_the_batch_in_training_and_the_running_mean_later(shape: tuple[int, ...]) -> None:
    binarizer = BalancedActivation(3).double()
    running = torch.zeros(3, dtype=torch.float64)
    for seed in range(3):
        x = drawn(*shape, seed=seed)
        assert torch.equal(binarizer(x), torch.where(x >= along(means(x), x), 1.0, -1.0).double())
        running = 0.9 * running + 0.1 * means(x)
        assert torch.allclose(binarizer.running_mean, running, rtol=1e-12)
    binarizer.eval()
    x = drawn(*shape, seed=9)
    assert torch.equal(binarizer(x), torch.where(x >= along(binarizer.running_mean, x), 1.0, -1.0).double())
    assert torch.allclose(binarizer.running_mean, running, rtol=1e-12)


def test_the_pace_is_that_of_a_batch_norm() -> None:
    for momentum in (0.1, 0.3, None):
        binarizer, norm = BalancedActivation(3), torch.nn.BatchNorm2d(3, momentum=momentum)
        binarizer.momentum = momentum
        for seed in range(4):
            x = drawn(6, 3, 4, 5, seed=seed).float()
            binarizer(x)
            norm(x)
        assert torch.allclose(binarizer.running_mean, norm.running_mean, atol=1e-6)
    binarizer.reset_running_stats()
    assert binarizer.running_mean.tolist() == [0.0] * 3
    assert int(binarizer.num_batches_tracked) == 0


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_goes_through_the_mean(shape: tuple[int, ...]) -> None:
    x, upstream = drawn(*shape).requires_grad_(), drawn(*shape, seed=1)
    BalancedActivation(3).double()(x).backward(upstream)
    centred = x.detach() - along(means(x.detach()), x)
    grad = upstream * (centred.abs() <= 1)
    assert torch.allclose(x.grad, grad - along(means(grad), grad), rtol=1e-10, atol=1e-12)


def test_about_half_the_bits_are_one_however_the_channels_lie() -> None:
    x = drawn(64, 5, 4, 4)
    shares = (BalancedActivation(5).double()(x) > 0).double().mean((0, 2, 3))
    assert (shares - 0.5).abs().max() < 0.05


def test_in_bf16_the_mean_is_that_of_float32() -> None:
    """The mean of many bf16 numbers, added in bf16, would stand still."""
    x = torch.full((64, 1, 32, 32), 1.0, dtype=torch.bfloat16)
    binarizer = BalancedActivation(1)
    binarizer(x)
    assert binarizer.running_mean.dtype == torch.float32
    assert float(binarizer.running_mean) == pytest.approx(0.1, rel=1e-6)


def test_running_means_are_taken_anew_before_they_are_saved() -> None:
    digits = open_data("digits", None)
    torch.manual_seed(0)
    model = build(RECIPE.changed({"method": "bbg-plus"}), 10, digits.preprocess)
    layer = next(module for module in model.modules() if isinstance(module, BinaryConv2d))
    binarizer = layer.activation_binarizer
    assert isinstance(binarizer, BalancedActivation)
    binarizer.running_mean.fill_(5.0)
    reads: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: reads.append(inputs[0].mean((0, 2, 3))))
    reestimate_statistics(model, training_loader(digits, RECIPE), 2, 3)
    handle.remove()
    assert len(reads) == 3
    assert torch.allclose(binarizer.running_mean, torch.stack(reads).mean(0), atol=1e-6)
    assert binarizer.momentum == 0.1
