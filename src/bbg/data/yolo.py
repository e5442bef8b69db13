"""YOLO: images with boxes, a text file beside each, as the tools of that family write them.

    DIR/images/train/NAME.jpg  DIR/labels/train/NAME.txt  DIR/images/val  DIR/labels/val  DIR/data.yaml or classes.txt
    DIR/train/images/NAME.jpg  DIR/train/labels/NAME.txt  DIR/valid/...

A line is a class, counted from 0, and the middle and the sides of a box in shares of the image; with more numbers they
are the corners of an outline, whose bounding box is taken.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from bbg.data.layout import (
    NAMES,
    WORDS,
    Annotated,
    Half,
    Item,
    Layout,
    LeftOut,
    boxed_split,
    checked_names,
    chosen,
    class_names,
    is_shared,
    shared_out,
    text,
)
from bbg.data.sets import Entry, Split, Wanted
from bbg.data.yaml_keys import Value, read_keys
from bbg.errors import BbgError
from bbg.image import image_size, reason_of
from bbg.sources import SUFFIXES, files_below

LARGEST = 4 * 2**20  # bytes of a file of labels
LONGEST = 4096  # characters of a path
IMAGES, LABELS, KEYS = "images", "labels", "data.yaml"


def yolo(root: Path, wanted: Wanted) -> Split:
    """The images of `root` with their labels, as `bbg.data.layout.boxed_split` opens them.

    Where there is `data.yaml` (or another single .yaml), its `train`, `val` and `test` are folders of images, or text
    files that list images, and `names` are the classes. Without it the images lie in `images/train` or `train/images`
    (and so on; `valid` is `val`), and `classes.txt` in `root` or beside the labels names the classes; where nothing
    does, they are called by their numbers. The labels of an image lie in a folder `labels` in place of the last
    `images` in its path, or beside it. Parts are used as those of `bbg.data.voc.voc`; of a single one a fifth is for
    testing.

    An image without labels, and with an empty file of labels, is an image without boxes. Left out and told are also
    labels without their image, lines that are none, and listed images that are missing.
    """
    return boxed_split(LAYOUT, root, wanted)


def _fits(root: Path) -> bool:
    places = (root, *(root / word for word in WORDS))
    return _keys_file(root) is not None or any((place / LABELS).is_dir() for place in places)


def _keys_file(root: Path) -> Path | None:
    if (root / KEYS).is_file():
        return root / KEYS
    found = [*root.glob("*.yaml"), *root.glob("*.yml")]
    return found[0] if len(found) == 1 else None


def _read(root: Path, half: str, left: LeftOut) -> Half:
    file = _keys_file(root)
    keys = {} if file is None else read_keys(text(file))
    parts = _parts(root, keys, half, left)
    part = chosen(parts, half) if parts else ""
    if part is None:
        return Half([], ())
    images = _images(root, parts.get(part, [root / IMAGES if (root / IMAGES).is_dir() else root]), left)
    if half == "train" or not is_shared(parts):
        for path in _alone(images):
            left.add(path, "has no image")
    if is_shared(parts):
        images = shared_out(root, images, half)
    names = _names(root, file, keys, images)
    found, seen = [], set[str]()
    for path in images:
        try:
            size = image_size(path)
            objects = _objects(_label(path), size, names)
        except BbgError as error:
            left.add(path, reason_of(str(path), str(error)))
            continue
        seen.update(one.name for one in objects if one.name)
        found.append(Item(path, size, objects))
    return Half(found, tuple(sorted(seen, key=int)) if names is None else tuple(names.values()))


def _parts(root: Path, keys: dict[str, Value], half: str, left: LeftOut) -> dict[str, list[Path]]:
    """Where the images of each part lie: folders, and files of text that list images."""
    found: dict[str, list[Path]] = {}
    base = keys.get("path")
    for word, part in WORDS.items():
        value = keys.get(word)
        entries = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        for entry in filter(None, entries):
            place = _place(root, base if isinstance(base, str) else "", entry)
            if place is not None:
                found.setdefault(part, []).append(place)
            elif (half == "train") == part.startswith("train"):
                left.add(entry, "is named in the .yaml file, and is not there")
    if found:
        return found
    for word, part in WORDS.items():
        places = (root / IMAGES / word, root / word / IMAGES, root / word, root / f"{word}.txt")
        if place := next((one for one in places if one.is_dir() or one.is_file()), None):
            found.setdefault(part, [place])
    return found


def _place(root: Path, base: str, entry: str) -> Path | None:
    """What `entry` names, below `base`; where the set has been moved, what lies in `root` by the same last names."""
    if len(entry) > LONGEST:
        return None
    parts = [part for part in Path(entry).parts if part not in (os.sep, "..")]
    places = [root / base / entry, root / entry, *(root.joinpath(*parts[i:]) for i in range(len(parts)))]
    return next((one for one in places if os.path.exists(one)), None)


def _images(root: Path, places: list[Path], left: LeftOut) -> list[Path]:
    """The images of a part, each once."""
    found: dict[Path, None] = {}
    for place in places:
        if place.is_dir():
            found |= dict.fromkeys(path for path in files_below(place) if path.suffix.lower() in SUFFIXES)
            continue
        for line in filter(None, map(str.strip, text(place).splitlines())):
            path = _place(root, str(place.parent), line)
            if path is None or not path.is_file():
                left.add(place, f"lists {line!r:.80}, and there is no such image")
            else:
                found[path] = None
    return list(found)


def _label(image: Path) -> Path:
    """The file of the labels of an image."""
    parts = list(image.parts[:-1])
    if IMAGES in parts:
        parts[len(parts) - 1 - parts[::-1].index(IMAGES)] = LABELS
        if (folder := Path(*parts)).is_dir():
            return folder / f"{image.stem}.txt"
    return image.with_suffix(".txt")


def _alone(images: list[Path]) -> Iterator[Path]:
    """The files of labels without an image."""
    for folder in sorted({image.parent for image in images}):
        stems = {path.stem for path in folder.iterdir() if path.suffix.lower() in SUFFIXES}
        for path in sorted(_label(folder / "any").parent.glob("*.txt")):
            if path.stem not in stems and path.stem not in WORDS and path.name != NAMES and "README" not in path.name:
                yield path


def _names(root: Path, file: Path | None, keys: dict[str, Value], images: list[Path]) -> dict[int, str] | None:
    """The name of each class by its number, None where nothing names them; BbgError for names that are none."""
    value = keys.get("names")
    if file is not None and value:
        if isinstance(value, str):
            listed = class_names(root / value)
            return None if listed is None else dict(enumerate(listed))
        numbers = (
            dict(enumerate(value))
            if isinstance(value, list)
            else {int(k): v for k, v in value.items() if k.isdecimal() and len(k) < 10}
        )
        checked_names(file, list(numbers.values()))
        return dict(sorted(numbers.items()))
    places = (root, root / LABELS, *(_label(image).parent for image in images[:1]))
    for place in places:
        if (names := class_names(place / NAMES)) is not None:
            return dict(enumerate(names))
    return None


def _objects(path: Path, size: tuple[int, int], names: dict[int, str] | None) -> list[Annotated]:
    """What a file of labels has; nothing where there is no such file."""
    if not path.is_file():
        return []
    return [_object(line.split(), size, names) for line in text(path, LARGEST).splitlines() if line.strip()]


def _object(fields: list[str], size: tuple[int, int], names: dict[int, str] | None) -> Annotated:
    high, wide = size
    try:
        given, *numbers = map(float, fields)
        number = int(given)
        if number != given or len(numbers) < 4 or len(numbers) % 2:
            raise ValueError
    except (ValueError, OverflowError):
        return Annotated("", problem="has no class with four numbers, or with the corners of an outline")
    if number < 0 or (names is not None and number not in names):
        return Annotated("", problem=f"the class {number!r:.40} is none of the list")
    name = str(number) if names is None else names[number]
    if len(numbers) == 4:
        x, y, w, h = numbers
        left, top, right, bottom = x - w / 2, y - h / 2, x + w / 2, y + h / 2
    else:
        left, top, right, bottom = min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])
    return Annotated(name, (left * wide, top * high, right * wide, bottom * high))


LAYOUT = Layout(_read, _fits, f"{KEYS!r} or {NAMES!r}")
YOLO = Entry(yolo, title="YOLO", task="detection", layout=LAYOUT)
