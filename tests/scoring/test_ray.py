"""Many images by workers of Ray: the rows of `bbg predict`, each once, whatever dies in between."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.many import MODEL, as_shards, as_table, pictures, rows

from bbg.cli import main
from bbg.errors import BbgError
from bbg.scoring.ray import Scored, answer_all

ray: Any = pytest.importorskip("ray")
pytest.importorskip("pyarrow")


def predicted(sources: list[Path], out: Path, *options: object) -> list[dict[str, Any]]:
    """The rows that `bbg predict` would write, by what it writes as JSON."""
    with pytest.raises(SystemExit):  # of the damaged ones
        main(["predict", *map(str, [*sources, "--json", out, *options])])
    found = []
    for line in map(json.loads, out.read_text().splitlines()):
        answers = line.get("predictions")
        lists = {
            "labels": answers and [one["label"] for one in answers],
            "probabilities": answers and [one["score"] for one in answers],
        }
        found.append({"path": line["image"], "error": line.get("error"), **lists})
    return found


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many") / "photos"
    pictures(folder)
    return folder


def test_the_rows_are_those_of_predict(photos: Path, tmp_path: Path, capsys: Any) -> None:
    wanted = predicted([photos], tmp_path / "wanted.json", "--top", 3)
    capsys.readouterr()
    command = ["predict", "--ray", str(photos), "--out", str(tmp_path / "out"), "--top", "3", "--workers", "1"]
    for earlier in (False, True):
        with pytest.raises(SystemExit) as end:
            main(command)
        assert end.value.code == 1  # as some cannot be read
        said = capsys.readouterr()
        assert "images: 30\nerrors: 2\n" in said.out
        assert ("of an earlier run: 30" in said.out) == earlier
        assert said.err == ""
        assert rows(tmp_path / "out") == wanted
        assert not ray.is_initialized()
    with pytest.raises(SystemExit, match="2"):
        main([*command, "--top", "4"])
    assert "was begun with top 3" in capsys.readouterr().err


def start(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bbg", "predict", "--ray", *map(str, words)], stdout=subprocess.PIPE, text=True
    )


def killed_half_way(source: Path, out: Path, least: int, *options: object) -> int:
    """Start a run and kill it once there are `least` parts; how many there are then."""
    run = start(source, "--out", out, *options)
    until = time.monotonic() + 120
    while len(list(out.glob("part-*"))) < least and run.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert run.returncode == -signal.SIGKILL
    time.sleep(1)  # what it started ends too
    return len(list(out.glob("part-*")))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("images", "side", "damaged", "each", "least"), [(400, 700, 2, 32, 3), (8000, 64, 20, 125, 32)]
)
def test_a_killed_run_goes_on_and_every_row_is_there_once(
    tmp_path: Path, images: int, side: int, damaged: int, each: int, least: int
) -> None:
    files, total = pictures(tmp_path / "photos", images, side, damaged), -(-images // each)
    out = tmp_path / "out"
    parts = killed_half_way(tmp_path / "photos", out, least, "--workers", 2)
    assert least <= parts < total
    before = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}
    again = start(tmp_path / "photos", "--out", out, "--workers", 1)
    told, _ = again.communicate(timeout=300)
    assert again.returncode == 1
    assert f"of an earlier run: {each * parts:,}" in told
    assert [row["path"] for row in rows(out)] == [str(path) for path in files]
    assert sum(row["error"] is not None for row in rows(out)) == damaged
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert sorted(path.name for path in out.iterdir()) == [
        "_bbg.json",
        "_network.bbg",
        *(f"part-{number:06}.parquet" for number in range(total)),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_leaves_no_process_and_goes_on(tmp_path: Path, number: int) -> None:
    pictures(tmp_path / "photos", 400, side=700)
    run = start(tmp_path / "photos", "--out", tmp_path / "out", "--workers", 2)
    while not list((tmp_path / "out").glob("part-*")):
        assert run.poll() is None
        time.sleep(0.002)
    worker = a_worker_of(run.pid)
    with pytest.raises(BbgError, match="is in use"):
        answer_all(MODEL, [str(tmp_path / "photos")], tmp_path / "out")
    run.send_signal(number)
    run.communicate(timeout=60)
    assert run.returncode == 128 + number
    time.sleep(1)
    assert not Path(f"/proc/{worker}").exists()
    assert answer_all(MODEL, [str(tmp_path / "photos")], tmp_path / "out").images == 400


@pytest.mark.slow
def test_nobody_else_gets_into_the_ray_of_a_command(tmp_path: Path) -> None:
    pictures(tmp_path / "photos", 400, side=700)
    run = start(tmp_path / "photos", "--out", tmp_path / "out", "--workers", 1)
    while not list((tmp_path / "out").glob("part-*")):
        assert run.poll() is None
        time.sleep(0.002)
    words = Path(f"/proc/{a_worker_of(run.pid)}/environ").read_bytes().split(b"\0")
    run.kill()
    run.communicate()
    assert b"RAY_AUTH_MODE=token" in words  # the secret itself is taken out of what a worker's environment shows


@pytest.fixture
def running() -> Iterator[None]:
    """Ray, which several calls use one after the other."""
    ray.init("local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False, object_store_memory=2**28)
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("running")
def test_shards_and_tables_give_the_answers_of_the_folder(photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.rglob("*.jpg"))
    wanted = predicted([photos], tmp_path / "wanted.json")
    as_shards(tmp_path / "shards", files)
    as_table(tmp_path / "table.parquet", files)
    as_table(tmp_path / "hub.parquet", files, structure=True)
    for source in ("shards", "table.parquet", "hub.parquet"):
        out = tmp_path / f"out-{source}"
        found = answer_all(MODEL, [str(tmp_path / source)], out, workers=2)
        assert found[:3] == (30, 2, 30)
        assert ray.is_initialized()  # it is ours
        answered = rows(out)
        if source == "shards":
            assert [row["path"].split(":")[1] for row in answered] == [f"{i:04}.jpg" for i in range(30)]
        else:
            assert [row["path"] for row in answered] == [str(file) for file in files]
        for one, other in zip(answered, wanted, strict=True):
            assert (one["labels"], one["probabilities"]) == (other["labels"], other["probabilities"])
            assert str(one["error"]).removeprefix(one["path"]) == str(other["error"]).removeprefix(other["path"])


@pytest.mark.slow
@pytest.mark.usefixtures("running")
def test_a_detector_writes_boxes(tmp_path: Path) -> None:
    from PIL import Image
    from support.detectors import picture, write_spots

    import bbg

    write_spots(tmp_path / "spots.bbg")
    (tmp_path / "photos").mkdir()
    for number in range(5):
        cells = {(number % 4, 1): "red", (3, 3): "green"}
        Image.fromarray(picture(cells)).save(tmp_path / "photos" / f"{number}.png")
    found = answer_all(str(tmp_path / "spots.bbg"), [str(tmp_path / "photos")], tmp_path / "out", workers=1)
    assert found[:2] == (5, 0)
    engine = bbg.load(tmp_path / "spots.bbg", threads=1)
    for row in rows(tmp_path / "out"):
        boxes = engine.detect(row["path"])
        assert len(boxes) == 2
        assert row["labels"] == [box.label for box in boxes]
        assert row["scores"] == [box.score for box in boxes]
        assert row["boxes"] == [list(box.box) for box in boxes]


def a_worker_of(parent: int) -> int:
    """The number of a process of Ray's that is a worker of ours, by its name and those that it comes from."""
    parents, workers = {}, []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if (entry / "cmdline").read_bytes().startswith(b"ray::Worker"):
                workers.append(int(entry.name))
    for worker in workers:
        above = worker
        while above in parents and above != parent:
            above = parents[above]
        if above == parent:
            return worker
    raise AssertionError("no worker is there")


@pytest.mark.slow
@pytest.mark.usefixtures("running")
def test_a_worker_that_is_killed_is_replaced(tmp_path: Path) -> None:
    files = pictures(tmp_path / "photos", 300, side=700)
    out = tmp_path / "out"
    killed: list[int] = []

    def kill() -> None:
        while not list(out.glob("part-*")):
            time.sleep(0.002)
        killed.append(a_worker_of(os.getpid()))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    found = answer_all(MODEL, [str(tmp_path / "photos")], out, workers=2)
    killer.join(5)
    assert killed
    assert found[:3] == (300, 2, 300)
    assert [row["path"] for row in rows(out)] == [str(path) for path in files]


@pytest.mark.slow
def test_two_nodes_give_the_same_rows(tmp_path: Path) -> None:
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    photos = tmp_path / "photos"
    pictures(photos, 100)
    wanted = predicted([photos], tmp_path / "wanted.json")
    options = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 2**27, "include_dashboard": False}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=options)
    try:
        cluster.add_node(**{key: value for key, value in options.items() if key != "include_dashboard"})
        cluster.wait_for_nodes()
        found: Scored = answer_all(MODEL, [str(photos)], tmp_path / "out", address=cluster.address)
        assert found[:3] == (100, 2, 100)
        assert found.workers == 2
        assert rows(tmp_path / "out") == wanted
        assert not ray.is_initialized()
    finally:
        cluster.shutdown()


def test_a_folder_of_another_network_is_refused_before_ray_starts(photos: Path, tmp_path: Path) -> None:
    import bbg
    from bbg.graph.file import read_bytes
    from bbg.scoring.parts import begin
    from bbg.scoring.pieces import listed

    network = read_bytes(bbg.zoo.path(MODEL))
    begin(tmp_path, network[:-1], listed([str(photos)]), ["x"], {"head": "classification", "top": 5})
    with pytest.raises(BbgError, match="answers of another network"):
        answer_all(MODEL, [str(photos)], tmp_path)
    assert not ray.is_initialized()


def test_a_network_that_says_neither_classes_nor_boxes_is_refused(photos: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    import bbg

    net = torch.nn.Conv2d(3, 4, 3, padding=1)
    for name, head in (("maps", "segmentation"), ("plain", None)):
        options = {"preprocess": bbg.Preprocess(16), "head": head, "labels": list("abcd") if head else None}
        bbg.convert(net, tmp_path / f"{name}.bbg", torch.randn(2, 3, 16, 16), **options)
        with pytest.raises(BbgError, match="--ray takes networks that name classes or boxes"):
            answer_all(str(tmp_path / f"{name}.bbg"), [str(photos)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_cluster_that_is_not_there_is_one_sentence(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(BbgError, match="Ray cannot reach a cluster at 'nonsense'"):
        answer_all(MODEL, [str(photos)], tmp_path, address="nonsense")


@pytest.mark.slow
def test_a_node_that_dies_takes_no_row_with_it(tmp_path: Path) -> None:
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    files, out = pictures(tmp_path / "photos", 400, side=700), tmp_path / "out"
    options = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 2**27}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={**options, "include_dashboard": False})
    try:
        node = cluster.add_node(**options)
        cluster.wait_for_nodes()

        def kill() -> None:
            while len(list(out.glob("part-*"))) < 4:
                time.sleep(0.002)
            cluster.remove_node(node, allow_graceful=False)

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        found = answer_all(MODEL, [str(tmp_path / "photos")], out, address=cluster.address)
        killer.join(60)
        assert found[:3] == (400, 2, 400)
        assert [row["path"] for row in rows(out)] == [str(path) for path in files]
    finally:
        cluster.shutdown()
