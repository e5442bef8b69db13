"""Image sets: official CIFAR layout, class folders, digits; bad input."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.cifar import checksums
from support.paths import ROOT, SHARED

from bbg.data import DATASETS, needs_folder, open_data, title_of
from bbg.data.cifar import ARCHIVES
from bbg.errors import BbgError
from bbg.image import Preprocess

# CIFAR in its official layout

NAMES = {"cifar10": ["plane", "car", "bird"], "cifar100": ["apple", "bear"]}


def official(root: Path, dataset: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A small set as the authors pack it, the arguments of `checksums` for it, and its pixels as `[N, H, W, C]`."""
    rng = np.random.default_rng(0)
    fine = dataset == "cifar100"
    folder = root / ("cifar-100-python" if fine else "cifar-10-batches-py")
    folder.mkdir(parents=True)
    parts = {"train": 6} if fine else {"data_batch_1": 4, "data_batch_2": 3}
    parts["test" if fine else "test_batch"] = 5
    sums, pixels = {}, {}
    for name, n in parts.items():
        data = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
        labels = [i % len(NAMES[dataset]) for i in range(n)]
        entry: dict[str, Any] = {"data": data, "fine_labels": labels, "coarse_labels": [0] * n}
        (folder / name).write_bytes(pickle.dumps(entry if fine else {"data": data, "labels": labels}))
        pixels[name] = data.reshape(n, 3, 32, 32).transpose(0, 2, 3, 1)
    meta, key = ("meta", "fine_label_names") if fine else ("batches.meta", "label_names")
    (folder / meta).write_bytes(pickle.dumps({key: NAMES[dataset]}))
    for path in folder.iterdir():
        sums[path.name] = hashlib.md5(path.read_bytes()).hexdigest()
    names = list(parts)
    lists = {
        "train": [[n, sums[n]] for n in names[:-1]],
        "test": [[names[-1], sums[names[-1]]]],
        "meta": {"filename": meta, "key": key, "md5": sums[meta]},
    }
    return lists, pixels


@pytest.mark.parametrize("dataset", NAMES)
def test_official_cifar(tmp_path: Path, dataset: str) -> None:
    lists, pixels = official(tmp_path, dataset)
    with checksums(dataset, **lists):
        split = open_data(dataset, tmp_path)
    *train, test = pixels.values()
    assert np.array_equal(split.train.images, np.concatenate(train))
    assert np.array_equal(split.test.images, test)
    assert split.train.images.flags.c_contiguous
    assert (split.train.images.dtype, split.train.labels.dtype) == (np.uint8, np.int64)
    assert split.test.labels.tolist() == [i % len(NAMES[dataset]) for i in range(5)]
    assert split.classes == tuple(NAMES[dataset])
    assert split.preprocess == Preprocess.of(dataset)


@pytest.mark.parametrize("dataset", NAMES)
def test_the_checksums_are_those_that_torchvision_knows(dataset: str) -> None:
    kind: Any = getattr(pytest.importorskip("torchvision.datasets"), dataset.upper())
    ours = ARCHIVES[dataset]
    assert (ours.folder, ours.meta[0]) == (kind.base_folder, kind.meta["filename"])
    assert (ours.meta[1], ours.names) == (kind.meta["md5"], kind.meta["key"])
    assert [[*ours.train.items()], [*ours.test.items()]] == [
        [tuple(pair) for pair in pairs] for pairs in (kind.train_list, kind.test_list)
    ]


@pytest.mark.parametrize("dataset", NAMES)
def test_checksums_are_restored(tmp_path: Path, dataset: str) -> None:
    lists, _ = official(tmp_path, dataset)
    with pytest.raises(KeyError), checksums(dataset, **lists):
        raise KeyError
    with pytest.raises(BbgError, match="its files with the published checksums"):
        open_data(dataset, tmp_path)


@pytest.mark.parametrize("dataset", NAMES)
@pytest.mark.parametrize("which", ["train", "test", "meta"])
def test_a_tampered_file_is_refused_before_it_is_unpickled(tmp_path: Path, dataset: str, which: str) -> None:
    lists, _ = official(tmp_path, dataset)
    witness = tmp_path / "executed"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(witness),))

    name = lists["meta"]["filename"] if which == "meta" else lists[which][0][0]
    path = next(p for p in tmp_path.rglob(name) if p.is_file())
    path.write_bytes(pickle.dumps(Bomb()))
    with checksums(dataset, **lists), pytest.raises(BbgError, match="holds no intact 'cifar-"):
        open_data(dataset, tmp_path)
    assert not witness.exists()
    pickle.loads(path.read_bytes())  # had it been read, it would have shown
    assert witness.exists()


def test_a_missing_cifar_file_is_refused(tmp_path: Path) -> None:
    lists, _ = official(tmp_path, "cifar10")
    (tmp_path / "cifar-10-batches-py" / "data_batch_2").unlink()
    with checksums("cifar10", **lists), pytest.raises(BbgError, match="holds no intact 'cifar-10-batches-py'"):
        open_data("cifar10", tmp_path)


def test_what_people_call_the_images(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert title_of("cifar10", tmp_path) == title_of("cifar10", None) == "CIFAR-10"
    (tmp_path / "train" / "cat").mkdir(parents=True)
    (tmp_path / "train" / "cat" / "1.JPG").touch()
    assert title_of("cifar10", tmp_path) == "CIFAR-10 (JPEG)"
    (tmp_path / "train" / "cat" / "1.png").touch()
    assert title_of("cifar10", tmp_path) == "CIFAR-10 (files of its own)"
    assert title_of("folders", tmp_path) == tmp_path.name
    assert (title_of("digits", None), title_of("another", tmp_path)) == ("digits", "another")


# One folder per class


def picture(path: Path, level: int, size: tuple[int, int] = (32, 32)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, level, level)).save(path)


def class_folders(root: Path, test: str = "test") -> Path:
    for i, name in enumerate(["zebra", "äpfel", "a b"]):
        for k in range(3):
            picture(root / "train" / name / f"{k}.png", 60 * i + k)
        picture(root / test / name / "only.bmp", 60 * i + 50)
    return root


@pytest.mark.parametrize("test", ["test", "val"])
def test_class_folders(tmp_path: Path, test: str) -> None:
    split = open_data("folders", class_folders(tmp_path, test), 24)
    assert split.classes == ("a b", "zebra", "äpfel")
    assert split.train.images.shape == (9, 24, 24, 3)
    assert split.train.images[:, 5, 7, 1].tolist() == [120, 121, 122, 0, 1, 2, 60, 61, 62]
    assert split.train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert split.test.images[:, 0, 0, 0].tolist() == [170, 50, 110]
    assert split.test.labels.tolist() == [0, 1, 2]
    assert (split.train.skipped, split.test.skipped) == ((), ())
    assert split.preprocess.size == (24, 24)


def test_a_cifar_root_may_hold_class_folders(tmp_path: Path) -> None:
    assert open_data("cifar10", class_folders(tmp_path)).train.images.shape == (9, 32, 32, 3)


def test_unreadable_files_are_skipped_with_a_count(tmp_path: Path) -> None:
    root = class_folders(tmp_path)
    folder = root / "train" / "zebra"
    picture(root / "spare.jpg", 9)
    whole = (root / "spare.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").touch()
    (folder / "notes.txt").write_text("no image")
    (folder / "renamed.jpg").write_text("no image either")
    (folder / ".hidden").write_text("not counted")
    (folder / "named like nothing").write_bytes(whole)
    (root / "train" / ".cache").mkdir()
    picture(root / "train" / "beside.png", 9)
    picture(root / "test" / "beside too.JPG", 9)
    (root / "test" / "notes.txt").write_text("no image")
    split = open_data("folders", root)
    reasons = {Path(one.path).name: one.reason for one in (*split.train.skipped, *split.test.skipped)}
    lying = {name for name, reason in reasons.items() if reason == "lies in no class folder"}
    assert lying == {"spare.jpg", "beside.png", "beside too.JPG"}
    assert reasons.keys() - lying == {"truncated.jpg", "empty.png", "notes.txt", "renamed.jpg"}
    assert len(split.train.skipped) == 6
    assert len(split.train.images) == len(split.train.labels) == 10
    assert split.train.labels.tolist().count(1) == 4


def test_nested_folders_and_links_are_followed(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "set")
    folder = root / "train" / "zebra"
    picture(folder / "herd" / "young" / "3.png", 63)
    picture(tmp_path / "elsewhere" / "4.png", 64)
    (folder / "far").symlink_to(tmp_path / "elsewhere")
    (folder / "5.png").symlink_to(tmp_path / "elsewhere" / "4.png")
    (folder / "round").symlink_to(folder)
    (folder / "all").symlink_to(root)
    os.mkfifo(folder / "pipe.png")
    (folder / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    picture(folder / ".thumbnails" / "6.png", 99)
    split = open_data("folders", root)
    zebras = split.train.images[split.train.labels == split.classes.index("zebra"), 0, 0, 0]
    assert sorted(zebras.tolist()) == [0, 1, 2, 63, 64, 64]
    assert [Path(one.path).name for one in split.train.skipped] == ["dangling.png"]


def test_classes_without_a_split_are_split_by_name(tmp_path: Path) -> None:
    for i, name in enumerate(["cat", "dog"]):
        for k in range(50):
            picture(tmp_path / name / f"{k}.png", 100 * i + k)
    split = open_data("folders", tmp_path)
    assert split.classes == ("cat", "dog")
    assert 10 <= len(split.test) <= 30  # a fifth of 100
    assert set(split.test.labels.tolist()) == {0, 1}
    levels = [set(half.images[:, 0, 0, 0].tolist()) for half in split]
    assert levels[0] | levels[1] == {*range(50), *range(100, 150)}
    assert not levels[0] & levels[1]
    for k in range(50, 90):
        picture(tmp_path / "cat" / f"{k}.png", 150 + k)
    more = [set(half.images[:, 0, 0, 0].tolist()) for half in open_data("folders", tmp_path)]
    assert more[0] > levels[0]
    assert more[1] > levels[1]
    for count in (2, 3):
        picture(tmp_path / "few" / f"{count}.png", count)
        if count == 2:
            picture(tmp_path / "few" / "1.png", 1)
        few = [half.labels.tolist().count(2) for half in open_data("folders", tmp_path)]
        assert min(few) >= 1
        assert sum(few) == count


def remove(path: Path) -> None:
    for file in path.iterdir():
        file.unlink()


def spoil(path: Path) -> None:
    for file in path.iterdir():
        file.write_text("no image")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda r: remove(r / "train/zebra"), "class folder '.*train/zebra' has no readable image; add some"),
        (lambda r: remove(r / "test/zebra"), "class folder '.*test/zebra' has no readable image"),
        (
            lambda r: [(r / t / "zebra").rename(r / t / "a\tb") for t in ("train", "test")],
            r"folder 'a\\tb' is named by",
        ),
        (lambda r: spoil(r / "train/a b"), "class folder '.*train/a b' has no readable image"),
        (lambda r: (r / "test/lion").mkdir(), "class 'lion' is in only one split, see '.*test'"),
        (lambda r: picture(r / "train/lion/0.png", 9), "class 'lion' is in only one split"),
        (lambda r: (r / "test").rename(r / "tests"), "no folder '.*test'; an image set has train/"),
        (lambda r: (r / "train").rename(r / "training"), "no folder '.*train'; an image set has train/"),
        (lambda r: ((r / "train").rename(r / "t"), (r / "train").mkdir()), "0 class folders in '.*train'"),
        (lambda r: (rmtree(r / "train"), rmtree(r / "test"), (r / "one").mkdir()), "1 class folders in '.*'; an image"),
    ],
)
def test_bad_folders_are_refused(tmp_path: Path, damage: Callable[[Path], object], words: str) -> None:
    root = class_folders(tmp_path)
    damage(root)
    with pytest.raises(BbgError, match=words):
        open_data("folders", root)


@pytest.mark.parametrize(
    ("dataset", "root", "words"),
    [
        ("cifar11", Path("."), "unknown dataset 'cifar11'; allowed are cifar10, cifar100, folders, digits"),
        ("folders", None, "dataset 'folders' is read from a folder; say which with --data"),
        ("cifar10", Path("no/such"), "no folder 'no/such'; --data takes the folder"),
        ("cifar10", Path(__file__), "no folder '.*test_data.py'"),
        ("cifar100", ROOT / "src", "holds no intact 'cifar-100-python'"),
    ],
)
def test_bad_requests_are_refused(dataset: str, root: Path | None, words: str) -> None:
    with pytest.raises(BbgError, match=words):
        open_data(dataset, root)


def test_which_sets_need_a_folder() -> None:
    assert [name for name in DATASETS if not needs_folder(name)] == ["digits"]
    assert needs_folder("no such set")


UNREADABLE = """
import os, sys
from pathlib import Path
from shutil import rmtree
from bbg.data import open_data
from bbg.errors import BbgError
if os.getuid() == 0:
    os.setuid(65534)  # root reads everything
try:
    open_data("folders", Path(sys.argv[1]))
except BbgError as e:
    print(e)
"""


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_an_unreadable_folder_is_refused(tmp_path: Path) -> None:
    root = class_folders(tmp_path)
    (root / "train").chmod(0)
    try:
        run = [sys.executable, "-c", UNREADABLE, str(root)]
        done = subprocess.run(
            run, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": "src"}, cwd=ROOT
        )
    finally:
        (root / "train").chmod(0o755)
    assert done.stderr == ""
    assert done.stdout.startswith("cannot read '")
    assert "--data takes a readable folder" in done.stdout


def test_the_jpeg_archive_unpacks_to_class_folders(tmp_path: Path) -> None:
    archive = SHARED / "cifar10-jpeg.zip"
    if not archive.exists():
        pytest.skip(f"no {archive}; set BBG_TEST_DATA to the folder that holds it")
    with zipfile.ZipFile(archive) as packed:
        folders: dict[str, list[str]] = {}
        for name in sorted(n for n in packed.namelist() if n.endswith(".jpg")):
            folders.setdefault(os.path.dirname(name), []).append(name)
        packed.extractall(tmp_path, [name for names in folders.values() for name in names[:2]])
    split = open_data("cifar10", tmp_path)
    assert split.classes == ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    assert split.train.images.shape == split.test.images.shape == (20, 32, 32, 3)
    assert split.train.labels.tolist() == [c for c in range(10) for _ in range(2)]
    for image, name in zip(split.train.images[::2], split.classes, strict=True):
        assert np.array_equal(image, np.asarray(Image.open(tmp_path / folders[f"train/{name}"][0])))
    assert split.preprocess == Preprocess.of("cifar10")


# Digits


def test_digits_are_split_one_to_four() -> None:
    split = open_data("digits", None)
    assert split.train.images.shape == (1437, 8, 8, 1)
    assert split.test.images.shape == (360, 8, 8, 1)
    assert (split.train.images.min(), split.train.images.max()) == (0, 255)
    assert set(split.test.labels.tolist()) == set(range(10))
    whole = {image.tobytes() for image in split.test.images} & {image.tobytes() for image in split.train.images}
    assert not whole
    # The pixels are those that scikit-learn's copy of the set gave; where it is installed, it is asked.
    pixels, labels = (np.concatenate([getattr(half, n) for half in split]) for n in ("images", "labels"))
    assert (split.train.digest(), split.test.digest()) == ("32afd4178b079e1d", "8ef9c4e8cfc8ced2")
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        pass
    else:
        raw = load_digits()
        expected = np.clip(np.round(raw.images * (255 / 16)), 0, 255).astype(np.uint8)[..., None]
        held_out = np.arange(len(expected)) % 5 == 0
        assert np.array_equal(pixels, np.concatenate([expected[~held_out], expected[held_out]]))
        assert np.array_equal(labels, np.concatenate([raw.target[~held_out], raw.target[held_out]]))
    # The preprocessing states the statistics of the training images.
    x = split.train.images / 255
    assert split.preprocess.mean[0] == pytest.approx(x.mean(), abs=2e-3)
    assert split.preprocess.std[0] == pytest.approx(x.std(), abs=2e-3)
