"""Several processes that train one network together: who takes part, and what they tell each other.

Each has the whole network and takes its part of every batch. What a step needs of all of them are sums: of gradients,
of figures, of statistics. One process alone is a group of one, to which every sum is what it has itself.

Who started them says so in the environment, by the names of torchrun, whose job this may be as well as that of
`bbg train --processes` (`bbg.training.launch`).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from bbg.errors import BbgError
from bbg.log import hush

T = TypeVar("T")

c10d: Any = dist  # whose stores have no types

# All of them are set by torchrun; a part of them may be left over from somewhere else, and says nothing.
NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
ATTEMPT = "TORCHELASTIC_RESTART_COUNT"
LAUNCHER = "BBG_LAUNCHER"  # the process that started this one, where that was `bbg train --processes`
LOST = 75  # the exit status of a process whose others are gone
PATIENCE = timedelta(minutes=30)  # of a process that waits for the others: one of them may convert the network


class LostError(Exception):
    """Another process is gone, so nothing can be told to it."""


@dataclass(frozen=True)
class Processes:
    """The processes of a training, of which this is number `rank` of `count`.

    `local_rank` and `local_count` are the same among those of this machine.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1
    attempt: int = 0
    store: Any = field(default=None, repr=False)  # a table that lasts from one attempt to the next

    @property
    def alone(self) -> bool:
        """Whether there is no other one."""
        return self.count == 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    # What they tell each other: all of them call the same in the same order. -----------------------------------------

    def add(self, tensor: Tensor) -> Tensor:
        """The sum of `tensor` over all processes, in its place: the same bits in each of them."""
        return self._reduce(tensor, dist.ReduceOp.SUM)

    def least(self, tensor: Tensor) -> Tensor:
        """The smallest of each number of `tensor`, in its place."""
        return self._reduce(tensor, dist.ReduceOp.MIN)

    def total(self, *values: float | Tensor) -> list[float]:
        """The sums of these numbers, exact for integers up to 2^53."""
        numbers = [float(value) for value in values]
        return numbers if self.alone else self.add(torch.tensor(numbers, dtype=torch.float64)).tolist()

    def any(self, flag: bool) -> bool:
        """Whether one of them says so."""
        return flag if self.alone else self.total(flag)[0] > 0

    def part(self, mean: Tensor, images: int) -> Tensor:
        """What the mean over `images`, those of this process, adds to the mean over the images of all of them."""
        return mean if self.alone else mean * (images / self.total(images)[0])

    def gather(self, thing: T) -> list[T]:
        """What each of them has, by rank."""
        if self.alone:
            return [thing]
        found: list[Any] = [None] * self.count
        with _told():
            dist.all_gather_object(found, thing)
        return found

    def decided(self, decide: Callable[[], T]) -> T:
        """What the first of them decides; the others do not ask themselves."""
        if self.alone:
            return decide()
        found: list[Any] = [decide() if self.first else None]
        with _told():
            dist.broadcast_object_list(found, device=torch.device("cpu"))
        decision: T = found[0]
        return decision

    def share(self, tensors: list[Tensor]) -> None:
        """Give all of them the numbers that the first one has."""
        if not self.alone:
            for tensor in tensors:
                whole = tensor.detach().contiguous()
                with _told():
                    dist.broadcast(whole, 0)
                tensor.detach().copy_(whole)

    def wait(self) -> None:
        """Until all of them are here."""
        self.total(0)

    def _reduce(self, tensor: Tensor, how: Any) -> Tensor:
        if not self.alone:
            with _told():
                dist.all_reduce(tensor, how)
        return tensor

    # What lasts from one attempt to the next. -------------------------------------------------------------------------

    def begin(self, folder: Path | None) -> None:
        """Note that the run in `folder` has begun: who starts again goes on with it."""
        if self.store is not None and self.first and folder is not None:
            self.store.set("bbg/began", os.fsencode(folder))

    def begun(self) -> Path | None:
        """The folder of the run that an earlier attempt has begun, None for none."""
        if self.store is None or not self.store.check(["bbg/began"]):
            return None
        return Path(os.fsdecode(self.store.get("bbg/began")))

    def tells(self) -> bool:
        """Whether this process says why the attempt ends: the one that comes first."""
        if self.store is None:
            return True
        with suppress(RuntimeError):
            return bool(self.store.add(f"bbg/told/{self.attempt}", 1) == 1)
        return self.first


ALONE = Processes()


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise LostError("another process is gone") from error


def started() -> bool:
    """Whether this process was started as one of several."""
    return all(name in os.environ for name in (*NEEDED, ATTEMPT))


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes that this one was started with, for the block; it alone where it was started alone.

    Only the first one speaks. One of them says why all of them end; those that lose the others end in silence. Raises
    BbgError where the others cannot be reached.
    """
    if not started():
        yield ALONE
        return
    group = _join()
    if not group.first:
        hush()
    try:
        yield group
        group.wait()
    except LostError:
        os._exit(LOST)  # the libraries would wait for the others
    except BaseException as error:
        if group.tells():
            raise
        raise SystemExit(_status(error)) from None
    finally:
        dist.destroy_process_group()


def _join() -> Processes:
    rank, count, local_rank, local_count = (int(os.environ[name]) for name in NEEDED[:4])
    if LAUNCHER in os.environ:
        threading.Thread(target=_end_with, args=(int(os.environ[LAUNCHER]),), daemon=True).start()
    host, port, attempt = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), int(os.environ[ATTEMPT])
    serves = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        store = c10d.TCPStore(host, port, None, serves, PATIENCE, wait_for_workers=False)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        ours = c10d.PrefixStore(f"bbg/attempt/{attempt}", store)
        dist.init_process_group(backend, store=ours, rank=rank, world_size=count, timeout=PATIENCE)
    except RuntimeError as e:
        raise BbgError(
            f"process {rank} of {count} does not reach the others by {host}:{port}; start all of them, with the "
            "address of the first machine"
        ) from e
    return Processes(rank, count, local_rank, local_count, attempt, store)


def _status(error: BaseException) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    return 2 if isinstance(error, BbgError) else 130 if isinstance(error, KeyboardInterrupt) else 1


def _end_with(launcher: int) -> None:
    """End this process where the one that started it is gone: nobody would end it later."""
    while os.getppid() == launcher:
        time.sleep(1)
    os._exit(LOST)
