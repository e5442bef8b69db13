"""The benchmarks of detectors: which 1-bit one beats which int8 one, which boxes are the same, what stages are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
from bbg.boxes import Boxes, Level
from bbg.heads import Detection
from bench import detection_agreement, detectors, predict_boxes, ssd300


def training(name: str, method: str, value: float | None, width: int = 16) -> Any:
    return {
        "network": name, "architecture": "ssd_light", "method": method, "width": width, "size": "144x192", "epochs": 3,
        "stem": None, "seed": 0, "float": method == "float", "map": value,
        "packed": {"fp32": None, "int8": value and value - 0.01},
    }  # fmt: skip


def time(name: str, cost: float, runtime: str = "bbg", precision: str = "1 bit, int8") -> Any:
    return {
        "network": name, "runtime": runtime, "precision": precision, "min_us": cost, "median_us": cost,
        "bytes": 1000 * cost,
    }  # fmt: skip


RESULT = {
    "absent": [],
    "photographs": [{**training("by heart", "bbg", 0.95), "start": None, "images": 20, "map_11": 0.94}],
    "trainings": [
        training("small", "bbg", 0.6),
        training("large", "bbg", 0.8, 32),
        training("reactnet", "reactnet", 0.5),
        training("twin", "float", 0.7),
        training("wide", "float", 0.9, 32),
        training("later", "float", None),
    ],
    "times": [
        time("small", 100),
        time("small", 150, precision="1 bit, fp32"),
        time("large", 400),
        time("reactnet", 100),
        time("twin", 50, precision="8 bits"),
        time("twin", 300, "OpenVINO", "int8"),
        time("twin", 200, "LiteRT", "int8"),
        time("wide", 500, "OpenVINO", "int8"),
        time("later", 100, "OpenVINO", "int8"),
    ],
}


def test_a_detector_of_8_bits_is_judged_with_its_fastest_peer() -> None:
    first, second = detectors.verdicts(RESULT)
    assert (first["peer"], first["min_us"]) == ("twin, LiteRT int8", 200)
    assert first["ours"] == "small, 1 bit, fp32"  # as fast, and a point better than with 8-bit edges
    assert first["points"] == pytest.approx(-9)
    assert first["faster"] == pytest.approx(200 / 150)
    assert (second["ours"], second["points"]) == ("large, 1 bit, int8", pytest.approx(-10))
    assert second["times"] is None


def test_only_detectors_of_one_budget_are_compared() -> None:
    longer = {**training("longer", "bbg", 0.95), "epochs": 6}
    result = {**RESULT, "trainings": [*RESULT["trainings"], longer], "times": [*RESULT["times"], time("longer", 10)]}
    assert detectors.verdicts(result) == detectors.verdicts(RESULT)


def test_what_is_not_trained_is_told_and_judged_by_nobody() -> None:
    text = detectors.render(RESULT)
    assert "| later | float | 3 | OpenVINO | int8 | 100 | 100 | 100 | not trained yet |" in text
    assert "Of 2 int8 detectors, each in the fastest other engine, 0 have" in text
    assert "| twin | float | 3 | bbg | 8 bits | 50 |" in text
    assert "| by heart | 20 | 3 | random | 95.00 % | 94.00 % |" in text
    methods = text.partition("Methods: ")[2].partition("\n\nOn a sample")[0]
    assert methods.startswith("ssd_light, width 16, 144x192, 3 epochs.")
    assert [line.split(" | ")[0] for line in methods.splitlines()[4:]] == [
        "| float", "| bbg", "| reactnet", "| float"
    ]  # fmt: skip
    untrained = {**RESULT, "trainings": [{**row, "map": None, "packed": {"fp32": None, "int8": None}}
                                         for row in RESULT["trainings"]]}  # fmt: skip
    assert detectors.verdicts(untrained) == []
    assert "not trained yet" in detectors.render(untrained)


def test_records_are_those_of_the_list(tmp_path: Path) -> None:
    names = [row.name for row in detectors.planned(tmp_path / "none.toml", tmp_path)]
    record = {"finished": True, "map": 0.5, "packed": {"map": 0.49}, "packed_int8": {"map": 0.48}}
    (tmp_path / f"{names[0]}.json").write_text(json.dumps(record))
    (tmp_path / f"{names[1]}.json").write_text(json.dumps({"finished": False}))
    first, second, *_ = map(detectors.figures, detectors.planned(tmp_path / "none.toml", tmp_path))
    assert (first["map"], first["packed"], first["float"]) == (0.5, {"fp32": 0.49, "int8": 0.48}, False)
    assert (second["map"], second["packed"], second["float"]) == (None, {"fp32": None, "int8": None}, True)


def boxes(rows: list[tuple[float, int, float]]) -> Boxes:
    """Boxes (left, class, score), of a half by a half."""
    found = np.array([[left, 0, left + 0.5, 0.5] for left, _, _ in rows]).reshape(-1, 4)
    return Boxes(found, np.array([kind for _, kind, _ in rows], int), np.array([score for _, _, score in rows]))


@pytest.mark.parametrize(
    ("theirs", "alone"),
    [
        ([(0.0, 1, 0.9), (0.3, 2, 0.7)], (0, 0)),
        ([(0.001, 1, 0.9005), (0.3, 2, 0.7)], (0, 0)),
        ([(0.01, 1, 0.9), (0.3, 2, 0.7)], (2, 0)),  # an IoU of 0.96
        ([(0.0, 1, 0.902), (0.3, 2, 0.7)], (2, 0)),
        ([(0.0, 2, 0.9), (0.3, 2, 0.7)], (2, 0)),
        ([(0.0, 1, 0.9), (0.0, 1, 0.9), (0.3, 2, 0.7)], (1, 0)),
        ([(0.0, 1, 0.9), (0.3, 2, 0.7), (0.6, 0, 0.5004)], (1, 1)),
        ([], (2, 0)),
    ],
)
def test_each_box_has_one_partner(theirs: list[tuple[float, int, float]], alone: tuple[int, int]) -> None:
    ours = boxes([(0.0, 1, 0.9), (0.3, 2, 0.7)])
    assert detection_agreement.unmatched(ours, boxes(theirs), 0.5) == alone
    assert detection_agreement.unmatched(boxes(theirs), ours, 0.5) == alone


def test_the_outputs_that_are_timed_are_of_so_many_objects() -> None:
    head = Detection(tuple(Level((n, n), ((1.5 / n, 1 / n), (1 / n, 1.5 / n))) for n in (24, 12, 6, 3)))
    few, many, noise = (
        head.decide(ssd300.outputs_of(head, 20, ssd300.Scene(objects, 0.5)))[0] for objects in (5, 60, None)
    )
    assert 3 <= len(few.scores) <= 15 < len(many.scores) < len(noise.scores) == 200


def test_the_stages_are_read_from_what_the_command_says() -> None:
    stages = "decoding 3.25 ms (3.00 on a core), network 0.50 ms (0.25 on a core)"
    line = f"72 images in 1.50 s, on 2 threads; per image: {stages}"
    assert predict_boxes.told(f"a.jpg\n  nothing\n{line}\n") == {
        "threads": 2, "images_per_second": 48, "decoding_ms": 3.25, "decoding_core_ms": 3, "network_ms": 0.5,
        "network_core_ms": 0.25,
    }  # fmt: skip
