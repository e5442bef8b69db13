"""A training step as one CUDA graph: the GPU gets the whole step at once, instead of kernel after kernel.

The step of a small network is a thousand kernels of a few microseconds each, and Python needs longer to launch one than
the GPU to run it. A graph is launched once, with all of them. It computes on the memory that it was captured with: so a
batch is copied into `x` and `y`, the learning rate is a tensor, and the figures are read from where they were.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bbg.log import LOGGER
from bbg.training.schedule import Stage

WARM_UP = 3  # steps before the capture: torch compiles, chooses its kernels and makes the optimizer's state in them


class CapturedStep:
    """`step(x, y)`, replayed. It trains `model` by `optimizer`, and its figures are tensors that it never looks at.

    `stage` of an epoch: what else the step depends on; where it changes, the step is captured anew. The figures are
    overwritten by the next step. Where the step cannot be captured, it runs kernel by kernel.
    """

    def __init__(
        self,
        step: Callable[[Tensor, Any], dict[str, Tensor]],
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        stage: Callable[[int], Stage],
    ) -> None:
        self.step, self.model, self.optimizer, self.stage_of = step, model, optimizer, stage
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stage = Stage(False, False)  # what the graph was captured for
        self.possible = True

    def __call__(self, x: Tensor, y: Any, epoch: int, _number: int) -> dict[str, Tensor]:
        """One step, on a batch of epoch `epoch`."""
        stage = self.stage_of(epoch)
        if self.possible and (self.graph is None or stage != self.stage):
            self._try_capture(x, y)
            self.stage = stage
        if self.graph is None:
            return self.step(x, y)
        self.x.copy_(x)
        self.y.copy_(y)
        self.graph.replay()
        return self.figures

    def _try_capture(self, x: Tensor, y: Any) -> None:
        try:
            self._capture(x, y)
        except Exception as e:  # whatever forbids it, in this network, task or version of torch
            self.possible = False
            LOGGER.warning("the training step cannot be captured as a CUDA graph, so it is slower: %s", e)

    def _capture(self, x: Tensor, y: Any) -> None:
        self.graph = None
        self.x, self.y = x.clone(), y.clone()
        before = _Kept(self.model, self.optimizer)
        chooses = torch.backends.cudnn.benchmark
        torch.backends.cudnn.benchmark = True  # the graph keeps the kernels that are fastest now
        try:
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                for _ in range(WARM_UP):
                    self.step(self.x, self.y)
            torch.cuda.current_stream().wait_stream(beside)
            graph = torch.cuda.CUDAGraph()
            # With no gradient there, the backward pass of the graph writes gradients instead of adding to some.
            self.optimizer.zero_grad(set_to_none=True)
            with torch.cuda.graph(graph):
                self.figures = self.step(self.x, self.y)
            self.graph = graph
        finally:
            torch.backends.cudnn.benchmark = chooses
            before.restore()


class _Kept:
    """Copies of all that a step changes."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        tensors = [*model.parameters(), *model.buffers(), *self._state()]
        self.copies = [(tensor, tensor.detach().clone()) for tensor in tensors]

    def _state(self) -> list[Tensor]:
        return [v for values in self.optimizer.state.values() for v in values.values() if isinstance(v, Tensor)]

    @torch.no_grad()
    def restore(self) -> None:
        """Everything as it was; optimizer state that was made since is 0, as a new optimizer has it."""
        known = {id(tensor) for tensor, _ in self.copies}
        for tensor in self._state():
            if id(tensor) not in known:
                tensor.zero_()
        for tensor, copy in self.copies:
            tensor.copy_(copy)
