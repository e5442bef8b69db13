"""The best epoch of a training, chosen on images held out of the training set, and never on test images.

A figure chosen on the test images would be a little too good, and nobody could say by how much.
"""

from __future__ import annotations

import numpy as np

from bbg.data.augment import draw
from bbg.data.sets import Dataset, Split, part
from bbg.errors import BbgError
from bbg.recipe import Recipe

HELD_OUT = 100  # what a draw is for, beside those of bbg.data.augment


def hold_out(split: Split, recipe: Recipe) -> tuple[Split, Dataset | None]:
    """`split` without the training images that `keep_best` holds out, and these; `split` and None where it is off.

    They are the share `held_out` of the images of each class, and at least one, by a draw that is a function of
    (seed, index of the image).
    """
    if not recipe.keep_best:
        return split, None
    images = len(split.train)
    labels = np.asarray(split.train.labels) if np.ndim(split.train.labels) == 1 else np.zeros(images)
    groups = np.unique(labels)
    drawn = draw(recipe.seed, 0, np.arange(images), HELD_OUT)
    held = []
    for group in groups:
        members = np.flatnonzero(labels == group)
        count = max(1, round(recipe.held_out * len(members)))
        if count >= len(members):
            raise BbgError(
                f"keep_best holds {count} of the {len(members)} images of a class out of the training; give more "
                "images, or turn it off"
            )
        held.append(members[np.argsort(drawn[members], kind="stable")[:count]])
    out = np.sort(np.concatenate(held))
    rest = np.setdiff1d(np.arange(images), out)
    return split._replace(train=part(split.train, rest)), part(split.train, out)


def last_is_best(history: list[dict[str, float]], figure: str, first: int) -> bool:
    """Whether the last row of `history` has the highest `held_out_<figure>` of all from epoch `first` on (from 0).

    Of equal ones the lower loss decides, and then the earlier epoch.
    """
    ranks = [
        (row[f"held_out_{figure}"], -row["held_out_loss"])
        for row in history
        if row["epoch"] > first and f"held_out_{figure}" in row
    ]
    return len(ranks) > 0 and history[-1]["epoch"] > first and all(ranks[-1] > other for other in ranks[:-1])
