"""COCO: images with boxes in the layout of the official archives, and as many tools write it.

    DIR/annotations/instances_train2017.json  DIR/annotations/instances_val2017.json  DIR/train2017/*  DIR/val2017/*
    DIR/train/_annotations.coco.json          DIR/valid/_annotations.coco.json        with the images beside
    DIR/train.json                            DIR/val.json                            with the images in DIR or images

A JSON file lists the images of a part, its categories and the boxes. Of each object nothing is kept but what a box
needs, so that the outlines of a large file take no memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bbg.data.layout import (
    WORDS,
    Annotated,
    Half,
    Item,
    Layout,
    LeftOut,
    boxed_split,
    chosen,
    is_shared,
    shared_out,
)
from bbg.data.sets import Entry, Split, Wanted
from bbg.errors import BbgError, first_line
from bbg.image import image_size, reason_of
from bbg.reading import contents
from bbg.sources import SUFFIXES

LARGEST = 2**30  # bytes of a file; the official ones have half of it
FOLDER, ABOVE = "annotations", "supercategory"
KEPT = {"images", "annotations", "categories", "id", "file_name", "width", "height"}
KEPT |= {"image_id", "category_id", "bbox", "iscrowd", "ignore", "name", ABOVE}
WORD = re.compile(r"(?<![a-z])(trainval|train|validation|valid|val|test)(?![a-z])")
FIRST = ("instances", "_annotations.coco")  # beginnings of the file that has boxes, where there are several
Key = int | str


def coco(root: Path, wanted: Wanted) -> Split:
    """The images that the JSON files of `root` list, with their boxes, as `bbg.data.layout.boxed_split` opens them.

    The files lie in `root`, in `annotations`, or in a folder of a part with the images; their names or that of the
    folder say which part they have: train, val (valid), test. Parts are used as those of `bbg.data.voc.voc`; of a
    single file a fifth of the images is for testing. Classes are the `categories`, in the order of their ids, which may
    have gaps. Objects that are `iscrowd` (or `ignore`) are as VOC's `difficult` ones.

    Left out and told are also listed images that are missing or of another size than the file says, annotations of
    an image that is not listed, and images of a part's own folder that its file does not list. BbgError for a file that
    is no JSON, and where several are for one part.
    """
    return boxed_split(LAYOUT, root, wanted)


def _files(root: Path) -> dict[str, Path]:
    """The JSON file of each part, "" for a file of no part; BbgError where there are several."""
    folders = [path for path in sorted(root.glob("*/")) if WORD.fullmatch(path.name.lower())]
    found: dict[str, list[Path]] = {}
    for folder in (root, root / FOLDER, *folders):
        for path in sorted(folder.glob("*.json")):
            word = WORD.search(path.stem.lower()) or (WORD.search(folder.name.lower()) if folder != root else None)
            found.setdefault("" if word is None else WORDS[word[1]], []).append(path)
    if len(found) > 1:
        found.pop("", None)
    for part, paths in found.items():
        best = [path for begin in FIRST for path in paths if path.name.startswith(begin)] or paths
        if len(best) > 1 and best[0].name.startswith(FIRST[0]) == best[1].name.startswith(FIRST[0]):
            names = " and ".join(repr(str(path.relative_to(root))) for path in best[:2])
            raise BbgError(f"{names} are both for {part or 'all'} of {str(root)!r}; leave one of them there")
        found[part] = best[:1]
    return {part: paths[0] for part, paths in found.items()}


def _fits(root: Path) -> bool:
    folders = (root, root / FOLDER, *(root.glob("*/")))
    return any(next(folder.glob("*.json"), None) is not None for folder in folders)


def _read(root: Path, half: str, left: LeftOut) -> Half:
    files = _files(root)
    if not files:
        raise BbgError(
            f"no JSON file in {str(root)!r}, its folder {FOLDER!r} or its folder 'train'; give one of COCO's"
        )
    part = "" if "" in files else chosen(files, half)
    if part is None:
        return Half([], ())
    read = _File(root, files[part], left)
    items = list(read.items())
    if is_shared(files):
        mine = set(shared_out(root, [item.image for item in items], half))
        items = [item for item in items if item.image in mine]
    return Half(items, read.names)


class _File:
    """What a JSON file lists."""

    def __init__(self, root: Path, path: Path, left: LeftOut) -> None:
        self.path, self.left = path, left
        self.data = parsed(path)
        categories = {one["id"]: one for one in self._rows("categories") if isinstance(one.get("name"), str)}
        self.objects: dict[Key, list[Annotated]] = {}
        used: set[Key] = set()
        self.names_by_id = {key: str(one["name"]).strip() for key, one in categories.items()}
        for one in self._rows("annotations", "image_id"):
            used.add(_key(one.get("category_id")))
            self.objects.setdefault(one["image_id"], []).append(self._object(one))
        # Exports of some tools begin with a category that only names the group of the others.
        groups = {_text(one.get(ABOVE)) for one in categories.values()}
        order = sorted(categories, key=lambda key: (isinstance(key, str), key))
        real = [k for k in order if k in used or self.names_by_id[k] not in groups or _text(categories[k].get(ABOVE))]
        self.names = tuple(dict.fromkeys(self.names_by_id[key] for key in real if self.names_by_id[key]))
        word = WORD.search(path.stem.lower())
        tails = [path.stem.removeprefix("instances_"), *([] if word is None else [word[1]])]
        own = [path.parent, *(root / tail for tail in tails), *(root / "images" / tail for tail in tails)]
        self.own_folders = [folder for folder in own if folder != root]
        self.folders = [folder for folder in (*self.own_folders, root / "images", root) if folder.is_dir()]

    def _rows(self, key: str, name: str = "id") -> Iterator[dict[str, Any]]:
        """The objects of the list `key`; those without `name` are told."""
        rows, bad = self.data.get(key, []), 0
        for one in rows if isinstance(rows, list) else ():
            if isinstance(one, dict) and _key(one.get(name)) != "":
                yield one
            else:
                bad += 1
        if bad or not isinstance(rows, list):
            self.left.add(self.path, f"{bad or 'all'} of its {key} have no {name!r}")

    def _object(self, one: dict[str, Any]) -> Annotated:
        difficult = bool(one.get("iscrowd")) or bool(one.get("ignore"))
        number = _key(one.get("category_id"))
        if number not in self.names_by_id:
            return Annotated("", problem=f"the category {number!r:.40} is none of the list")
        name, box = self.names_by_id[number], one.get("bbox")
        try:
            if not isinstance(box, list) or any(isinstance(side, str | bool) for side in box):
                raise TypeError
            x, y, wide, high = map(float, box)
        except (TypeError, ValueError, OverflowError):
            return Annotated(name, difficult=difficult, problem="has no four numbers")
        return Annotated(name, (x, y, x + wide, y + high), difficult)

    def items(self) -> Iterator[Item]:
        """The images that are there."""
        seen: set[Key] = set()
        files: set[Path] = set()
        for one in self._rows("images"):
            name = one.get("file_name")
            try:
                if one["id"] in seen:
                    raise BbgError(f"the id {one['id']!r:.40} is given to two images")
                seen.add(one["id"])
                path = self._image(name)
                files.add(path)
                size = image_size(path)
                wide, high = one.get("width"), one.get("height")
                if isinstance(wide, int) and isinstance(high, int) and min(wide, high) > 0 and size != (high, wide):
                    raise BbgError(f"is {size[1]} x {size[0]} pixels, its annotation is for {wide} x {high}")
                yield Item(path, size, self.objects.get(one["id"], []))
            except BbgError as error:
                self.left.add(self._told(name), reason_of(self._told(name), str(error)))
        if count := sum(len(objects) for key, objects in self.objects.items() if key not in seen):
            self.left.add(self.path, f"{count} annotations are of an image that it does not list")
        for folder in {path.parent for path in files} & set(self.own_folders):
            for path in sorted(folder.iterdir()):
                if path.suffix.lower() in SUFFIXES and path not in files:
                    self.left.add(path, f"is not listed in {self.path.name}")

    def _told(self, name: object) -> str:
        """The path of an image for a message."""
        try:
            return str(self._image(name))
        except BbgError:
            return f"{self.path}: {name!r:.80}"

    def _image(self, name: object) -> Path:
        if not isinstance(name, str) or not name or "\0" in name:
            raise BbgError("an image without a file name is listed")
        plain = Path(name.replace("\\", "/"))
        if plain.is_absolute() or ".." in plain.parts:
            raise BbgError("the name of the image leads out of the set")
        found = next((folder / plain for folder in self.folders if _is_file(folder / plain)), None)
        if found is None:
            raise BbgError(f"is listed, and no such image lies in {', '.join(folder.name for folder in self.folders)}")
        return found


def parsed(path: Path) -> dict[str, Any]:
    """The JSON object in the file `path`, of its objects the keys that are needed; BbgError where it is none."""
    try:
        data = json.loads(
            contents(path, LARGEST), object_pairs_hook=lambda pairs: {k: v for k, v in pairs if k in KEPT}
        )
    except OSError as error:
        raise BbgError(f"cannot read {str(path)!r} ({error.strerror})") from error
    except RecursionError as error:
        raise BbgError(f"{str(path)!r} is nested too deep for a file of COCO; give one") from error
    except ValueError as error:  # of the text, too
        raise BbgError(f"{str(path)!r} is no JSON ({first_line(error)}); get the file anew") from error
    if not isinstance(data, dict) or not {"images", "annotations"} & set(data):
        raise BbgError(
            f"{str(path)!r} is no file of COCO, which has 'images', 'annotations' and 'categories'; give one"
        )
    return data


def _key(value: object) -> Key:
    """An id, "" where it is none."""
    return value if isinstance(value, int | str) and not isinstance(value, bool) else ""


def _text(value: object) -> str:
    """The group of a category, empty where it has none."""
    return value if isinstance(value, str) and value != "none" else ""


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or no name
        return False


LAYOUT = Layout(_read, _fits, "its 'categories'")
COCO = Entry(coco, title="COCO", task="detection", layout=LAYOUT)
