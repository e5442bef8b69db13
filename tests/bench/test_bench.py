"""What the benchmarks rest on: the loop and its summary, processes that take turns, the count of executed MACs."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from bbg.graph import Graph, pack_bits, reference
from bench.binary_layers import FORMS, executed, layer
from bench.interleave import Runner, pooled, run_interleaved
from bench.measure import durations, spread
from cases.convolutions import CASES, LAYERS, Case, conv_graph


def runner(code: str) -> Runner:
    return Runner([sys.executable, "-c", f"from bench.interleave import serve\n{code}"])


def test_a_call_is_repeated_after_calls_that_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that each call moves by half a second."""
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def call() -> None:
        clock[0] += 0.5

    assert durations(call, 0, least=4, warm=1) == [0.5] * 4
    assert clock == [0.5 * 5]
    assert durations(call, 3, least=1, warm=2) == [0.5] * 6


def test_a_call_may_time_itself() -> None:
    assert durations(lambda: 2.0, 0) == [2.0] * 3


def test_the_spread_is_of_one_part() -> None:
    assert spread([4.0, 2.0, 9.0], parts=2) == {"min_us": 1e6, "median_us": 2e6, "calls": 3}


def test_runners_take_turns_and_report_their_durations() -> None:
    runners = {
        "slow": runner("serve(lambda: 0.5, {'is': 'slow'})"),
        "fast": runner("print(1); serve(lambda: 0.25, {})"),
    }
    times = run_interleaved(runners, 2, 0.0)
    for each in runners.values():
        each.close()
    assert runners["slow"].facts == {"is": "slow"}
    assert times == {"slow": [[0.5] * 3] * 2, "fast": [[0.25] * 3] * 2}
    assert pooled(times)["fast"] == [0.25] * 6


def test_each_round_begins_with_another_runner() -> None:
    class Told:
        def __init__(self, name: str) -> None:
            self.name = name

        def turn(self, seconds: float) -> list[float]:
            order.append(self.name)
            return [seconds]

    order: list[str] = []
    run_interleaved({name: Told(name) for name in "abc"}, 4)  # type: ignore[misc]
    assert "".join(order) == "abcbcacababc"


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
