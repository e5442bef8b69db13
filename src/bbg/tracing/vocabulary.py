"""Torch's operations: one row each, with all its spellings and what is true of it.

    op = op_of(node, modules)      # the row of what a node of a graph calls; None: it is not known
    op.name                        # "relu", for nn.ReLU, F.relu, torch.relu, x.relu() and x.relu_()
    Trait.MOVES in op              # what is true of it

Binarization and conversion read the same rows: to teach both an operation, add one. An operation without a row is not
known. Conversion refuses it; binarization says in its report what it assumes of it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Flag, auto
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from bbg.layers import BinaryConv2d, BinaryLinear, ByteConv2d, ByteLinear, FixedSize, Shortcut
from bbg.methods import Pointwise


class Trait(Flag):
    """What is true of an operation, whatever its further arguments are.

    QUERY        tells a shape, a type or the like; computes no tensor
    MOVES        rearranges the elements of its input, or some of them
    KEEPS_SIGN   gives a negative number only where some number of its input is negative
    POOLS        gives means or maxima of its input
    MAX_POOLS    gives maxima of a window that moves over the map
    PERMUTES     permutes the axes of its input
    ADDS         adds its inputs, or takes the least: not negative where none of them is
    MULTIPLIES   multiplies or divides its inputs
    JOINS        gives the elements of several inputs
    ACTIVATION   works on each element alone; another nonlinearity can stand in its place and be trained
    NONNEGATIVE  gives no negative number
    CLAMPS       gives no number below a bound, which is an argument
    GATE         gives a share between 0 and 1
    SIGNED       gives negative numbers too, whatever the signs of its input are
    LAYER        is a convolution or a linear layer, of any kind
    DROPOUT      gives its input in evaluation mode, and drops some of it in training
    """

    QUERY = auto()
    MOVES = auto()
    KEEPS_SIGN = auto()
    POOLS = auto()
    MAX_POOLS = auto()
    PERMUTES = auto()
    ADDS = auto()
    MULTIPLIES = auto()
    JOINS = auto()
    ACTIVATION = auto()
    NONNEGATIVE = auto()
    CLAMPS = auto()
    GATE = auto()
    SIGNED = auto()
    LAYER = auto()
    DROPOUT = auto()


@dataclass(frozen=True)
class Op:
    """An operation: its canonical name, its traits and its spellings.

    `modules`: types of layers. `functions`: as they stand in a graph. `methods`: names of methods of a tensor.
    `paths`: qualified names of layers and functions of other packages, so that none of these is imported for them.
    """

    name: str
    traits: Trait
    modules: tuple[type[nn.Module], ...] = ()
    functions: tuple[Callable[..., Any], ...] = ()
    methods: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()

    def __contains__(self, trait: Trait) -> bool:
        """Whether it has the trait, or one of several."""
        return bool(self.traits & trait)

    def __call__(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        """What its method, or else its function, gives."""
        function = getattr(Tensor, self.methods[0]) if self.methods else self.functions[0]
        return function(tensor, *args, **kwargs)


def _op(
    name: str,
    traits: Trait,
    *others: str,
    modules: tuple[type[nn.Module], ...] = (),
    operators: tuple[str, ...] = (),
    paths: tuple[str, ...] = (),
) -> Op:
    """A row, spelled by its name and the `others`: as functions of `torch` and `torch.nn.functional` and as methods,
    each in place too, with a "_" behind the name. `operators`: functions of the module `operator`.
    """
    names = [spelled for plain in (name, *others) for spelled in (plain, f"{plain}_")]
    found = [getattr(place, spelled) for place in (torch, F) for spelled in names if hasattr(place, spelled)]
    functions = [function for function in found if callable(function) and not isinstance(function, type)]
    functions += [getattr(operator, spelled) for spelled in operators]
    methods = tuple(spelled for spelled in names if hasattr(Tensor, spelled))
    return Op(name, traits, modules, tuple(dict.fromkeys(functions)), methods, paths)


T = Trait
_MOVE, _POOL = T.MOVES | T.KEEPS_SIGN, T.POOLS | T.KEEPS_SIGN
_RECTIFIER, _GATE = T.ACTIVATION | T.NONNEGATIVE, T.ACTIVATION | T.NONNEGATIVE | T.GATE
_CURVE, _LAYER = T.ACTIVATION | T.KEEPS_SIGN, T.LAYER | T.SIGNED
_BOUNDED = T.CLAMPS | _CURVE
_OFF = T.DROPOUT | T.KEEPS_SIGN
_DEPTH = "torchvision.ops.stochastic_depth"

_ROWS = (
    # queries
    Op("getattr", T.QUERY, functions=(getattr,)),
    _op("size", T.QUERY),
    _op("dim", T.QUERY, "ndimension"),
    _op("numel", T.QUERY, "nelement"),
    _op("is_floating_point", T.QUERY),
    _op("get_device", T.QUERY),
    # what gives its input, in evaluation mode
    _op("identity", T.KEEPS_SIGN, modules=(nn.Identity, FixedSize)),
    _op("clone", T.KEEPS_SIGN),
    _op("detach", T.KEEPS_SIGN),
    _op("to", T.KEEPS_SIGN),
    _op("float", T.KEEPS_SIGN),
    _op("type_as", T.KEEPS_SIGN),
    _op("dropout", _OFF, modules=(nn.Dropout,)),
    _op("dropout1d", _OFF, modules=(nn.Dropout1d,)),
    _op("dropout2d", _OFF, modules=(nn.Dropout2d,)),
    _op("dropout3d", _OFF, modules=(nn.Dropout3d,)),
    _op("alpha_dropout", _OFF, modules=(nn.AlphaDropout,)),
    _op("feature_alpha_dropout", _OFF, modules=(nn.FeatureAlphaDropout,)),
    _op("feature_dropout", _OFF),
    _op("stochastic_depth", _OFF, paths=(f"{_DEPTH}.StochasticDepth", f"{_DEPTH}.stochastic_depth")),
    # what moves elements
    _op("view", _MOVE),
    _op("reshape", _MOVE),
    _op("flatten", _MOVE, modules=(nn.Flatten,)),
    _op("unflatten", _MOVE, modules=(nn.Unflatten,)),
    _op("permute", _MOVE | T.PERMUTES),
    _op("transpose", _MOVE | T.PERMUTES),
    _op("swapaxes", _MOVE | T.PERMUTES, "swapdims"),
    _op("movedim", _MOVE | T.PERMUTES, "moveaxis"),
    _op("contiguous", _MOVE),
    _op("squeeze", _MOVE),
    _op("unsqueeze", _MOVE),
    _op("chunk", _MOVE),
    _op("split", _MOVE),
    _op("narrow", _MOVE),
    _op("select", _MOVE),
    _op("unbind", _MOVE),
    _op("getitem", _MOVE, operators=("getitem",)),
    _op("flip", _MOVE),
    _op("fliplr", _MOVE),
    _op("flipud", _MOVE),
    _op("roll", _MOVE),
    _op("channel_shuffle", _MOVE, modules=(nn.ChannelShuffle,)),
    _op("pixel_shuffle", _MOVE, modules=(nn.PixelShuffle,)),
    _op("pixel_unshuffle", _MOVE, modules=(nn.PixelUnshuffle,)),
    # constants
    _op("zeros_like", T.NONNEGATIVE),
    _op("ones_like", T.NONNEGATIVE),
    # what repeats, resizes or pads
    _op("expand", T.KEEPS_SIGN),
    _op("expand_as", T.KEEPS_SIGN),
    _op("repeat", T.KEEPS_SIGN),
    _op("repeat_interleave", T.KEEPS_SIGN),
    _op("pad", T.KEEPS_SIGN, modules=(nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d)),
    _op("interpolate", T.KEEPS_SIGN, "upsample", modules=(nn.Upsample,)),
    _op("shortcut", T.KEEPS_SIGN, modules=(Shortcut,)),
    # pools
    _op("max_pool1d", _POOL | T.MAX_POOLS, modules=(nn.MaxPool1d,)),
    _op("max_pool2d", _POOL | T.MAX_POOLS, modules=(nn.MaxPool2d,)),
    _op("max_pool3d", _POOL | T.MAX_POOLS, modules=(nn.MaxPool3d,)),
    _op("avg_pool1d", _POOL, modules=(nn.AvgPool1d,)),
    _op("avg_pool2d", _POOL, modules=(nn.AvgPool2d,)),
    _op("avg_pool3d", _POOL, modules=(nn.AvgPool3d,)),
    _op("adaptive_avg_pool1d", _POOL, modules=(nn.AdaptiveAvgPool1d,)),
    _op("adaptive_avg_pool2d", _POOL, modules=(nn.AdaptiveAvgPool2d,)),
    _op("adaptive_avg_pool3d", _POOL, modules=(nn.AdaptiveAvgPool3d,)),
    _op("adaptive_max_pool1d", _POOL, modules=(nn.AdaptiveMaxPool1d,)),
    _op("adaptive_max_pool2d", _POOL, modules=(nn.AdaptiveMaxPool2d,)),
    _op("adaptive_max_pool3d", _POOL, modules=(nn.AdaptiveMaxPool3d,)),
    _op("mean", _POOL),
    _op("amax", _POOL),
    _op("max", _POOL),
    _op("maximum", T.KEEPS_SIGN),
    _op("minimum", T.ADDS),
    # sums, products, joins
    _op("sum", T.KEEPS_SIGN),
    _op("add", T.ADDS, operators=("add", "iadd")),
    _op("sub", T.SIGNED, "subtract", operators=("sub", "isub")),
    _op("rsub", T.SIGNED),
    _op("neg", T.SIGNED, "negative", operators=("neg",)),
    _op("mul", T.MULTIPLIES, "multiply", operators=("mul", "imul")),
    _op("div", T.MULTIPLIES, "divide", "true_divide", operators=("truediv", "itruediv")),
    _op("matmul", T.SIGNED, operators=("matmul",)),
    _op("bmm", T.SIGNED),
    _op("mm", T.SIGNED),
    _op("einsum", T.SIGNED),
    _op("cat", T.JOINS, "concat", "concatenate"),
    _op("stack", T.JOINS),
    # activations
    _op("relu", _RECTIFIER, modules=(nn.ReLU,)),
    _op("relu6", _RECTIFIER, modules=(nn.ReLU6,)),
    _op("softplus", _RECTIFIER, modules=(nn.Softplus,)),
    _op("sigmoid", _GATE, modules=(nn.Sigmoid,)),
    _op("hardsigmoid", _GATE, modules=(nn.Hardsigmoid,)),
    _op("clamp", _BOUNDED, "clip"),
    _op("clamp_min", _BOUNDED),
    _op("hardtanh", _BOUNDED, modules=(nn.Hardtanh,)),
    _op("hinge", T.ACTIVATION | T.CLAMPS | T.SIGNED, modules=(Pointwise,)),
    _op("leaky_relu", _CURVE, modules=(nn.LeakyReLU,)),
    _op("prelu", _CURVE, modules=(nn.PReLU,)),
    _op("rrelu", _CURVE, modules=(nn.RReLU,)),
    _op("elu", _CURVE, modules=(nn.ELU,)),
    _op("celu", _CURVE, modules=(nn.CELU,)),
    _op("selu", _CURVE, modules=(nn.SELU,)),
    _op("silu", _CURVE, modules=(nn.SiLU,)),
    _op("mish", _CURVE, modules=(nn.Mish,)),
    _op("gelu", _CURVE, modules=(nn.GELU,)),
    _op("hardswish", _CURVE, modules=(nn.Hardswish,)),
    _op("tanh", _CURVE, modules=(nn.Tanh,)),
    _op("softsign", _CURVE, modules=(nn.Softsign,)),
    _op("softshrink", _CURVE, modules=(nn.Softshrink,)),
    # layers
    _op("conv1d", _LAYER, modules=(nn.Conv1d,)),
    _op("conv2d", _LAYER, modules=(nn.Conv2d,)),
    _op("conv3d", _LAYER, modules=(nn.Conv3d,)),
    _op("conv_transpose1d", _LAYER, modules=(nn.ConvTranspose1d,)),
    _op("conv_transpose2d", _LAYER, modules=(nn.ConvTranspose2d,)),
    _op("conv_transpose3d", _LAYER, modules=(nn.ConvTranspose3d,)),
    _op("linear", _LAYER, modules=(nn.Linear,)),
    Op("binary_conv", _LAYER, modules=(BinaryConv2d,)),
    Op("binary_linear", _LAYER, modules=(BinaryLinear,)),
    Op("byte_conv", _LAYER, modules=(ByteConv2d,)),
    Op("byte_linear", _LAYER, modules=(ByteLinear,)),
    _op("scaled_dot_product_attention", T.SIGNED),
    _op("multihead_attention", T.SIGNED, modules=(nn.MultiheadAttention,)),
    # norms
    _op("batch_norm", T.SIGNED, modules=(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)),
    _op("layer_norm", T.SIGNED, modules=(nn.LayerNorm,)),
    _op("rms_norm", T.KEEPS_SIGN, modules=(nn.RMSNorm,)),
    _op("group_norm", T.SIGNED, modules=(nn.GroupNorm,)),
    _op("instance_norm", T.SIGNED, modules=(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)),
    _op("local_response_norm", T.KEEPS_SIGN, modules=(nn.LocalResponseNorm,)),
    # never negative, but no activation
    _op("abs", T.NONNEGATIVE, "absolute", operators=("abs",)),
    _op("square", T.NONNEGATIVE),
    _op("exp", T.NONNEGATIVE),
    _op("sqrt", T.NONNEGATIVE),
    _op("rsqrt", T.NONNEGATIVE),
    _op("reciprocal", T.KEEPS_SIGN),
    _op("softmax", T.NONNEGATIVE, modules=(nn.Softmax, nn.Softmax2d)),
    _op("norm", T.NONNEGATIVE),
    _op("var", T.NONNEGATIVE),
    _op("std", T.NONNEGATIVE),
)  # fmt: skip

OPS = {op.name: op for op in _ROWS}
_MODULES = {module: op for op in _ROWS for module in op.modules}
_FUNCTIONS = {function: op for op in _ROWS for function in op.functions}
_METHODS = {method: op for op in _ROWS for method in op.methods}
_PATHS = {path: op for op in _ROWS for path in op.paths}


def ops_with(trait: Trait) -> Iterator[Op]:
    """The rows that have a trait."""
    return (op for op in OPS.values() if trait in op)


def keeps_forward(kind: type[nn.Module], base: type[nn.Module]) -> bool:
    """Whether a type of layer computes what its `base` does: it has the methods that the base computes with."""
    names = ("forward", "_conv_forward", "__call__")
    return all(getattr(kind, name, None) is getattr(base, name, None) for name in names)


def op_of_module(module: nn.Module) -> Op | None:
    """The row of a module's type, or of a base whose forward it keeps."""
    kind = type(module)
    for base in kind.__mro__:
        if base in _MODULES and keeps_forward(kind, base):
            return _MODULES[base]
    return _PATHS.get(_path(kind))


def op_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> Op | None:
    """The row of what a node calls; `modules` are those of the network, by qualified name."""
    if node.op == "call_module":
        return op_of_module(modules[str(node.target)])
    if node.op == "call_method":
        return _METHODS.get(str(node.target))
    if node.op == "call_function" and callable(node.target):
        return _FUNCTIONS.get(node.target) or _PATHS.get(_path(node.target))
    return None


def _path(target: Any) -> str:
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', '')}"
