"""The cores of a process: quotas of both versions of cgroups, in a tree of files made for the test."""

from __future__ import annotations

from pathlib import Path

import pytest

from bbg.cpu import cores, most_threads, quota
from bbg.engine import load
from bbg.errors import BbgError

CASES = {  # the lines of /proc/self/cgroup, the files below /sys/fs/cgroup, the cores
    "no cgroups": ("", {}, None),
    "version 2, any": ("0::/\n", {"cpu.max": "max 100000"}, None),
    "version 2, two and a half": ("0::/\n", {"cpu.max": "250000 100000"}, 3),
    "version 2, less than one": ("0::/\n", {"cpu.max": "10000 100000"}, 1),
    "version 2, a cgroup below another": (
        "0::/jobs/a\n",
        {"cpu.max": "max 100000", "jobs/cpu.max": "200000 100000", "jobs/a/cpu.max": "800000 100000"},
        2,
    ),
    "version 2, a path outside the mount": ("0::/../outside\n", {"cpu.max": "400000 100000"}, 4),
    "version 1, any": (
        "3:cpu,cpuacct:/\n",
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        None,
    ),
    "version 1, three": (
        "3:cpu,cpuacct:/docker/abc\n",
        {"cpu/docker/abc/cpu.cfs_quota_us": "300000", "cpu/docker/abc/cpu.cfs_period_us": "100000"},
        3,
    ),
    "version 1, in a container": (
        "3:cpu,cpuacct:/docker/abc\n",
        {"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000"},
        2,
    ),
    "version 1, a group below a smaller one": (
        "3:cpu,cpuacct:/pod/abc\n",
        {
            "cpu/pod/abc/cpu.cfs_quota_us": "800000",
            "cpu/pod/abc/cpu.cfs_period_us": "100000",
            "cpu/pod/cpu.cfs_quota_us": "200000",
            "cpu/pod/cpu.cfs_period_us": "100000",
        },
        2,
    ),
    "version 1, mounted without the short name": (
        "4:cpu,cpuacct:/a\n",
        {"cpu,cpuacct/a/cpu.cfs_quota_us": "300000", "cpu,cpuacct/a/cpu.cfs_period_us": "100000"},
        3,
    ),
    "version 1, the other way round, in a container": (
        "4:cpuacct,cpu:/docker/abc\n",
        {"cpuacct,cpu/cpu.cfs_quota_us": "50000", "cpuacct,cpu/cpu.cfs_period_us": "100000"},
        1,
    ),
    "both, the quota in version 2": (
        "4:memory:/\n0::/a\n",
        {"unified/a/cpu.max": "400000 100000", "memory/a/cpu.max": "100000 100000"},
        4,
    ),
    "both, the quota in version 1": (
        "5:cpu,cpuacct:/a\n0::/a\n",
        {"unified/a/cpu.max": "max 100000", "cpu/a/cpu.cfs_quota_us": "200000", "cpu/a/cpu.cfs_period_us": "100000"},
        2,
    ),
    "a name with a colon": ("0::/a:b\n", {"a:b/cpu.max": "300000 100000"}, 3),
    "another controller's files": ("4:memory:/\n", {"memory/cpu.cfs_quota_us": "1", "cpu.weight": "100"}, None),
    "a file of something else": ("0::/\n", {"cpu.max": "many 100000"}, None),
    "a period of zero": ("0::/\n", {"cpu.max": "100000 0"}, None),
}


@pytest.mark.parametrize("case", CASES)
def test_the_quota_of_a_cgroup(case: str, tmp_path: Path) -> None:
    lines, files, expected = CASES[case]
    (tmp_path / "self").write_text(lines)
    for name, text in files.items():
        path = tmp_path / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert quota(tmp_path / "mount", tmp_path / "self") == expected


@pytest.mark.parametrize(("granted", "used"), [(1, 1), (10**6, None), (None, None)])
def test_no_more_cores_than_granted(granted: int | None, used: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bbg.cpu.quota", lambda: None)
    all_of_them = cores()
    monkeypatch.setattr("bbg.cpu.quota", lambda: granted)
    assert cores() == (used or all_of_them)


def test_there_is_at_least_one_core() -> None:
    assert cores() >= 1


@pytest.mark.parametrize(("granted", "most"), [(None, 12), (2, 8), (1, 4), (9, 12)])
def test_four_threads_for_each_processor_and_no_more(
    granted: int | None, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bbg.cpu._usable", lambda: {0, 1, 5})
    monkeypatch.setattr("bbg.cpu.quota", lambda: granted)
    assert most_threads() == most
    engine = load("resnet20-cifar10", threads=most)
    assert engine.threads == most
    with pytest.raises(BbgError, match=f"threads is {most + 1}, it must be None or an integer from 1 to {most}, four"):
        load("resnet20-cifar10", threads=most + 1)
