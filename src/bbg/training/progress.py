"""What a training tells while it runs: a bar on the terminal during an epoch, a line in the log when it is over."""

from __future__ import annotations

from types import TracebackType

import rich.progress
from torch import Tensor

from bbg.log import LOGGER

REFRESH = 10  # steps between two readings of the figures: to read one makes the host wait for the device


class Progress:
    """The bar over the steps of each epoch (`shown`), and the line at its end."""

    def __init__(self, epochs: int, steps: int, shown: bool) -> None:
        self.epochs, self.steps = epochs, steps
        columns = ("{task.description}", rich.progress.BarColumn(), rich.progress.MofNCompleteColumn())
        timing = (rich.progress.TimeElapsedColumn(), rich.progress.TimeRemainingColumn(), "{task.fields[figures]}")
        self.bar = rich.progress.Progress(*columns, *timing, transient=True) if shown else None
        self.row = self.bar.add_task("", total=steps, figures="") if self.bar else rich.progress.TaskID(0)

    def __enter__(self) -> Progress:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.bar:
            self.bar.stop()

    def step(self, epoch: int, step: int, speed: float, figures: dict[str, Tensor]) -> None:
        """Show that step `step` of `epoch` is done (both from 0)."""
        if self.bar:
            self.bar.update(self.row, completed=step + 1, description=f"epoch {epoch + 1}/{self.epochs}")
            if step % REFRESH == 0:
                told = "  ".join(f"{name} {float(value):.3f}" for name, value in figures.items())
                self.bar.update(self.row, figures=f"{told}  {speed:.0f} images/s")

    def epoch(self, row: dict[str, float], images: int) -> None:
        """Log the `row` of a finished epoch, in which `images` images were trained on."""
        told = [f"epoch {row['epoch']:3.0f}/{self.epochs}"]
        for name, value in row.items():
            if name in ("epoch", "seconds", "flips", "test_loss"):
                continue
            digits = 3 if name == "loss" else 4
            told.append(f"{name.replace('_', ' ')} {value:.{digits}f}")
        told.append(f"{images / row['seconds']:.0f} images/s")
        LOGGER.info("  ".join(told))
