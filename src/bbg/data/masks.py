"""Images with masks, in two folders: in memory where they fit, else decoded whenever they are read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bbg.data.cache import decoded
from bbg.data.folders import MEMORY, choice, held_out
from bbg.data.labelled import PARTS, some
from bbg.data.pairs import Pair, PairSet, mask_of
from bbg.data.sets import Dataset, Entry, ImageSet, Skipped, Split, Wanted
from bbg.errors import BbgError, allowed
from bbg.image import Preprocess, reason_of
from bbg.log import LOGGER
from bbg.maps import IGNORED
from bbg.reading import TEXT, contents
from bbg.sources import SUFFIXES, files_below

NAMES = "classes.txt"  # the name of each class in a line of its own, that of the number 0 first
IMAGES, MASKS = "images", "masks"


@dataclass(frozen=True)
class MaskedImages:
    """Images with masks, listed and not read, for evaluation by `preprocess`.

    `read(i)` decodes image `i` to the uint8 pixels `[H, W, C]` that the network sees, `mask(i)` gives their classes,
    uint8 `[H, W]`; BbgError where the file is damaged.
    """

    pairs: Sequence[Pair]
    classes: tuple[str, ...]
    preprocess: Preprocess

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def names(self) -> list[str]:
        """The paths of the images."""
        return [str(pair.image) for pair in self.pairs]

    def read(self, index: int) -> np.ndarray:
        """Image `index`."""
        return self.preprocess.apply(self.pairs[index].image)

    def mask(self, index: int) -> np.ndarray:
        """Mask `index`."""
        return self.preprocess.mask(mask_of(self.pairs[index], len(self.classes)))


def masks(root: Path, wanted: Wanted) -> Split:
    """Images of `root/train/images` and `root/test/images` (or `val`), with masks of the same names in `masks` beside.

    The whole picture is resized, unless `wanted` says otherwise, to the largest of 32, 64, 128 and 224 that is not
    above the median of the short sides of the pictures. Where `root` has no `train`, it holds `images` and `masks`
    itself, and a fifth of them is for testing, as in a set of class folders. `root/classes.txt` names the classes.

    An image without a mask, a mask without an image, and a file that is no readable image are skipped, and the set
    says why. Pairs stay in memory, unless whole pictures are wanted or the pixels of a split take more than 2 GiB.
    They are not kept in a cache.

    Raises BbgError for a missing folder or list, for a half without pairs, and, by its name, for a mask that is
    damaged, in colour, of another size than its image, or has a number that is no class.
    """
    if wanted.cache is not None:
        LOGGER.warning("images with masks are not kept in a cache: leave --cache out")
    classes = class_names(root)
    found, beside = halves(root)
    own = choice([pair.image for pair in found["train"]], wanted)
    own = Preprocess(own.size, None, own.mode, own.mean, own.std, own.decode)
    preprocess = wanted.over(own)
    pictures = preprocess.resize is not None if wanted.pictures is None else wanted.pictures
    train = _read(found["train"], classes, preprocess, pictures, beside["train"])
    if isinstance(train, ImageSet):
        _warn(train)
    return Split(train, _read(found["test"], classes, preprocess, False, beside["test"]))


MASKED = Entry(masks, task="segmentation")


def open_masked(root: Path | None, preprocess: Preprocess, part: str = "test") -> MaskedImages:
    """The pairs of a `part` of the set in `root` (test, train, all), none of them read yet; BbgError as `masks`."""
    if part not in PARTS:
        raise BbgError(f"part is {part!r}, {allowed(part, PARTS)}")
    if root is None or not root.is_dir():
        came = "none is given" if root is None else f"there is no folder {str(root)!r}"
        raise BbgError(f"images with masks are read from a folder, {came}; say which with --data DIR")
    classes = class_names(root)
    found, _ = halves(root)
    pairs = [pair for half in (("train", "test") if part == "all" else (part,)) for pair in found[half]]
    return MaskedImages(pairs, classes, preprocess)


def class_names(root: Path) -> tuple[str, ...]:
    """The classes that `root/classes.txt` names; BbgError where there are not 2 to 255 of them."""
    try:
        lines = contents(root / NAMES, TEXT).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise BbgError(
            f"cannot read {str(root / NAMES)!r} ({why}); it names the classes of the masks, one in a line, that of the "
            "number 0 first"
        ) from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not 2 <= len(names) <= IGNORED or len(set(names)) < len(names):
        came = f"{len(names)} classes" if len(set(names)) == len(names) else "a name twice"
        raise BbgError(f"{str(root / NAMES)!r} has {came}; allowed are 2 to {IGNORED} different names, one in a line")
    return names


def halves(root: Path) -> tuple[dict[str, list[Pair]], dict[str, tuple[Skipped, ...]]]:
    """The pairs for training and testing, "train" and "test", and what is beside them."""
    test_dir = next((root / name for name in ("test", "val") if (root / name).is_dir()), root / "test")
    if (root / "train").is_dir():
        both = {"train": _pairs(root / "train"), "test": _pairs(test_dir)}
        return {half: pairs for half, (pairs, _) in both.items()}, {half: rest for half, (_, rest) in both.items()}
    pairs, beside = _pairs(root)
    kept = held_out(root, {IMAGES: [pair.image for pair in pairs]})
    found: dict[str, list[Pair]] = {"train": [], "test": []}
    for pair in pairs:
        found["test" if pair.image in kept else "train"].append(pair)
    return found, {"train": beside, "test": ()}


def _pairs(folder: Path) -> tuple[list[Pair], tuple[Skipped, ...]]:
    """The images of a folder with their masks, and the files that have no other half."""
    for name in (IMAGES, MASKS):
        if not (folder / name).is_dir():
            raise BbgError(
                f"no folder {str(folder / name)!r}; a set of masks has train/{IMAGES}/*, train/{MASKS}/* and the same "
                "in test, or the two folders alone, which are split"
            )
    masks: dict[Path, Path] = {}
    for path in files_below(folder / MASKS):
        if (other := masks.setdefault(_name(path, folder / MASKS), path)) != path:
            raise BbgError(f"{str(other)!r} and {str(path)!r} are masks of one image; leave one of them out")
    pairs: list[Pair] = []
    skipped: list[Skipped] = []
    used: set[Path] = set()
    for path in files_below(folder / IMAGES):
        own = _name(path, folder / IMAGES)
        used.add(own)
        if path.suffix.lower() not in SUFFIXES:
            skipped.append(Skipped(str(path), "its name does not end as that of an image"))
        elif own not in masks:
            skipped.append(Skipped(str(path), "has no mask"))
        else:
            pairs.append(Pair(path, masks[own]))
    skipped += [Skipped(str(path), "has no image") for own, path in masks.items() if own not in used]
    if not pairs:
        raise BbgError(f"no image in {str(folder / IMAGES)!r} has a mask of its name in {MASKS!r} beside it; add some")
    return pairs, tuple(skipped)


def _name(path: Path, folder: Path) -> Path:
    return path.relative_to(folder).with_suffix("")


def _read(
    pairs: list[Pair], classes: tuple[str, ...], preprocess: Preprocess, pictures: bool, beside: tuple[Skipped, ...]
) -> Dataset:
    if not pairs:
        raise BbgError("of one pair of an image and a mask none is left for the other half; add some")
    if pictures or math.prod((len(pairs), *preprocess.size, len(preprocess.mean) + 1)) > MEMORY:
        return PairSet(pairs, classes, preprocess, beside)
    mask = {pair.image: pair for pair in pairs}
    good: list[Path] = []
    refused: list[Skipped] = []
    images = np.empty((len(pairs), *preprocess.size, len(preprocess.mean)), np.uint8)
    for pair, image in zip(pairs, decoded([pair.image for pair in pairs], preprocess.apply), strict=True):
        if isinstance(image, BbgError):
            refused.append(Skipped(str(pair.image), reason_of(str(pair.image), str(image))))
        else:
            images[len(good)] = image
            good.append(pair.image)
    if not good:
        raise BbgError(f"none of {len(pairs)} images can be read ({refused[0].reason}); give readable ones")
    labels = np.empty((len(good), *preprocess.size), np.uint8)
    for number, found in enumerate(decoded(good, lambda image: preprocess.mask(mask_of(mask[image], len(classes))))):
        if isinstance(found, BbgError):
            raise found
        labels[number] = found
    return ImageSet(images[: len(good)], labels, classes, preprocess, (*refused, *beside))


def _warn(train: ImageSet) -> None:
    counts = np.bincount(train.labels.reshape(-1), minlength=IGNORED + 1)
    absent = [name for name, count in zip(train.classes, counts[:IGNORED], strict=False) if not count]
    if absent:
        ignored = f"; {counts[IGNORED]:,} pixels are {IGNORED}, which is no class" * bool(counts[IGNORED])
        LOGGER.warning("no training mask has the class %s: it will not be learned%s", some(absent), ignored)
