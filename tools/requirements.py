"""The packages that an extra of pyproject.toml names, a line each, as pip reads them.

    python tools/requirements.py dev build              # as pyproject.toml admits them
    python tools/requirements.py --oldest train         # the lowest admitted version of each, the package's own too

Only the standard library is used: this runs before anything is installed.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def requirements(extras: list[str]) -> list[str]:
    """What the extras name, in the order of pyproject.toml."""
    known = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    unknown = set(extras) - set(known)
    if unknown:
        raise SystemExit(f"no extra {', '.join(sorted(unknown))}; pyproject.toml has {', '.join(known)}")
    return [line for extra in extras for line in known[extra]]


def oldest(requirement: str) -> str:
    """`numpy==1.26` for `numpy>=1.26`; what is pinned stays as it is.

    Raises ValueError for a requirement without a lowest version.
    """
    if re.fullmatch(r"[\w.-]+==[\w.]+", requirement):
        return requirement
    found = re.fullmatch(r"([\w.-]+)>=([\w.]+)", requirement)
    if found is None:
        raise ValueError(f"{requirement!r} has no lowest version; write it as name>=version or name==version")
    return "==".join(found.groups())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extras", nargs="+")
    parser.add_argument("--oldest", action="store_true")
    arguments = parser.parse_args()
    lines = requirements(arguments.extras)
    if arguments.oldest:
        own = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["dependencies"]
        lines = [oldest(line) for line in own + lines]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
