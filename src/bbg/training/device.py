"""The device that a training or an evaluation runs on: one for each process, chosen by its name."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment

from bbg.environment import hidden
from bbg.errors import BbgError, allowed
from bbg.log import LOGGER
from bbg.training.processes import ALONE, Processes

ALLOWED = ("cpu", "cuda", "cuda:N", "mps")


def choose_device(name: str | None = None, processes: Processes = ALONE) -> torch.device:
    """The device called `name`; None: a GPU where torch sees one, else the CPU. BbgError for one that is not there.

    Of several processes on a machine each takes the GPU of its own number.
    """
    device = _found(name)
    if not processes.alone and device.type != "cpu":
        check_kind(device, name, processes.local_count)
        device = torch.device("cuda", processes.local_rank)
        torch.cuda.set_device(device)
    return device


def check_kind(device: torch.device, name: str | None, processes: int) -> None:
    """Raise BbgError where so many processes of a machine cannot train on such devices; `name`: as it was asked for."""
    if device.type == "mps":
        raise BbgError("device 'mps': there is one only, and several processes take one each; give --device cpu")
    if device.type == "cuda" and name not in (None, "cuda"):
        raise BbgError(f"device {name!r}: several processes take a GPU each, by their numbers; give --device cuda")
    if device.type == "cuda" and processes > (there := torch.cuda.device_count()):
        raise BbgError(f"{processes} processes take a GPU each, torch sees {there}; give --processes {there}, or cpu")


def _found(name: str | None) -> torch.device:
    """The device of a process alone."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise BbgError(f"unknown device {name!r}; {allowed(name, ALLOWED)}") from e
    if device.type not in ("cpu", "cuda", "mps"):
        raise BbgError(f"unknown device {name!r}; {allowed(name, ALLOWED)}")
    if device.type == "cuda":
        there = torch.cuda.device_count()
        if not there:
            why = "" if torch.version.cuda else ": it is built for CPUs"
            raise BbgError(f"device {name!r}: torch {torch.__version__} sees no CUDA device here{why}; give cpu")
        if (device.index or 0) >= there:
            raise BbgError(f"device {name!r}: torch sees {there} CUDA devices; give cuda:0 to cuda:{there - 1}")
        return torch.device("cuda", device.index or 0)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise BbgError(f"device {name!r}: torch {torch.__version__} sees no such device here; give cpu")
    if device.index:
        raise BbgError(f"device {name!r}: there is one only; give {device.type}")
    return torch.device(device.type)


def described(device: torch.device) -> str:
    """The device as a record names it: `cpu`, or `cuda:0, NVIDIA H200`."""
    return str(device) if device.type != "cuda" else f"{device}, {torch.cuda.get_device_name(device)}"


def warn_of_slow_bf16(device: torch.device) -> None:
    """Say so where bf16 is computed without instructions for it: several times as slowly as float32."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    if device.type == "cpu" and supported is not None and not supported():
        LOGGER.warning(
            "this CPU has no instructions for bf16, so the training is many times slower than in float32; give the "
            'recipe precision = "fp32" (on the command line: --set precision=fp32)'
        )


def fabric_on(device: torch.device) -> Fabric:
    """Fabric on this one device, launched. A process of its own, also inside the job of a cluster."""
    devices = [device.index] if device.type == "cuda" else 1
    with hidden("LT_"):  # what `fabric run` sets would win over these arguments
        fabric = Fabric(accelerator=device.type, devices=devices, plugins=[LightningEnvironment()])
        fabric.launch()
    return fabric
