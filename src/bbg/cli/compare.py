"""The verb compare."""

from __future__ import annotations

from pathlib import Path

from bbg.cli.output import show, tell
from bbg.cli.parser import (
    CACHE,
    CHANGES,
    DATA,
    RECIPE,
    STDOUT,
    argument,
    changes_of,
    count,
    new_folder,
    text_file,
    verb,
)
from bbg.log import LOGGER


@verb(
    RECIPE,
    DATA,
    argument("--methods", metavar="A,B,...", help="names of methods; default: all"),
    argument("--seeds", type=count, default=1, metavar="N", help="trainings per method; default: 1"),
    argument("--parallel", type=count, default=1, metavar="N", help="trainings at a time, on a GPU; default: 1"),
    CHANGES,
    argument("--epochs", type=count, metavar="N", help="short for --set epochs=N"),
    argument("--out", type=new_folder, metavar="DIR", help="folder of the runs; default: runs/compare_<recipe>"),
    argument("--json", type=text_file, metavar="FILE", help="the result; default: compare.json in --out"),
    CACHE,
)
def compare(
    recipe: str,
    data: Path | None,
    methods: str | None,
    seeds: int,
    parallel: int,
    changes: list[str],
    epochs: int | None,
    out: Path | None,
    json: Path | None,
    cache: Path | None,
) -> None:
    """Train one network by several methods; goes on where it was interrupted."""
    from bbg.errors import BbgError
    from bbg.recipe import Recipe

    chosen = Recipe.find(recipe).changed(changes_of(changes, epochs=epochs))
    from bbg.comparison import compare as compare_by
    from bbg.comparison import table
    from bbg.data import found, open_recipe, title_of
    from bbg.methods import METHODS, get
    from bbg.training.check import check_recipe

    check_recipe(chosen)
    folder = out or Path("runs") / f"compare_{Path(recipe).stem}"
    names = list(METHODS) if methods is None else [name.strip() for name in methods.split(",")]
    for name in names:
        get(name)
    split = open_recipe(chosen, data, cache)
    for line in found(split):
        LOGGER.info(line)
    result = folder / "compare.json" if json in (None, STDOUT) else json
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise BbgError(f"cannot make folder {str(folder)!r}: {e.strerror}; give a writable --out folder") from e
    title = title_of(chosen.dataset, data)
    report = compare_by(chosen, split, names, seeds, folder, result, parallel=parallel, data=title)
    if json == STDOUT:
        show(report, json)
    else:
        tell({"methods": table(report), "result": str(result), "plot": str(result.with_suffix(".png"))})
