"""The pictures of `support.voc` in the other layouts of images with boxes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from support.voc import CLASSES, scene, write_voc


def coco_file(seeds: Iterable[int], numbers: tuple[int, ...] = (3, 7), **more: Any) -> dict[str, Any]:
    """A file of COCO for the scenes of `seeds`; `numbers` are the ids of the classes."""
    images, annotations = [], []
    for seed in seeds:
        picture, objects = scene(seed)
        images.append({"id": seed, "file_name": f"{seed}.png", "width": picture.shape[1], "height": picture.shape[0]})
        for name, left, top, right, bottom in objects:
            box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
            number = numbers[CLASSES.index(name)]
            own = {"id": len(annotations) + 1, "image_id": seed, "category_id": number, "bbox": box, "iscrowd": 0}
            annotations.append({**own, "segmentation": [[1, 2, 3, 4, 5, 6]], "area": box[2] * box[3]})
    categories = [{"id": number, "name": name} for number, name in zip(numbers, CLASSES, strict=True)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories, **more}


def write_pictures(folder: Path, seeds: Iterable[int]) -> None:
    """The scenes of `seeds` as files."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        Image.fromarray(scene(seed)[0]).save(folder / f"{seed}.png")


def write_coco(home: Path, train: int = 24, val: int = 8) -> Path:
    """`home` as the official archives are."""
    (home / "annotations").mkdir(parents=True, exist_ok=True)
    for half, seeds in (("train2017", range(train)), ("val2017", range(1000, 1000 + val))):
        write_pictures(home / half, seeds)
        (home / "annotations" / f"instances_{half}.json").write_text(json.dumps(coco_file(seeds)))
        (home / "annotations" / f"captions_{half}.json").write_text("{}")
    return home


def labels(seed: int) -> str:
    """The labels of a scene."""
    picture, objects = scene(seed)
    high, wide = picture.shape[:2]
    rows = []
    for name, left, top, right, bottom in objects:
        middle = (left - 1 + right) / 2 / wide, (top - 1 + bottom) / 2 / high
        sides = (right - left + 1) / wide, (bottom - top + 1) / high
        rows.append(" ".join((str(CLASSES.index(name)), *(f"{value:.6f}" for value in (*middle, *sides)))))
    return "".join(f"{row}\n" for row in rows)


def write_yolo(home: Path, train: int = 24, val: int = 8) -> Path:
    """`home` with `images`, `labels` and `data.yaml`."""
    for half, seeds in (("train", range(train)), ("val", range(1000, 1000 + val))):
        write_pictures(home / "images" / half, seeds)
        (home / "labels" / half).mkdir(parents=True, exist_ok=True)
        for seed in seeds:
            (home / "labels" / half / f"{seed}.txt").write_text(labels(seed))
    names = "".join(f"  {i}: {name}  # a colour\n" for i, name in enumerate(CLASSES))
    (home / "data.yaml").write_text(f"path: ../somewhere\ntrain: images/train\nval: images/val\n\nnames:\n{names}")
    return home


WRITERS: dict[str, Callable[[Path, int, int], Path]] = {"voc": write_voc, "coco": write_coco, "yolo": write_yolo}
