"""What changes the numbers of a network and stands in no forward: hooks, and forwards that were put onto an instance.

A trace does not see them, and a copy may lose them. So a network that has any is refused, rather than converted or
binarized to one that computes something else. Wrappers are refused by name: what they wrap is meant.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.optim.swa_utils import AveragedModel

from bbg.errors import BbgError

_WEIGHTS = "torch.nn.utils."  # hooks of weight_norm and spectral_norm make the weight that the layer then has

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


def refuse_unseen(model: nn.Module) -> None:
    """Raise BbgError, which names the module, where a call of the network does more than its forwards say."""
    kind = type(model).__name__
    if isinstance(model, _WRAPPERS):
        raise BbgError(f"the network is wrapped in {kind}; give what it wraps, model.module")
    if kind == "OptimizedModule":  # what torch.compile returns
        raise BbgError("the network is the result of torch.compile; give the module that was compiled")
    for name, module in model.named_modules(remove_duplicate=False):
        where = f"{name or 'the network'} ({type(module).__name__})"
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
        if "forward" in vars(module):
            raise BbgError(
                f"{where}: its forward was replaced on the instance, which is no part of the file; give the module "
                "before that, or write it as a class"
            )
