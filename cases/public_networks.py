"""A sample of public networks, drawn by a rule and not by hand: every third name of four collections.

    names()                    # "timm/resnet18", ...: in an order that mixes families, so that a part of it is a sample
    build("timm/resnet18")     # with random weights

The rule. Of timm: the convolutional families, which are the modules of `CONVOLUTIONAL`. Of pytorchcv: networks for
images; names that differ only in the data set count once. Of torchvision: all that classify, but for transformers. Each
in the order of the alphabet, of which the first of three is taken. And all segmentation networks of torchvision, and
all decoders of segmentation_models_pytorch on a ResNet-18. What mixes attention between positions with convolutions is
no member of a family; members that have it nevertheless are named in `ATTENTION` and counted apart.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
from importlib import import_module

from torch import nn

# Modules of timm.models whose networks are made of convolutions.
CONVOLUTIONAL = (
    "byobnet", "convmixer", "convnext", "cspnet", "cspnext", "densenet", "dla", "dpn", "efficientnet", "fasternet",
    "ghostnet", "hardcorenas", "hgnet", "hrnet", "inception_next", "inception_resnet_v2", "inception_v3",
    "inception_v4", "lcnetv2", "mambaout", "mobilenetv3", "nasnet", "nfnet", "pnasnet", "rdnet", "regnet", "repghost",
    "repvit", "res2net", "resnest", "resnet", "resnetv2", "rexnet", "selecsls", "senet", "sknet", "starnet", "tresnet",
    "vgg", "vovnet", "xception", "xception_aligned",
)  # fmt: skip
# Products between activations at different positions, by a part of the name.
ATTENTION = ("gcvit", "mobilenetv4_hybrid", "sehalonet", "lambda", "halo", "botnet", "danet", "isqrtcov", "resattnet")
_SETS = r"_(cub|svhn|cifar100|voc|coco|cocostuff|ade20k|cityscapes)$"  # pytorchcv has one network several times
_SOUND = ("jasper", "quartznet")
_TRANSFORMERS = ("vit", "swin", "maxvit")
_DECODERS = (
    "DeepLabV3", "DeepLabV3Plus", "FPN", "Linknet", "MAnet", "PAN", "PSPNet", "Segformer", "UPerNet", "Unet",
    "UnetPlusPlus",
)  # fmt: skip


def names() -> list[str]:
    """The sample, families mixed."""
    found = []
    for collection in (_timm(), _pytorchcv(), _torchvision()):
        found += sorted(collection)[::3]
    segmentation = import_module("torchvision.models")
    found += [f"torchvision/{name}" for name in segmentation.list_models(module=segmentation.segmentation)]
    found += [f"smp/{name}" for name in _DECODERS]
    return sorted(found, key=lambda name: hashlib.sha256(name.encode()).digest())


def has_attention(name: str) -> bool:
    """Whether the network multiplies activations of different positions."""
    return any(part in name for part in ATTENTION)


def family(name: str) -> str:
    """The collection, and its name without sizes: "timm/resnet"."""
    collection, _, rest = name.partition("/")
    if collection == "timm":
        return f"timm/{_timm_modules()[rest]}"
    return f"{collection}/{re.split('[0-9_]', rest)[0]}"


def _timm_modules() -> dict[str, str]:
    """The module of each network of timm."""
    registry = import_module("timm.models._registry")
    return dict(registry._model_to_module)


def _timm() -> list[str]:
    modules = _timm_modules()
    return [f"timm/{name}" for name in import_module("timm").list_models() if modules[name] in CONVOLUTIONAL]


def _pytorchcv() -> list[str]:
    known = import_module("pytorchcv.model_provider")._models
    once = {re.sub(_SETS, "", name): name for name in sorted(known, reverse=True)}
    return [f"pytorchcv/{name}" for name in once.values() if not name.startswith(_SOUND)]


def _torchvision() -> list[str]:
    models = import_module("torchvision.models")
    known = models.list_models(module=models)
    return [f"torchvision/{name}" for name in known if not name.startswith(_TRANSFORMERS)]


def build(name: str) -> nn.Module:
    """The network called `name`, with random weights."""
    collection, _, rest = name.partition("/")
    with contextlib.redirect_stdout(io.StringIO()):
        if collection == "timm":
            made = import_module("timm").create_model(rest, pretrained=False)
        elif collection == "pytorchcv":
            made = import_module("pytorchcv.model_provider").get_model(rest, pretrained=False)
        elif collection == "smp":
            made = import_module("segmentation_models_pytorch").create_model(rest, "resnet18", encoder_weights=None)
        else:
            options = {"weights": None, "weights_backbone": None} if rest in _segmentation() else {"weights": None}
            options |= {"init_weights": False} if rest in ("googlenet", "inception_v3") else {}
            made = import_module("torchvision.models").get_model(rest, **options)
    assert isinstance(made, nn.Module)
    return made


def _segmentation() -> list[str]:
    models = import_module("torchvision.models")
    return list(models.list_models(module=models.segmentation))
