"""Containers of a network behind `binarize`: `binary.layer1[0]` and `len(binary.blocks)` go on as before.

A traced module keeps the modules that it calls under their names, in plain modules. Those that were a container take
positions and keys again: the old ones, so that they agree with the names of the report and of the state dict.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import nn

from bbg.errors import BbgError

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class Indexed(nn.Module):
    """Modules by position, or by key; `names` are those of the given container, in its order."""

    names: tuple[str, ...] | None = None  # None: it was no container

    def _names(self) -> tuple[str, ...]:
        if self.names is None:
            raise TypeError(f"{type(self).__name__!r} was made of a network that is no container of modules")
        return self.names

    def __len__(self) -> int:
        return len(self._names())

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        """The modules that are still there."""
        return iter([self._modules[name] for name in self._names() if name in self._modules])

    def __getitem__(self, key: int | str | slice) -> Any:
        """The module at a position or of a key; a list for a slice. BbgError for one that `binarize` took away."""
        if isinstance(key, slice):
            return [self._modules[name] for name in self._names()[key] if name in self._modules]
        return self._modules[self._name(key)]

    def __setitem__(self, key: int | str, module: nn.Module) -> None:
        """Put `module` in the place of the one at a position or of a key."""
        setattr(self, self._name(key), module)

    def _name(self, key: int | str) -> str:
        names = self._names()
        if not isinstance(key, str):
            name = names[key]  # raises IndexError
        elif key in names:
            name = key
        else:
            raise KeyError(key)
        if name not in self._modules:
            raise BbgError(f"module {name!r} is no more: it went inside another, or is not called; see the report")
        return name


class Keyed(Indexed):
    """Modules by key, as those of a ModuleDict."""

    def __iter__(self) -> Iterator[Any]:
        """The keys of the modules that are still there."""
        return iter([name for name in self._names() if name in self._modules])

    def __contains__(self, key: object) -> bool:
        return key in list(self)

    def keys(self) -> list[str]:
        """The keys of the modules that are still there."""
        return list(self)

    def values(self) -> list[Any]:
        """The modules that are still there."""
        return [self._modules[name] for name in self]

    def items(self) -> list[tuple[str, Any]]:
        """The modules that are still there, with their keys."""
        return [(name, self._modules[name]) for name in self]


class Container(NamedTuple):
    """What a container of the given network holds: the names of its modules, and whether these are keys."""

    names: tuple[str, ...]
    keyed: bool


def containers_of(model: nn.Module) -> dict[str, Container]:
    """The containers of `model`, by their qualified names."""
    return {
        name: Container(tuple(module._modules), isinstance(module, nn.ModuleDict))
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, CONTAINERS)
    }


def restore(result: Indexed, containers: dict[str, Container]) -> None:
    """Give the plain modules of `result` that were containers their positions."""
    for name, container in containers.items():
        try:
            module = result.get_submodule(name)
        except AttributeError:  # nothing of it is called
            continue
        if type(module) is nn.Module:
            module.__class__ = Keyed if container.keyed else Indexed
        if isinstance(module, Indexed):
            module.names = container.names
