"""Which packages are installed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution


def installed(*names: str) -> bool:
    """Whether all distributions are, by their names in the index.

    No module is looked for: to look for pip's tells setuptools to leave the standard library's distutils in place, and
    then torch.compile, which imports setuptools, fails.
    """
    try:
        return all(distribution(name) for name in names)
    except PackageNotFoundError:
        return False
