"""Draws docs/methods.svg: what each method makes of a number, and how that counts backward.

    python docs/methods.py

Nothing is copied from a formula: the curves are read off the binarizers themselves, forward and backward. A weight is
drawn as one filter of 201 weights spread evenly over [-1.5, 2.5], so that its mean is not 0, an activation as one
channel of numbers in [-2, 2], with the parameters that a binarizer has at first. The gradient is that of `q` through
its sign; threshold, scale and shift are held.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch

from bbg.files import write_bytes
from bbg.methods import METHODS, Binarizer, BinarizerForm
from bbg.style import GREEN, INK, ORANGE, PALE, applied, figure, svg

ORANGES = ("#fdbf6f", ORANGE, "#8a3c00")  # the stages of a training
# One name for each pair of binarizers: the ablations share some.
PAIRS = {(method.weight, method.activation): name for name, method in reversed(METHODS.items()) if method.weight}
DRAWN = tuple(name for name in METHODS if name in PAIRS.values())
STAGES = (0.0, 0.5, 1.0)  # shares of the training; IR-Net's and AdaBin's gradients sharpen
WEIGHTS, ACTIVATIONS = torch.linspace(-1.5, 2.5, 201), torch.linspace(-2, 2, 201)


def curves(binarizer: Binarizer, progress: float) -> tuple[list[float], list[float], list[float]]:
    """The numbers `x`, `q(x)` and its gradient, at `progress` of the training."""
    binarizer.anneal(progress)
    numbers = WEIGHTS.reshape(1, -1) if binarizer.axis == 0 else ACTIVATIONS.reshape(-1, 1)
    x = numbers.clone().requires_grad_()
    form = BinarizerForm(*(None if part is None else part.detach() for part in binarizer.form(x)))
    q = binarizer.signs(x, form)
    q = q if form.scale is None else q * binarizer.broadcast(form.scale, x)
    q = q if form.shift is None else q + binarizer.broadcast(form.shift, x)
    (gradient,) = torch.autograd.grad(q.sum(), x)
    return numbers.flatten().tolist(), q.flatten().tolist(), gradient.flatten().tolist()


def panel(axis: Any, binarizer: Binarizer) -> None:
    """One binarizer: the step, and its gradient at each stage where it changes."""
    at_stages = [curves(binarizer, progress) for progress in STAGES]
    changes = at_stages[0][2] != at_stages[-1][2]
    axis.axhline(0, color=PALE, lw=0.8)
    axis.axvline(0, color=PALE, lw=0.8)
    for (x, _, gradient), color in zip(at_stages, ORANGES, strict=True):
        if changes or color == ORANGES[1]:
            axis.plot(x, gradient, color=color, lw=1.4)
    axis.step(at_stages[0][0], at_stages[0][1], color=GREEN, lw=1.8, where="mid")
    axis.set(xlim=(-2, 2.5), ylim=(-1.6, 3.2), xticks=(-1, 0, 1), yticks=(-1, 0, 1, 2, 3))
    axis.tick_params(labelsize=7, colors=INK, length=2)
    for side in axis.spines.values():
        side.set_visible(False)


def draw(path: Path) -> None:
    """The picture: a column per method, weights above activations."""
    with applied(), mpl.rc_context({"svg.fonttype": "none"}):
        drawn = figure(13, 4.4)
        axes = drawn.subplots(2, len(DRAWN), sharex=True, sharey=True)
        for column, name in zip(axes.T, DRAWN, strict=True):
            method = METHODS[name]
            assert method.weight is not None
            assert method.activation is not None
            panel(column[0], method.weight(1))
            panel(column[1], method.activation(1))
            column[0].set_title(name)
        axes[0, 0].set_ylabel("weight")
        axes[1, 0].set_ylabel("activation")
        drawn.supxlabel(
            "green: q(x) forward; orange: its gradient (irnet, adabin: at the beginning, the middle and the end of "
            "training, clipped at 3.2)",
            fontsize=9,
            color=INK,
        )
        write_bytes(path, svg(drawn))


if __name__ == "__main__":
    draw(Path(__file__).with_suffix(".svg"))
