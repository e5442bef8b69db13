"""`bbg train --processes N --nodes M`: starts the processes of this machine, watches them, and starts them again.

It says the same to them as torchrun would (`bbg.training.processes`). Where one of them dies by a signal, on whichever
machine, all are ended, and all start again from the last checkpoint. Where one ends by itself, for bad input or an
error, all end. The launcher of the first machine keeps the table that all of them meet at.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from bbg.cpu import cores
from bbg.errors import BbgError
from bbg.log import LOGGER
from bbg.training.processes import ATTEMPT, LAUNCHER, LOST, started

RESTARTS = 3
POLL = 0.05  # seconds between two looks at the processes
REMOTE = 1.0  # seconds between two looks at the other machines
GRACE = 10.0  # seconds that the others have to end by themselves, to say why
JOIN = timedelta(minutes=5)  # that the launchers wait for the first one


@dataclass(frozen=True)
class Plan:
    """`processes` on each of `nodes` machines, of which this is number `node`; `host` and `port` are of the first."""

    processes: int
    nodes: int = 1
    node: int = 0
    host: str = "127.0.0.1"
    port: int = 0

    @property
    def total(self) -> int:
        """The processes of all machines."""
        return self.processes * self.nodes


@dataclass(frozen=True)
class End:
    """How an attempt ended: with a status that all of them end with, or None where they may start again."""

    status: int | None
    why: str = ""


class Asked:
    """How often a signal has asked the launcher to end."""

    times = 0
    passed = 0


def plan_of(processes: int | None, nodes: int | None, node_rank: int | None, master: str | None) -> Plan | None:
    """What the options of `bbg train` ask for; None: this process alone. BbgError where they do not fit together."""
    if processes is None and nodes is None and node_rank is None and master is None:
        return None
    if started():
        raise BbgError("torchrun has started this process with others, --processes would start more; leave it out")
    if nodes in (None, 1):
        if node_rank or master is not None:
            raise BbgError("--node-rank and --master are for several machines; give --nodes too")
        return Plan(processes or 1) if (processes or 1) > 1 else None
    if node_rank is None or master is None:
        raise BbgError(f"--nodes {nodes} takes --node-rank and --master HOST:PORT on each machine; give both")
    if not 0 <= node_rank < nodes:
        raise BbgError(f"--node-rank is {node_rank}, allowed is 0 to {nodes - 1}: one for each of the {nodes} machines")
    host, _, port = master.rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) < 2**16:
        raise BbgError(f"--master is {master!r}; give HOST:PORT of the first machine, such as 10.0.0.1:29500")
    return Plan(processes or 1, nodes, node_rank, host.strip("[]"), int(port))


def launch(command: list[str], plan: Plan) -> int:
    """Run `command` in each process, and return the exit status of all; KeyboardInterrupt where it was asked to end.

    Raises BbgError where the machines do not meet, and where processes die again and again.
    """
    if plan.processes > cores():
        LOGGER.warning("%d processes on %d cores: they wait for each other", plan.processes, cores())
    store = _store(plan)
    with _asked() as asked:
        for attempt in range(RESTARTS + 1):
            end = _attempt(command, plan, store, attempt, asked)
            if end.status is not None:
                return end.status
            if attempt < RESTARTS:
                again = f"restart {attempt + 1} of {RESTARTS}"
                LOGGER.warning("%s: all processes start again from the last checkpoint (%s)", end.why, again)
    raise BbgError(f"{end.why}, after {RESTARTS} restarts; see to the cause, and go on with --resume")


def _store(plan: Plan) -> Any:
    """The table at which all processes meet; on the first machine this process keeps it."""
    c10d: Any = dist  # whose stores have no types
    place = f"{plan.host}:{plan.port}"
    if plan.node:
        LOGGER.info("waiting for the first machine at %s", place)
    elif plan.port:
        _refuse_taken(plan.port, place)
    try:
        return c10d.TCPStore(plan.host, plan.port, None, plan.node == 0, JOIN, wait_for_workers=False)
    except RuntimeError as e:
        hint = "start the first machine with --node-rank 0" if plan.node else "give an address of this machine"
        raise BbgError(f"nobody answers at {place}; {hint}") from e


def _refuse_taken(port: int, place: str) -> None:
    """BbgError where somebody listens at `port` already: torch would say so in many lines."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
        except OSError as e:
            raise BbgError(f"cannot listen at {place}: {e.strerror}; give another port with --master") from e


def _attempt(command: list[str], plan: Plan, store: Any, attempt: int, asked: Asked) -> End:
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "bbg", *command],
            env=_environment(plan, local, store.port, attempt),
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C comes here, and is passed on once
        )
        for local in range(plan.processes)
    ]
    try:
        return _watch(workers, plan, store, attempt, asked)
    finally:
        for worker in workers:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(worker.pid, signal.SIGKILL)  # with the processes that decode its images
            worker.wait()


def _environment(plan: Plan, local: int, port: int, attempt: int) -> dict[str, str]:
    """What process number `local` of this machine is told, by the names of torchrun."""
    told = {
        "RANK": plan.node * plan.processes + local,
        "LOCAL_RANK": local,
        "WORLD_SIZE": plan.total,
        "LOCAL_WORLD_SIZE": plan.processes,
        "MASTER_ADDR": plan.host,
        "MASTER_PORT": port,
        ATTEMPT: attempt,
        "TORCHELASTIC_USE_AGENT_STORE": True,
        LAUNCHER: os.getpid(),
    }
    chosen = {"OMP_NUM_THREADS": str(max(1, cores() // plan.processes)), "TORCH_CPP_LOG_LEVEL": "ERROR"}
    if plan.nodes == 1 and "lo" in (name for _, name in socket.if_nameindex()):
        chosen["GLOO_SOCKET_IFNAME"] = "lo"
    return {**chosen, **os.environ, **{name: str(value) for name, value in told.items()}}


def _watch(workers: list[subprocess.Popen[bytes]], plan: Plan, store: Any, attempt: int, asked: Asked) -> End:
    """Until all have ended well, or one has not."""
    looked = time.monotonic()
    while True:
        _pass_on(workers, asked)
        statuses = [worker.poll() for worker in workers]
        if all(status == 0 for status in statuses):
            return End(0)
        if any(status not in (None, 0) for status in statuses):
            return _ended(workers, plan, store, attempt, asked)
        if plan.nodes > 1 and time.monotonic() - looked > REMOTE:
            looked = time.monotonic()
            if (end := _of_others(store, attempt, workers)) is not None:
                return end
        time.sleep(POLL)


def _ended(workers: list[subprocess.Popen[bytes]], plan: Plan, store: Any, attempt: int, asked: Asked) -> End:
    """What it means that one has ended. The others are waited for: one of them may have the reason."""
    until = time.monotonic() + GRACE
    while any(worker.poll() is None for worker in workers) and (asked.times or time.monotonic() < until):
        _pass_on(workers, asked)
        time.sleep(POLL)
    statuses = [worker.poll() for worker in workers]
    if asked.times:
        if 130 not in statuses:
            raise KeyboardInterrupt
        return End(130)
    said = [status for status in statuses if status is not None and status > 0 and status != LOST]
    key, value = (f"bbg/end/{attempt}", str(said[0])) if said else (f"bbg/lost/{attempt}", "1")
    with suppress(RuntimeError):
        if plan.nodes > 1:
            if not said and (end := _of_others(store, attempt, workers)) is not None:
                return end
            store.set(key, value)
            time.sleep(2 * REMOTE if said else 0)  # the others look at it here
    if said:
        return End(said[0])
    dead = [(i, status) for i, status in enumerate(statuses) if status is not None and status < 0]
    if not dead:
        return End(None, "the processes of another machine are gone")
    rank, number = plan.node * plan.processes + dead[0][0], -dead[0][1]
    return End(None, f"process {rank} was ended by {signal.Signals(number).name}")


def _of_others(store: Any, attempt: int, workers: list[subprocess.Popen[bytes]]) -> End | None:
    """How the attempt has ended on another machine, None where it has not."""
    try:
        if store.check([f"bbg/end/{attempt}"]):
            return End(int(store.get(f"bbg/end/{attempt}")))
        if store.check([f"bbg/lost/{attempt}"]):
            return End(None, "a process of another machine was ended")
    except RuntimeError as e:  # its launcher has ended, perhaps well
        until = time.monotonic() + GRACE
        while any(worker.poll() is None for worker in workers) and time.monotonic() < until:
            time.sleep(POLL)
        if all(worker.poll() == 0 for worker in workers):
            return End(0)
        raise BbgError("the first machine is gone; start all of them again, with --resume") from e
    return None


@contextmanager
def _asked() -> Iterator[Asked]:
    """Within this context Ctrl-C and SIGTERM are counted."""
    asked = Asked()

    def count(number: int, frame: Any) -> None:  # noqa: ARG001 (as signal wants it)
        asked.times += 1

    before = {number: signal.signal(number, count) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _pass_on(workers: list[subprocess.Popen[bytes]], asked: Asked) -> None:
    """Ask the workers as often as the launcher was: first to end behind the present step, then at once."""
    while asked.passed < asked.times:
        number = signal.SIGTERM if asked.passed == 0 else signal.SIGINT if asked.passed == 1 else signal.SIGKILL
        asked.passed += 1
        for worker in workers:
            if worker.poll() is None:
                worker.send_signal(number)
