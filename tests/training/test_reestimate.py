"""The statistics of batch norms, taken anew before they are saved."""

from __future__ import annotations

import torch
from support.kill_train import RECIPE

from bbg.data import open_data
from bbg.training.evaluate import reestimate_statistics
from bbg.training.factory import build
from bbg.training.loop import training_loader

torch.set_num_threads(1)


def test_reestimated_statistics_are_plain_means_over_batches() -> None:
    digits = open_data("digits", None)
    torch.manual_seed(0)
    model = build(RECIPE, 10, digits.preprocess)
    norm = model.stem[1]
    loader = training_loader(digits, RECIPE)
    norm.running_mean.fill_(5.0)
    model.eval()
    reestimate_statistics(model, loader, 2, 3)
    assert not model.training
    assert norm.momentum == 0.1
    means, variances = [], []
    with torch.no_grad():
        for (x, _), _ in zip(loader.epoch(2), range(3), strict=False):
            y = model.stem[0](x)
            means.append(y.mean((0, 2, 3)))
            variances.append(y.var((0, 2, 3)))
    assert torch.allclose(norm.running_mean, torch.stack(means).mean(0), atol=1e-6)
    assert torch.allclose(norm.running_var, torch.stack(variances).mean(0), atol=1e-5)
