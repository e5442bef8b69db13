"""What changes the numbers of a network and stands in no forward: hooks, and forwards put onto an instance or around.

A trace does not see them, and a copy may lose them. So a network that has any is refused, rather than converted or
binarized to one that computes something else. Wrappers are refused by name: what they wrap is meant.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import torch
from torch import fx, nn
from torch.nn.modules import module as torch_module
from torch.nn.modules.lazy import LazyModuleMixin
from torch.optim.swa_utils import AveragedModel

from bbg.errors import BbgError

_WEIGHTS = "torch.nn.utils."  # hooks of weight_norm and spectral_norm make the weight that the layer then has

_CALLS = ("__call__", "_call_impl", "_wrapped_call_impl")  # what torch calls around each forward
_OF_ALL_MODULES = ("_global_forward_pre_hooks", "_global_forward_hooks")

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


def _averages(module: nn.Module) -> bool:
    """Whether it is a moving average of the network that it holds as `module`, as libraries have them (ModelEmaV3).

    Its forward hands on whatever it gets, or it has none, so that it cannot be traced.
    """
    if "ema" not in type(module).__name__.lower() or not isinstance(getattr(module, "module", None), nn.Module):
        return False
    takes = inspect.signature(type(module).forward).parameters.values()
    return any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in takes)


def refuse_unseen(model: nn.Module) -> None:
    """Raise BbgError, which names the module, where a call of the network does more than its forwards say, and for
    what is no network.
    """
    if not isinstance(model, nn.Module):
        weights = ", with these weights loaded into it (load_state_dict)" if isinstance(model, Mapping) else ""
        raise BbgError(f"the model is a {type(model).__name__}; give the torch.nn.Module itself{weights}")
    if any(getattr(torch_module, hooks, None) for hooks in _OF_ALL_MODULES):
        raise BbgError("a forward hook is registered for all modules, and is no part of the file; remove it")
    for name, module in model.named_modules(remove_duplicate=False):
        kind = type(module).__name__
        if isinstance(module, _WRAPPERS) or _averages(module):
            place = f"model.{name}.module" if name else "model.module"
            raise BbgError(f"{name or 'the network'} is wrapped in {kind}; give what it wraps, {place}")
        if kind == "OptimizedModule":  # what torch.compile returns
            raise BbgError(f"{name or 'the network'} is the result of torch.compile; give the module that was compiled")
        where = f"{name or 'the network'} ({kind})"
        if isinstance(module, torch.jit.ScriptModule):
            raise BbgError(
                f"{where}: it is scripted, so what it does cannot be seen; give the module that was scripted"
            )
        hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
        lazy = isinstance(module, LazyModuleMixin)  # its hook makes its parameters at the first call
        if not lazy and any(not type(hook).__module__.startswith(_WEIGHTS) for hook in hooks):
            raise BbgError(
                f"{where}: it has a forward hook, which is no part of the file; remove it (handle.remove()), or write "
                "what it does into the forward"
            )
        if "forward" in vars(module) and not _chooses_its_forward(module):
            raise BbgError(
                f"{where}: its forward was replaced on the instance, which is no part of the file; give the module "
                "before that, or write it as a class"
            )
        if not isinstance(module, fx.GraphModule) and any(_redefines(module, call) for call in _CALLS):
            raise BbgError(
                f"{where}: what is called around its forward is its own ({', '.join(_CALLS[:2])}), and no part of the "
                "file; write it into the forward"
            )


def _chooses_its_forward(module: nn.Module) -> bool:
    """Whether its forward is another method of its own, as a constructor that decides between two sets it.

    Not so a layer that keeps a forward of torch's: it is known by its type, and would be taken for what that computes.
    """
    forward, kind = vars(module)["forward"], type(module)
    own = inspect.ismethod(forward) and forward.__self__ is module
    followed = (nn.Module.forward, nn.Sequential.forward)  # these say nothing of what the type computes
    of_torch = str(kind.forward.__module__).startswith("torch.") and kind.forward not in followed
    return own and forward.__func__ is getattr(kind, forward.__name__, None) and not of_torch


def _redefines(module: nn.Module, name: str) -> bool:
    """Whether the method is not one of torch's own (a ParameterList has a `__call__` that refuses to be called)."""
    of_torch = getattr(getattr(type(module), name, None), "__module__", "").startswith("torch.")
    return name in vars(module) or not of_torch
