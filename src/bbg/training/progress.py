"""What a training tells while it runs: a bar on the terminal over all its epochs, and a line in the log behind each."""

from __future__ import annotations

from torch import Tensor

from bbg.log import LOGGER, Bar

REFRESH = 10  # steps between two readings of the figures: to read one makes the host wait for the device
WIDTH = 79  # of a line in the log, at most
SILENT = (
    "epoch",
    "loss",
    "test_loss",
    "held_out_loss",
    "lr",
    "seconds",
    "flips",
)  # columns that a line has no room for


class Progress(Bar):
    """The bar over `epochs` of `steps` steps, of which `begun` are done before; `name` tells one training of many."""

    def __init__(self, epochs: int, steps: int, begun: int, name: str = "") -> None:
        super().__init__("", epochs * steps, begun)
        self.epochs, self.name = epochs, name

    def trained(self, epoch: int, step: int, speed: float, figures: dict[str, Tensor]) -> None:
        """Show that step `step` of `epoch` is done (both from 0)."""
        told = None
        if step % REFRESH == 0 and not self.hidden:
            told = [*(f"{name} {float(value):.3f}" for name, value in figures.items()), f"{speed:.0f} images/s"]
        self.step(what=f"{self.name or 'epoch'} {epoch + 1}/{self.epochs}", figures=told)

    def epoch(self, row: dict[str, float], images: int) -> None:
        """Log the `row` of a finished epoch, in which `images` images were trained on."""
        line = f"{self.name or 'epoch'} {row['epoch']:3.0f}/{self.epochs}  loss {row['loss']:.3f}"
        names = dict.fromkeys(key.removeprefix("test_").removeprefix("held_out_") for key in row if key not in SILENT)
        for name in names:
            found = {"": row.get(name), "held out ": row.get(f"held_out_{name}"), "test ": row.get(f"test_{name}")}
            told = [f"{where}{value:.4f}" for where, value in found.items() if value is not None]
            line += f"  {name.replace('_', ' ')} {', '.join(told)}"
        speed = f"  {images / row['seconds']:.0f} images/s"
        LOGGER.info("%s", line + speed if len(line + speed) <= WIDTH else line)
