"""What is trained: loss, metric and optimizer of one task, as a LightningModule."""

from __future__ import annotations

import copy
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from bbg.errors import BbgError
from bbg.recipe import Recipe
from bbg.training.schedule import lr_factor, set_stage


def diverged(what: str, epoch: int, step: int) -> BbgError:
    """The error that ends a training whose numbers are no longer finite; `epoch` and `step` count from 0."""
    return BbgError(
        f"{what} in step {step + 1} (epoch {epoch + 1}), only finite numbers can be trained on; lower lr and train "
        "again, the last checkpoint is from before"
    )


def distillation(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """`T^2 KL(softmax(taught / T) || softmax(logits / T))`, mean over the batch (Hinton et al., arXiv 1503.02531)."""
    ours, theirs = F.log_softmax(logits / temperature, 1), F.log_softmax(taught / temperature, 1)
    return F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2


class Classification(pl.LightningModule):
    """Cross-entropy and top-1 accuracy over batches of `(images [N, C, H, W], labels [N])`.

    Training may run in bf16 autocast; validation runs in float32, in eager mode. `teacher`: a network whose logits are
    learned too.
    """

    def __init__(
        self, model: nn.Module, recipe: Recipe, classes: int, steps: int, teacher: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.model, self.recipe, self.steps = model, recipe, steps
        # Not submodules: the compiled network shares the parameters of `model`, and the teacher's do not change.
        self.fast = [torch.compile(model) if recipe.compile else model]
        self.teachers = [] if teacher is None else [copy.deepcopy(teacher).eval().requires_grad_(False)]
        self.restored_optimizer: dict[str, Any] = {}
        self.train_accuracy = MulticlassAccuracy(classes, average="micro")
        self.test_accuracy = MulticlassAccuracy(classes, average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """The loss of one batch; raises BbgError where it is not finite, before the weights take harm."""
        x, labels = batch
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            logits = self.fast[0](x)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.label_smoothing)
        for teacher in self.teachers:
            with torch.no_grad():
                taught = teacher.to(x.device)(x)
            share = self.recipe.distill
            loss = (1 - share) * loss + share * distillation(logits.float(), taught.float(), self.recipe.temperature)
        if not torch.isfinite(loss):
            raise diverged(f"the loss is {loss.item()}", self.current_epoch, self.global_step)
        self.train_accuracy(logits.detach().float(), labels)
        self.log("loss", loss, prog_bar=True, on_step=True, on_epoch=True, batch_size=len(x))
        self.log("accuracy", self.train_accuracy, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(x))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Adds one batch to the test accuracy."""
        x, labels = batch
        logits = self.model(x)
        self.test_accuracy(logits, labels)
        self.log("test_loss", F.cross_entropy(logits, labels), batch_size=len(x))
        self.log("test_accuracy", self.test_accuracy, prog_bar=True, batch_size=len(x))

    def on_train_epoch_start(self) -> None:
        """Sets the stage of this epoch."""
        set_stage(self.model, self.recipe, self.current_epoch)

    def on_train_batch_start(self, batch: Any, index: int) -> None:
        """Sets the learning rate of this step."""
        lr = self.recipe.lr * lr_factor(self.recipe, self.global_step, self.steps)
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = lr

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Weight decay on weights proper only."""
        parameters = list(self.model.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": self.recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        lr, momentum = self.recipe.lr, self.recipe.momentum
        optimizer: torch.optim.Optimizer
        if self.recipe.optimizer == "adam":
            optimizer = torch.optim.AdamW(groups, lr=lr)
        else:
            optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0)
        if self.restored_optimizer:
            optimizer.load_state_dict(self.restored_optimizer)
        return optimizer
