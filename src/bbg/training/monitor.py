"""What is watched while a binary network trains: how even its bits are, and how many of them turn.

At the end of each epoch, into TensorBoard: per binary layer `entropy/<layer>` in bits and `flips/<layer>`, the share of
weight signs that differ from those at the end of the epoch before; per unit the histogram `gate/<unit>`; and `flips`,
the share over all binary layers, which is a column of the history too.

The signs that an epoch began with travel in the checkpoint, 1 bit each, so that a run resumed inside an epoch counts
the same flips as an undisturbed one.
"""

from __future__ import annotations

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn

from bbg.analysis import flips, gates, signs, weight_entropy
from bbg.training.checkpoint import Checkpoint


class Watch(Callback):
    """Logs entropies, flips and gates of `model`; `state` is the checkpoint that its training writes.

    Its place is before the callback that writes the row of the epoch. A network without binary layers logs nothing; an
    epoch whose first signs are unknown (its checkpoint is of version 1) has no flips.
    """

    def __init__(self, model: nn.Module, state: Checkpoint) -> None:
        self.model, self.state = model, state

    def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Takes the signs that the epoch begins with; inside an epoch the checkpoint brought them."""
        if self.state.step == 0:
            self.state.signs = packed(signs(self.model))

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Logs, and takes the signs that the next epoch begins with."""
        after = signs(self.model)
        figures = {f"entropy/{row.name}": row.layer for row in weight_entropy(self.model)}
        if after and self.state.signs:
            rates = flips(unpacked(self.state.signs, after), after)
            figures |= {f"flips/{name}": rate for name, rate in rates.items()}
            total = sum(sign.numel() for sign in after.values())
            figures["flips"] = sum(rate * after[name].numel() for name, rate in rates.items()) / total
        module.log_dict(figures, batch_size=1)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for gate in gates(self.model):
                    if torch.isfinite(gate.values).all():  # else this training ends at the next checkpoint
                        logger.experiment.add_histogram(f"gate/{gate.name}", gate.values, module.global_step - 1)
        self.state.signs = packed(after)


def packed(signs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each layer's signs as bits: bool of any shape to uint8 `[ceil(n/8)]`."""
    return {name: torch.from_numpy(np.packbits(sign.reshape(-1).numpy())) for name, sign in signs.items()}


def unpacked(bits: dict[str, Tensor], like: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse, for the layers and in the shapes of `like`; what `bits` does not have is left out."""

    def one(packed: Tensor, sign: Tensor) -> Tensor:
        return torch.from_numpy(np.unpackbits(packed.numpy(), count=sign.numel()).astype(bool)).reshape(sign.shape)

    return {name: one(bits[name], sign) for name, sign in like.items() if name in bits}
