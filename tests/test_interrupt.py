"""Calls of the engine beside forks and signals: a child never waits for a thread that it does not have, and Ctrl-C ends
a long call.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.paths import ROOT

from bbg.engine import load
from bbg.errors import BbgError

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here"),
    pytest.mark.filterwarnings("ignore:This process"),
]
IMAGES = np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)


def in_child(call: Callable[[], bool]) -> int | None:
    """The exit status of a forked child that makes the call: 0 where it returned True; None where it hangs."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if call() else 1)
        finally:
            os._exit(2)
    for _ in range(200):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def from_two_threads(engine: Any, wanted: np.ndarray) -> bool:
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(np.array_equal(engine(IMAGES), wanted))) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers == [True, True]


def grandchild(engine: Any, wanted: np.ndarray) -> bool:
    return np.array_equal(engine(IMAGES), wanted) and in_child(lambda: np.array_equal(engine(IMAGES), wanted)) == 0


CHILDREN = {
    "the child calls": lambda engine, wanted: np.array_equal(engine(IMAGES), wanted),
    "two threads of the child call at once": from_two_threads,
    "the child forks again": grandchild,
    "the child profiles": lambda engine, wanted: len(engine.profile(IMAGES[:1])) > 0,
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("case", CHILDREN)
def test_a_fork_while_a_thread_runs_the_engine(case: str, threads: int) -> None:
    """The thread is in a call nearly all the time: of ten children some are forked then."""
    engine = load("resnet20-cifar10", threads=threads)
    wanted = engine(IMAGES)
    ended = threading.Event()

    def keep_calling() -> None:
        while not ended.is_set():
            engine(IMAGES)

    other = threading.Thread(target=keep_calling, daemon=True)
    other.start()
    try:
        time.sleep(0.05)
        for _ in range(10):
            assert in_child(lambda: CHILDREN[case](engine, wanted)) == 0
    finally:
        ended.set()
        other.join()
    assert np.array_equal(engine(IMAGES), wanted)


# What each prints once a call is under way that takes many seconds: it is interrupted then.
LONG_CALLS = {
    "a batch": "engine(images)",
    "a batch on two threads": "bbg.load('resnet20-cifar10', threads=2)(images)",
    "a profile": "engine.profile(images)",
    "a wait for another thread": """
        import threading, time
        engine = bbg.load("resnet20-cifar10", threads=max(2, os.cpu_count() or 1))  # all processors
        threading.Thread(target=engine, args=(images,), daemon=True).start()
        time.sleep(0.1)
        engine(images[:1])
    """,
    "loading": """
        n, layers = 4096, 40
        graph = bbg._native.Graph("x", False, n, 3, 3)
        graph.add("sign", "pointwise", ["x"], None, None, "0", None, {}, {}, None, None)
        shape = {"kernel": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1, "channels": n}
        weight = {"weight": np.zeros((n, 9 * n // 64), np.uint64)}
        for i in range(layers):
            graph.add(f"conv{i}", "binary_conv", [f"{i}"], None, "y" if i == layers - 1 else None, f"{i + 1}", None,
                      shape, weight, None, None)
        graph.output([("y", "CHW")], [n, 3, 3])
        bbg._native.Engine(graph, None, 1, (), (), 2**33, 2**50)
    """,
    "one image": """
        graph = bbg._native.Graph("0", False, 32, 128, 128)
        shape = {"kernel": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1, "channels": 32}
        weight = {"weight": np.zeros((32, 32, 3, 3), np.float32)}
        for i in range(100):
            graph.add(f"conv{i}", "conv", [f"{i}"], None, f"{i + 1}", None, None, shape, weight, None, None)
        graph.output([("100", "CHW")], [32, 128, 128])
        bbg._native.Engine(graph, None, 1, (), (), 2**30, 2**40).run_floats(np.zeros((1, 32, 128, 128), np.float32))
    """,
}

WINDOW = "dilation=(1, 1), stride=(1, 1), padding=({0}, {0}), kernel=({1}, {1})"
LONG_CALLS |= {
    f"one {kind}, {groups} groups": f"""
        graph = bbg._native.Graph("x", False, 8, 1000, 1000)
        graph.add("first", "pointwise", ["x"], None, "real", "bits", "bytes", {{}}, {{}}, None, None)
        graph.add("long", "{kind}", ["{operand}"], None, *{["y" if i == result else None for i in range(3)]},
                  dict({WINDOW.format(side // 2, side)}{f", groups={groups}, channels=8" if groups else ""}),
                  dict({tensor}), None, None)
        graph.output([("y", "CHW")], [8, 1000, 1000])
        engine = bbg._native.Engine(graph, None, 2, (), (), 2**33, 2**50)
        engine.run_floats(np.zeros((1, 8, 1000, 1000), np.float32))
    """
    for kind, operand, result, side, groups, tensor in (  # a row takes some milliseconds, the op some seconds
        ("max_pool", "real", 0, 127, 0, ""),
        ("max_pool_bits", "bits", 1, 127, 0, "and_mask=np.zeros(1, np.uint64)"),
        ("conv", "real", 0, 63, 1, "weight=np.zeros((8, 8, 63, 63), np.float32)"),
        ("conv", "real", 0, 63, 8, "weight=np.zeros((8, 1, 63, 63), np.float32)"),
        ("byte_conv", "bytes", 0, 63, 8, "weight=np.zeros((8, 1, 63, 63), np.int8)"),
        ("binary_conv", "bits", 0, 63, 1, "weight=np.zeros((8, 497), np.uint64)"),
    )
}


# Who ends it: a signal, or another thread of the process, which is told to by a line of its input.
ENDS = {
    "Ctrl-C": "run()",
    "another thread": """
        import ctypes, sys, threading
        thread = threading.Thread(target=run)
        thread.start()
        sys.stdin.readline()
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(KeyboardInterrupt))
        thread.join()
    """,
}


@pytest.mark.parametrize(
    ("case", "ends"),
    [
        *((case, "Ctrl-C") for case in LONG_CALLS),
        *((case, "another thread") for case in ("a batch", "loading", "one image")),
    ],
)
def test_an_interrupt_ends_a_long_call(case: str, ends: str) -> None:
    lines = """
        import numpy as np, os, signal, bbg
        signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background may ignore it
        def run():
            engine = bbg.load("resnet20-cifar10", threads=1)
            images = np.zeros((5_000, 32, 32, 3), np.uint8)
            print("started", flush=True)
            try:
    """
    call = textwrap.indent(textwrap.dedent(LONG_CALLS[case]), 8 * " ")
    ending = "    except KeyboardInterrupt:\n        print('interrupted', flush=True)\n        os._exit(0)\n"
    code = f"{textwrap.dedent(lines)}{call}\n{ending}{textwrap.dedent(ENDS[ends])}"
    environment = {**os.environ, "BBG_ISA": "scalar"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, text=True, **pipes)
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        time.sleep(0.7)
        assert process.poll() is None, "the call was too short"
        asked = time.monotonic()
        if ends == "Ctrl-C":
            process.send_signal(signal.SIGINT)
        else:
            process.stdin.write("\n")
            process.stdin.flush()
        assert process.stdout.readline() == "interrupted\n"
        assert time.monotonic() - asked < 1
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.communicate()


def test_a_signal_handler_that_calls_the_engine_it_interrupts_gets_an_error() -> None:
    """It would wait for its own turn for ever."""
    engine = load("resnet20-cifar10", threads=1)
    images = np.zeros((20_000, 32, 32, 3), np.uint8)
    heard: list[str] = []

    def handler(number: int, frame: object) -> None:
        try:
            engine(images[:1])
        except BbgError as error:
            heard.append(str(error))

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        for _ in range(20):
            engine(images)
            if heard:
                break
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert "a signal handler called the engine" in heard[0]
