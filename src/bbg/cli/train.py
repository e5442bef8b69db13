"""The verb train."""

from __future__ import annotations

from pathlib import Path

from bbg.cli.output import tell
from bbg.cli.parser import CACHE, CHANGES, DATA, DEVICE, FACTORY, JSON, RECIPE, argument, changes_of, new_folder, verb
from bbg.log import LOGGER


@verb(
    RECIPE,
    DATA,
    FACTORY,
    CHANGES,
    argument("--epochs", type=int, metavar="N", help="short for --set epochs=N"),
    argument("--seed", type=int, metavar="N", help="short for --set seed=N"),
    argument("--init", type=Path, metavar="FILE", help="start from the weights of this checkpoint or state dict"),
    argument("--resume", action="store_true", help="go on with the run in --out; default: the newest runs/<recipe>*"),
    argument("--overwrite", action="store_true", help="put the new run in the place of the one in --out"),
    argument("--out", type=new_folder, metavar="DIR", help="folder of the run; default: a new one, runs/<recipe>[-N]"),
    DEVICE,
    CACHE,
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
    overwrite: bool,
    out: Path | None,
    device: str | None,
    cache: Path | None,
    json: Path | None,
) -> None:
    """Train a network by a recipe."""
    from bbg.recipe import Recipe

    chosen = Recipe.find(recipe).changed(changes_of(changes, epochs=epochs, seed=seed, factory=factory))
    from bbg.data import found, open_recipe
    from bbg.training.check import check_recipe, check_start
    from bbg.training.device import choose_device
    from bbg.training.folder import BEST, LAST, new_folder, newest_folder, refuse_own, refuse_used
    from bbg.training.loop import train as train_by

    check_recipe(chosen)
    choose_device(device)
    name = Path(recipe).stem
    check_start(chosen, out, init, resume, overwrite)
    if resume and out is None:
        out = newest_folder(name)
    elif out is not None and not (resume or overwrite):
        refuse_used(out)
    if out is not None:
        refuse_own(out, [("--json", json)])
    split = open_recipe(chosen, data, cache)
    for line in found(split):
        LOGGER.info(line)
    for key, value in chosen.to_dict().items():
        if value is not None:
            LOGGER.info("%s = %s", key, value)
    folder = out or new_folder(name)
    LOGGER.info("the run is kept in %s", folder)
    state = train_by(chosen, split, folder, init=init, resume=resume, overwrite=overwrite, device=device)
    report = {
        "checkpoint": str(folder / LAST),
        "epochs": state.epoch,
        "test_images": len(split.test),
        **{name: value for name, value in state.history[-1].items() if name.startswith("test_")},
    }
    if chosen.keep_best:
        report["best_checkpoint"] = str(folder / BEST)
    tell(report, json)
