"""One engine, many callers: threads that call it side by side, and forked processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable

import numpy as np
import pytest

import bbg

MODEL = "resnet20-cifar10"
LONG = 2000  # images that take far longer than what is done meanwhile


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def while_it_runs(engine: bbg.Engine, action: Callable[[], None]) -> None:
    """Do something in the midst of a call of this thread, which holds what the call has taken."""
    done: list[bool] = []

    def handle(number: int, frame: object) -> None:
        if not done:
            done.append(True)
            action()

    many = images(LONG)  # made before, or the signal may come first
    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    try:
        engine(many)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert done


def meanwhile(engine: bbg.Engine, wait: float) -> bool:
    """Whether a call of another thread ends within `wait` seconds, while one of this thread does not."""
    ended: list[bool] = []
    caller = threading.Thread(target=engine, args=(images(1),))

    def call() -> None:
        caller.start()
        caller.join(wait)
        ended.append(not caller.is_alive())

    while_it_runs(engine, call)
    caller.join(60)
    assert not caller.is_alive()  # it has its turn in the end
    return ended[0]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_eight_callers_get_the_answers_of_one(threads: int) -> None:
    engine = bbg.load(MODEL, threads=threads)
    inputs = [images(1 + 5 * i, seed=i) for i in range(8)]
    wanted = [engine(x) for x in inputs]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(20):
            if not np.array_equal(engine(inputs[i]), wanted[i]):
                wrong.append(i)

    callers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


def test_calls_run_side_by_side() -> None:
    assert meanwhile(bbg.load(MODEL, threads=1), wait=30)


def test_a_call_waits_where_all_processors_are_taken() -> None:
    assert not meanwhile(bbg.load(MODEL, threads=max(2, os.cpu_count() or 1)), wait=0.5)


def test_a_call_waits_where_the_limits_have_no_memory_for_it() -> None:
    constants, workspace = bbg.load(MODEL, threads=1)._native.bytes
    one = bbg.Limits(memory=constants + workspace + workspace // 2)
    assert not meanwhile(bbg.load(MODEL, threads=1, limits=one), wait=0.5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("threads", [1, 3])
def test_none_of_100_children_forked_during_a_run_hangs(threads: int) -> None:
    """The threads of the parent are not there: a child gets its own, and ends without waiting for others."""
    code = f"""
import os, sys, threading, warnings
import numpy as np, bbg
warnings.simplefilter("ignore")
engine = bbg.load({MODEL!r}, threads={threads})
x = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
wanted, ended = engine(x), threading.Event()
def work():
    while not ended.is_set():
        engine(x)
callers = [threading.Thread(target=work) for _ in range(2)]
for caller in callers: caller.start()
children = []
for _ in range(100):
    child = os.fork()
    if child == 0:
        same = np.array_equal(engine(x), wanted)
        del engine
        os._exit(0 if same else 1)
    children.append(child)
statuses = [os.waitpid(child, 0)[1] for child in children]
ended.set()
for caller in callers: caller.join()
print(statuses.count(0), np.array_equal(engine(x), wanted))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["100", "True"]


@pytest.mark.parametrize("count", [1, 3000])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_process_ends_while_daemon_threads_call_the_engine(threads: int, count: int) -> None:
    """Python would end them in the midst of C++, and three of twelve processes with them by SIGABRT."""
    code = f"""
import threading, time
import numpy as np, bbg
engine, x = bbg.load({MODEL!r}, threads={threads}), np.zeros(({count}, 32, 32, 3), np.uint8)
def work():
    while True:
        engine(x)
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
time.sleep(0.1)
"""
    for _ in range(4):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_who_ends_the_process_may_still_call_the_engine() -> None:
    code = f"""
import atexit
import numpy as np
atexit.register(lambda: print(engine(np.zeros((40, 32, 32, 3), np.uint8)).shape))
import bbg
engine = bbg.load({MODEL!r}, threads=1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("(40, 10)\n", "")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="the memory in use is not told here")
def test_threads_that_cannot_be_had_are_named() -> None:
    """A thread takes megabytes for its stack, which a limit on memory may not leave."""
    code = """
        import os, resource, bbg
        bbg.load("resnet20-cifar10", threads=1)
        pages = int(open("/proc/self/statm").read().split()[0])
        most = pages * os.sysconf("SC_PAGESIZE") + 6 * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        try:
            bbg.load("resnet20-cifar10", threads=4)
        except bbg.BbgError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("no more threads can be started (")
    assert done.stdout.endswith("; ask for fewer\n")
