"""The verb train."""

from __future__ import annotations

import sys
from pathlib import Path

from bbg.cli.output import show
from bbg.cli.parser import CHANGES, DATA, FACTORY, JSON, RECIPE, argument, changes_of, verb


@verb(
    RECIPE,
    DATA,
    FACTORY,
    CHANGES,
    argument("--epochs", type=int, metavar="N", help="short for --set epochs=N"),
    argument("--seed", type=int, metavar="N", help="short for --set seed=N"),
    argument("--init", type=Path, metavar="CKPT", help="start from the weights of this checkpoint"),
    argument("--resume", action="store_true", help="go on with the run in --out"),
    argument("--out", type=Path, metavar="DIR", help="folder of the run; default: runs/<recipe>"),
    JSON,
)
def train(
    recipe: str,
    data: Path | None,
    factory: str | None,
    changes: list[str],
    epochs: int | None,
    seed: int | None,
    init: Path | None,
    resume: bool,
    out: Path | None,
    json: Path | None,
) -> None:
    """Train a network by a recipe."""
    from bbg.recipe import Recipe

    chosen = Recipe.find(recipe).changed(changes_of(changes, epochs=epochs, seed=seed, factory=factory))
    from bbg.data import open_data
    from bbg.log import terminal
    from bbg.training.check import check_recipe
    from bbg.training.loop import train as train_by

    check_recipe(chosen)

    split = open_data(chosen.dataset, data, chosen.size)
    print(f"{len(split.train):,} training images, {len(split.test):,} test images")
    print(f"{len(split.classes)} classes: {', '.join(split.classes[:20])}{', ...' if len(split.classes) > 20 else ''}")
    if skipped := split.train.skipped + split.test.skipped:
        print(f"skipped {skipped} files that are no readable images")
    print("\n".join(f"{key} = {value}" for key, value in chosen.to_dict().items() if value is not None), flush=True)
    folder = out or Path("runs") / Path(recipe).stem
    with terminal():
        state = train_by(chosen, split, folder, init=init, resume=resume, progress=sys.stdout.isatty())
    show(
        {
            "checkpoint": str(folder / "last.ckpt"),
            "epochs": state.epoch,
            "test_images": len(split.test),
            **{name: value for name, value in state.history[-1].items() if name.startswith("test_")},
        },
        json,
    )
