"""What the benchmarks rest on: processes that take turns, the count of executed MACs, a report that keeps the rest."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import report
from kernels import FORMS, executed, layer
from turns import Runner, race, spread

from bbg.graph import Graph, pack_bits, reference
from cases.convolutions import CASES, LAYERS, Case, conv_graph

BENCH = str(Path(report.__file__).parent)


def runner(code: str) -> Runner:
    return Runner([sys.executable, "-c", f"from turns import serve\n{code}"], PYTHONPATH=BENCH)


def test_runners_take_turns_and_report_their_durations() -> None:
    runners = {
        "slow": runner("serve(lambda: 0.5, {'is': 'slow'})"),
        "fast": runner("print(1); serve(lambda: 0.25, {})"),
    }
    times = race(runners, 2, 0.0)
    for each in runners.values():
        each.close()
    assert runners["slow"].facts == {"is": "slow"}
    assert set(times["slow"]) == {0.5}
    assert spread(times["fast"]) == {"min_us": 250000.0, "median_us": 250000.0, "calls": len(times["fast"])}


def test_a_runner_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"^there is none$"):
        runner("raise RuntimeError('there is none')")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_macs_are_those_of_taps_inside_the_map(case: Case) -> None:
    """With bits and weights of +1 only, the sums count them."""
    graph = conv_graph("binary_conv", case, np.random.default_rng(0))
    sign, op = graph.ops
    ones = pack_bits(np.ones(op.fan_in(graph.shapes(*case.size)["b"]) * case.outputs, bool), case.outputs)
    op.tensors["weight"][:] = ones  # type: ignore[index]
    sums = reference.run(graph, np.ones((1, *graph.input_shape), np.float32))["y"]
    assert executed(op, graph.shapes(*case.size)) == sums.sum()
    assert executed(sign, graph.shapes(*case.size)) == 0


@pytest.mark.parametrize("form", [*FORMS, "sums"])
@pytest.mark.parametrize("case", [row.case for row in LAYERS[:9]], ids=str)
def test_the_layers_are_graphs(case: Case, form: str) -> None:
    graph: Graph = layer(case, form)
    graph.check()
    assert graph.ops[1].kind == "binary_conv"


def test_the_report_keeps_the_rest_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    row = {
        "product": "1 x 2",
        "threads": 1,
        "runtime": "bbg",
        "min_us": 1.5,
        "median_us": 2.0,
        "best_GMACs": 1234.5,
        "ratio_of_min": 1.0,
        "ratio_of_median": 1.0,
    }
    facts = {
        "date": "2026-01-01",
        "cpu": "A",
        "cpu_family_model": "1/2",
        "cores": 2,
        "load": 0.1,
        "commit": "abc",
        "versions": {"numpy": "2"},
    }
    (tmp_path / "bnn_lab.json").write_text(json.dumps({**facts, "bnn_lab": [row, row]}))
    page.write_text(f"# Before\n\n{report.BEGIN}\nold\n{report.END}\n\n## After\n")
    monkeypatch.setattr(sys, "argv", ["report.py", "--results", str(tmp_path), "--page", str(page)])
    for _ in range(2):
        report.main()
        text = page.read_text()
        assert text.startswith("# Before\n\n")
        assert text.endswith("\n\n## After\n")
        assert "old" not in text
        assert text.count("| 1 x 2 | 1 | bbg | 1.5 | 2 | 1,234 | 1 | 1 |\n|  |  | bbg |") == 1
