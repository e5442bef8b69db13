"""The queue of the study: the first row of the list that is not done is trained, then the next, until none is left.

    python -m bench.study --data DIR --runs DIR [--records DIR] [--list FILE] [--threads N] [--tier A] [--leg 90]

Each row is a process of its own (row.py), at the lowest priority. While the file RUNS/pause exists the processes are
halted, so that something else can be timed; `touch` it before, remove it behind. Ctrl-C or SIGTERM ends the queue
behind the present step. However it ends, the next start goes on with the last checkpoint.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from bbg.cpu import cores
from bbg.errors import BbgError
from bench.record import ROOT
from bench.study.row import lock
from bench.study.rows import LIST, RECORDS, Row, finished, read

PAUSE = "pause"
LOOK = 0.5  # seconds between two looks at the pause file and the process


def end_orphan(folder: Path) -> None:
    """End the process that still trains in `folder`, of a queue that was killed."""
    file = folder / "lock"
    if not file.exists():
        return
    with file.open() as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            with suppress(ProcessLookupError):
                os.killpg(int(stream.read()), signal.SIGKILL)  # each row leads a group of its own
            fcntl.flock(stream, fcntl.LOCK_EX)


class Queue:
    """What is running, and what was asked."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.process: subprocess.Popen[bytes] | None = None
        self.asked = False
        self.failed: set[str] = set()

    def stop(self, number: int, frame: Any) -> None:
        """Handles SIGINT and SIGTERM."""
        self.asked = True

    def next(self) -> Row | None:
        """The first row that is not done and whose start and teacher are.

        The list is read anew, so that rows may be added while it is worked off.
        """
        tiers, records = self.arguments.tier, self.arguments.records
        listed = read(self.arguments.list)
        rows = [row for row in listed if row.tier in tiers and row.name not in self.failed]
        done = {row.name for row in listed if finished(row, records)}
        return next((row for row in rows if row.name not in done and done.issuperset(row.needs)), None)

    def run(self) -> int:
        """Work the list off; how many rows have failed."""
        for folder in sorted(self.arguments.runs.glob("*/")):
            end_orphan(folder)
        while not self.asked and (row := self.next()) is not None:
            folder = self.arguments.runs / row.name
            folder.mkdir(parents=True, exist_ok=True)
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {row.name}", flush=True)
            if self.train(row, folder) != 0 and not self.asked:
                print(f"{row.name} failed: see {folder / 'log.txt'}", flush=True)
                self.failed.add(row.name)
        return len(self.failed)

    def train(self, row: Row, folder: Path) -> int:
        """Train `row` until it or its leg ends, halted while there is a pause file; the exit status."""
        wanted = self.arguments
        command = [sys.executable, "-m", "bench.study.row", row.name]
        for name in ("data", "runs", "records", "list", "threads", "leg"):
            if getattr(wanted, name) is not None:
                command += [f"--{name}", str(getattr(wanted, name))]
        environment = {**os.environ, "OMP_NUM_THREADS": str(wanted.threads)}
        with (folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        halted, told = False, False
        while self.process.poll() is None:
            paused = (wanted.runs / PAUSE).exists() and not self.asked
            if paused != halted:
                self.send(signal.SIGSTOP if paused else signal.SIGCONT)
                halted = paused
            if self.asked and not told:
                self.process.send_signal(signal.SIGTERM)
                told = True
            time.sleep(LOOK)
        return self.process.returncode

    def send(self, number: int) -> None:
        """A signal to the row and its helpers."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the images")
    parser.add_argument("--runs", type=Path, required=True, help="where checkpoints and packed files are kept")
    parser.add_argument("--records", type=Path, default=RECORDS, help="where a record per row goes")
    parser.add_argument("--list", type=Path, default=LIST, help="the list; default: bench/study.toml")
    parser.add_argument("--threads", type=int, default=cores(), help="of each training, part of its bits")
    parser.add_argument("--tier", nargs="+", default=["A"], help="which tiers of the list; default: A")
    parser.add_argument("--leg", type=float, default=90, help="minutes after which a row writes down where it stands")
    arguments = parser.parse_args()
    for name in ("data", "runs", "records", "list"):  # rows run in the folder of this code
        if getattr(arguments, name) is not None:
            setattr(arguments, name, getattr(arguments, name).resolve())
    os.nice(19)
    queue = Queue(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, queue.stop)
    try:
        with lock(arguments.runs / "lock"):
            failed = queue.run()
    except BbgError as e:
        raise SystemExit(f"bench.study: {e}") from None
    sys.exit(1 if failed else 0)
