"""What is watched while a network trains: how even its bits are, how many of them turn, and how fast it goes.

All figures and the recipe go to TensorBoard, where it is installed (`pip install tensorboard`). Those of an
epoch are columns of the history too, except these, of which there is one for each layer: the entropy of the weight
signs in bits (`entropy/<layer>`), the share of weight signs that differ from those at the end of the epoch before
(`flips/<layer>`), and the histogram of the gates (`gate/<unit>`). The share over all binary layers, `flips`, is a
column.

The signs that an epoch began with travel in the checkpoint, 1 bit each, so that a run resumed inside an epoch counts
the same flips as an undisturbed one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from bbg.analysis import flips, gates, signs, weight_entropy
from bbg.errors import BbgError
from bbg.log import LOGGER
from bbg.training.checkpoint import Checkpoint

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG_STEPS = 10  # steps between two figures inside an epoch


class Monitor:
    """Figures of `model` while it trains; `state` is the checkpoint that its training writes.

    `folder`: where TensorBoard's files go; None: nowhere.
    """

    def __init__(self, model: nn.Module, state: Checkpoint, folder: Path | None) -> None:
        self.model, self.state = model, state
        with ExitStack() as stack:
            stack.enter_context(_hushed())
            self.writer = None if folder is None else open_writer(folder)
            self._open = stack.pop_all()
        self._log(self._log_recipe)

    def _log(self, write: Callable[[SummaryWriter], None]) -> None:
        """Let `write` log to TensorBoard. Where its files cannot be written, the training goes on without them."""
        if self.writer is None:
            return
        try:
            write(self.writer)
        except OSError as e:
            LOGGER.warning("nothing more is written for TensorBoard: %s", e.strerror or e)
            self.writer = None

    def _log_recipe(self, writer: SummaryWriter) -> None:
        """The recipe as TensorBoard's hyper-parameters, beside the test figures that its runs are compared by."""
        from torch.utils.tensorboard.summary import hparams

        stated = {key: value for key, value in self.state.recipe.to_dict().items() if value is not None}
        keys = {key: v if isinstance(v, (bool, int, float, str)) else str(v) for key, v in stated.items()}
        file: Any = writer.file_writer  # which torch declares as None
        for summary in hparams(keys, {"test_accuracy": 0.0})[:2]:  # the third says that the session is over
            file.add_summary(summary)

    def begin_epoch(self) -> None:
        """Take the signs that the epoch begins with; inside an epoch the checkpoint brought them."""
        if self.state.step == 0:
            self.state.signs = packed(signs(self.model))

    def log_step(self, step: int, figures: Mapping[str, float | Tensor]) -> None:
        """Log the figures of step number `step`, counted from the start of the training."""

        def write(writer: SummaryWriter) -> None:
            for name, value in figures.items():
                writer.add_scalar(name, float(value), step)

        self._log(write)

    def end_epoch(self, step: int, row: dict[str, float]) -> None:
        """Add `flips` to the history's `row`, log all figures, and take the signs that the next epoch begins with.

        A network without binary layers has no flips, nor has an epoch whose first signs are unknown.
        """
        after = signs(self.model)
        figures = {f"entropy/{layer.name}": layer.layer for layer in weight_entropy(self.model)}
        if after and self.state.signs:
            rates = flips(unpacked(self.state.signs, after), after)
            figures |= {f"flips/{name}": rate for name, rate in rates.items()}
            total = sum(sign.numel() for sign in after.values())
            row["flips"] = sum(rate * after[name].numel() for name, rate in rates.items()) / total
        self.state.signs = packed(after)
        self.log_step(step, {**row, **figures})

        def write(writer: SummaryWriter) -> None:
            for gate in gates(self.model):
                if torch.isfinite(gate.values).all():  # else this training ends at the next checkpoint
                    writer.add_histogram(f"gate/{gate.name}", gate.values, step)

        self._log(write)

    def close(self) -> None:
        """Write what is still to be written."""
        self._log(lambda writer: writer.close())
        self._open.close()


def open_writer(folder: Path) -> SummaryWriter | None:
    """TensorBoard's writer into `folder`; None where it is missing, or cannot write such a name.

    Raises BbgError where the folder cannot be written.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    try:
        return SummaryWriter(str(folder))
    except OSError as e:
        raise BbgError(f"{str(folder)!r}: cannot be written ({e.strerror}); give another --out folder") from e
    except UnicodeEncodeError:
        LOGGER.warning("nothing is written for TensorBoard: the name of %r is no text", str(folder))
        return None


@contextmanager
def _hushed() -> Iterator[None]:
    """Print no traceback where a thread of TensorBoard cannot write: who logs the next figure is told."""
    before = threading.excepthook

    def hook(error: threading.ExceptHookArgs) -> None:
        is_writer = type(error.thread).__module__.startswith("tensorboard.")
        if not is_writer or not isinstance(error.exc_value, OSError):
            before(error)

    threading.excepthook = hook
    try:
        yield
    finally:
        if threading.excepthook is hook:
            threading.excepthook = before


def packed(signs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each layer's signs as bits: bool of any shape to uint8 `[ceil(n/8)]`."""
    return {name: torch.from_numpy(np.packbits(sign.reshape(-1).numpy())) for name, sign in signs.items()}


def unpacked(bits: dict[str, Tensor], like: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse, for the layers and in the shapes of `like`; what `bits` does not have is left out."""

    def one(packed: Tensor, sign: Tensor) -> Tensor:
        return torch.from_numpy(np.unpackbits(packed.numpy(), count=sign.numel()).astype(bool)).reshape(sign.shape)

    return {name: one(bits[name], sign) for name, sign in like.items() if name in bits}
