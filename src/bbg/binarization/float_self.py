"""The float self of a binarized network: the network that `binarize` was given, as it was then. It can teach it."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from bbg.errors import BbgError


class FloatSelf:
    """The network that was given, and how its weights can be told from others.

    `model` shares its parameters with the binarized network, so the float weights last until the first step of a
    training. Nothing is copied for those who never ask: of the parameters a digest is kept, of the buffers (running
    statistics, which any forward in training mode moves) the values. The first `network()` takes the copy, and from
    then on it is that copy which is kept.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._buffers: dict[str, Tensor] | None = {n: b.detach().clone() for n, b in model.named_buffers()}
        self._digest = digest_of(model.named_parameters())

    def network(self) -> nn.Module:
        """The network with the weights that it had, in evaluation mode and without gradients. It is kept: copy it.

        Raises BbgError where the parameters were changed since, by a training or by other weights.
        """
        if self._buffers is not None:
            if digest_of(self.model.named_parameters()) != self._digest:
                raise BbgError(
                    "the float weights that bbg.binarize was given are gone: the binarized network trains the same "
                    "ones, and they were changed since; binarize the float network anew, or give a copy of it that "
                    "was made before as teacher"
                )
            kept = self.with_weights({name: t.detach().clone() for name, t in self.model.state_dict().items()})
            for name, buffer in kept.named_buffers():
                buffer.copy_(self._buffers[name])
            self.model, self._buffers = kept, None
        return self.model

    def with_weights(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """The network with `weights`, a state dict of it, not copied; in evaluation mode and without gradients."""
        shared = {id(p): p for p in self.model.parameters()}  # not copied, since others take their places
        model = copy.deepcopy(self.model, shared)
        model.load_state_dict(weights, assign=True)
        return model.eval().requires_grad_(False)


def digest_of(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 of the names and bytes of tensors, in the order of their names."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        total.update(name.encode() + tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
