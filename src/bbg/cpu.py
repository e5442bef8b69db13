"""The processor cores that this process may use: affinity, sibling threads, and the quota of its cgroup."""

from __future__ import annotations

import os
import platform
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def most_threads() -> int:
    """The threads that one may ask for: four for each processor that this process may use, siblings included.

    More of them would only wait for each other: of 1,024 threads on two cores a call took 20,000 times as long.
    """
    usable = _usable()
    return 4 * max(1, min(len(usable), quota() or len(usable)))


def cores() -> int:
    """Physical cores that this process may use: its affinity, without sibling threads, within the cgroup's quota."""
    allowed = _usable()
    topology = Path("/sys/devices/system/cpu")
    physical = {_read(topology / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in allowed}
    return max(1, min(len(physical), quota() or len(physical)))


def quota(mount: Path = CGROUPS, membership: Path = Path("/proc/self/cgroup")) -> int | None:
    """Cores that the cgroups of this process grant, rounded up; None where they grant any number.

    A line of `membership` is `id:controllers:path`. Version 2 has one line without controllers, and a file "cpu.max"
    (`quota period`, or `max period`) in the cgroup of that path and in each above it. Version 1 has a line whose
    controllers include "cpu", and files "cpu.cfs_quota_us" (-1: any) and "cpu.cfs_period_us" below a folder that is
    named by the controllers. Where both are mounted, version 2 is in the folder "unified". In a container the cgroup of
    the process may be the mount itself.
    """
    granted = []
    for line in ["0::/", "1:cpu:/", *_read(membership).splitlines()]:
        controllers, _, path = line.partition(":")[2].partition(":")
        names = controllers.split(",")
        if controllers and "cpu" not in names:
            continue
        roots = ["", "unified"] if not controllers else ["cpu", controllers, ",".join(reversed(names)), "cpu,cpuacct"]
        for place in {mount / root / folder for root in roots for folder in _upwards(path)}:
            if controllers:
                share, period = _read(place / "cpu.cfs_quota_us"), _read(place / "cpu.cfs_period_us")
            else:
                share, _, period = _read(place / "cpu.max").partition(" ")
            if share.isdigit() and period.isdigit() and int(period):
                granted.append(-(-int(share) // int(period)))
    return max(1, min(granted)) if granted else None


def _usable() -> set[int]:
    """The numbers of the processors that this process may use by its affinity, where the system has one."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def name_of_cpu() -> str:
    """What the processor calls itself, or the architecture where it does not say."""
    lines = [line.partition(":") for line in _read(Path("/proc/cpuinfo")).splitlines()]
    named = [value.strip() for key, _, value in lines if key.strip() == "model name"]
    return named[0] if named else platform.machine()


def _upwards(path: str) -> list[str]:
    """`/a/b` as "a/b", "a" and ""."""
    names = [name for name in path.split("/") if name not in ("", "..")]
    return ["/".join(names[:count]) for count in range(len(names), -1, -1)]


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
