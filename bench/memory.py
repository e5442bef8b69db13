"""The memory of a process and of all that come from it, looked at while they work."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

EVERY = 1.0  # seconds between two looks


def descendants(parent: int) -> list[int]:
    """The process and all that come from it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = [parent]
    for one in found:
        found += [child for child, above in parents.items() if above == one]
    return found


def memory(parent: int) -> int:
    """Bytes that the process and all that come from it have in memory; of a page that several share, a part each."""
    total = 0
    for one in descendants(parent):
        with suppress(OSError, IndexError, ValueError):
            text = Path(f"/proc/{one}/smaps_rollup").read_text()
            total += 1024 * int(text.partition("\nPss:")[2].split()[0])
    return total


def watched(*words: object) -> int:
    """Run Python with these words in a process of its own; the most memory that was seen.

    Raises RuntimeError with the last line of its errors where it fails.
    """
    most = 0
    with tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, *map(str, words)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, text=True) as process:
            while process.poll() is None:
                most = max(most, memory(process.pid))
                time.sleep(EVERY)
        errors.seek(0)
        said = errors.read().strip().splitlines()
    if process.returncode:
        raise RuntimeError(said[-1].removeprefix("RuntimeError: ") if said else f"it ended with {process.returncode}")
    return most
