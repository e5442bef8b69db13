"""Many pictures: in folders, shards and tables of Parquet, and what Parquet files say of them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MODEL = "resnet20-cifar10"


def pictures(folder: Path, count: int = 30, side: int = 48, damaged: int = 2) -> list[Path]:
    """So many pictures in the folders a, b and b/c, some of them damaged; in the order of their names."""
    draws, found = np.random.default_rng(0), []
    for number in range(count):
        path = folder / ("a", "b", "b/c")[number % 3] / f"{number // 3:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(draws.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        coarse.resize((side + number % 5, side)).save(path)
        found.append(path)
    for number in range(damaged):
        path = found[(2 * number + 1) * count // (2 * damaged)]
        path.write_bytes(path.read_bytes()[:200] if number % 2 else b"no image")
    return sorted(found)


def as_shards(folder: Path, files: list[Path], each: int = 11) -> None:
    """The files as tar shards, in their order."""
    folder.mkdir()
    for start in range(0, len(files), each):
        with tarfile.open(folder / f"some-{start:04}.tar", "w") as tar:
            for number, file in enumerate(files[start : start + each], start):
                for name, content in ((f"{number:04}.json", b"{}"), (f"{number:04}.jpg", file.read_bytes())):
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


def as_table(file: Path, files: list[Path], *, structure: bool = False, rows: int = 7) -> None:
    """The files as a table of Parquet with `rows` in a row group: bytes and names, or a structure of both."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    data, names = [path.read_bytes() for path in files], [str(path) for path in files]
    if structure:
        table = pa.table({"image": [{"bytes": one, "path": name} for one, name in zip(data, names, strict=True)]})
    else:
        table = pa.table({"label": [0] * len(data), "jpg": data, "path": names})
    pq.write_table(table, file, row_group_size=rows)


def rows(out: Path) -> list[dict[str, Any]]:
    """All rows of a folder of Parquet files, as a stranger reads it, by path."""
    import pyarrow.parquet as pq

    return sorted(pq.read_table(out).to_pylist(), key=lambda row: str(row["path"]))
