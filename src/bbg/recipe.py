"""A recipe: everything a training run needs, as one flat TOML file. Unknown keys are refused.

Those that come with the package are found by name: `Recipe.find("cifar10_resnet20")`.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import tomllib
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

from bbg.errors import BbgError, allowed
from bbg.reading import TEXT, contents

FOLDER = Path(__file__).parent / "recipes"


class Key(NamedTuple):
    """A key of a recipe: the type of its value, what it is where a recipe does not state it, and what it means."""

    key: str
    type: str
    default: Any
    meaning: str


@dataclass(frozen=True)
class Recipe:
    """The keys of a recipe file, their types and defaults."""

    dataset: str  # a name of bbg.data.DATASETS
    network: str | None = None  # a name that bbg.create takes; none: the module of `factory`, or the one given to fit
    factory: str | None = None  # package.module:function that makes a network of one's own, in place of `network`
    task: str = "classification"  # what the network is trained for: a name of bbg.training.tasks.TASKS
    method: str = "bbg"  # a name of bbg.methods; float leaves the network of a factory as it is
    keep: tuple[str, ...] = ("first", "last")  # layers of a factory's network that stay real-valued
    bits: int | dict[str, int] | None = None  # width of the layers, 1, 8 or 32: of all, or by pattern over their names
    weights: str | None = None  # file whose weights the training starts from, as --init names one
    act: str | None = None  # nonlinearity of the units; none: the method's own
    width: int | None = None  # channels of the first stage; none: the network's own
    shortcut: str | None = None  # of ImageNet-form resnets, where the map is halved: conv, pool
    stem: str | None = None  # first layers of resnets and ssd_light: imagenet, patch, cifar; none: the network's own
    heads: str | None = None  # of detectors: conv, separable, binary; none: conv
    size: int | str | list[int] | None = None  # of the images: a side, "HxW" or [H, W]; none: the data set's own
    resize: int | None = None  # short side before the centre crop; 0: the whole picture is resized; none: the set's own
    mode: str | None = None  # RGB, L (grey); none: the data set's own
    mean: list[float] | str | None = None  # of each channel, 0 to 1; "measured": and std, of the training images
    std: list[float] | None = None  # of each channel, beside mean; none: the data set's own
    decode: str | None = None  # whole, scaled (large JPEGs at 1/2, 1/4, 1/8 of their sides); none: the data set's own
    strict: bool = False  # a box or a file that would be left out, or a damaged image, ends the training
    reading: str = "random"  # order of the images: random, sequential (along the shards, for slow and remote disks)
    epochs: int = 30  # passes over the training images
    batch_size: int = 128  # images per step
    optimizer: str = "adam"  # adam, sgd (Nesterov)
    lr: float = 1e-3  # the highest learning rate of the schedule
    momentum: float = 0.9  # of sgd
    real_optimizer: str | None = None  # adam, sgd: of all but the 1-bit layers and their units; none: the same for all
    real_lr: float | None = None  # the highest learning rate of that one; none: lr
    real_weight_decay: float | None = None  # of that one; none: weight_decay
    weight_decay: float = 0.0  # decoupled for adam; never on gates, BN, thresholds or biases
    schedule: str = "onecycle"  # onecycle, cosine, linear, constant
    warmup: float = 0.3  # share of the steps in which onecycle rises
    label_smoothing: float = 0.0  # share of the label that all classes have
    range_epochs: float = 0.5  # share of the epochs in which 8-bit layers record their ranges, and learn them later
    activation_epochs: int = 0  # first epochs with real-valued weights and binary activations; the schedule runs twice
    teacher: str | None = None  # checkpoint whose outputs are learned too (distillation), or self: its float net
    teacher_factory: str | None = None  # package.module:function that makes the teacher, where it is no network of bbg
    distill: float = 1.0  # share of the teacher's outputs in the loss, the labels have the rest
    temperature: float = 1.0  # of the outputs that are compared
    crop: str = "auto"  # padded, resized (a random part of the picture), none; auto: resized for photographs, or padded
    crop_padding: int = 4  # padded: random crop out of the image with this frame; 0: none
    crop_scale: float = 0.25  # resized: the least share of the picture's area that is cropped
    expand: float = 1.0  # resized, of sets with boxes: pictures are laid into a frame of up to so many times the sides
    flip: bool = True  # random mirroring
    colour: float = 0.0  # random brightness, contrast and saturation: 0.4 changes each by up to 40 %, the hue by 4 %
    randaugment: int = 0  # operations of RandAugment on each image; 0: none
    randaugment_magnitude: int = 9  # of these operations, 0 to 30
    mixup: float = 0.0  # alpha of Mixup, which mixes each image with another one; 0: none
    precision: str = "fp32"  # of training: fp32, bf16 (autocast); validation is always float32
    compile: bool = False  # train through torch.compile, where it works and gives the same gradients
    evaluation: str = "torch"  # of the epochs: torch, packed (on CPUs by the engine, but the last one by torch)
    sync_bn: bool = False  # several processes: batch statistics over the images of all of them; else each has its own
    bn_batches: int = 0  # re-estimate the BN statistics over this many batches, in float32, after the last epoch
    keep_best: bool = False  # keep best.ckpt too, the epoch that is best on images held out of the training set
    held_out: float = 0.1  # share of the training images of each class that keep_best holds out, drawn by seed
    checkpoint_steps: int = 200  # steps between two checkpoints inside an epoch
    seed: int = 0  # of weights, data order and augmentation

    def __post_init__(self) -> None:
        hints = get_type_hints(Recipe)
        for key, value in asdict(self).items():
            object.__setattr__(self, key, _typed(key, value, hints[key]))
        allowed_words = {
            "optimizer": ("adam", "sgd"),
            "real_optimizer": (None, "adam", "sgd"),
            "schedule": ("onecycle", "cosine", "linear", "constant"),
            "precision": ("fp32", "bf16"),
            "evaluation": ("torch", "packed"),
            "crop": ("auto", "padded", "resized", "none"),
            "mode": (None, "RGB", "L"),
            "decode": (None, "whole", "scaled"),
            "reading": ("random", "sequential"),
        }
        for key, values in allowed_words.items():
            if (value := getattr(self, key)) not in values:
                raise BbgError(f"recipe key {key!r} is {value!r}, {allowed(value, filter(None, values))}")
        for key, low in {
            "epochs": 1,
            "batch_size": 2,
            "checkpoint_steps": 1,
            "crop_padding": 0,
            "bn_batches": 0,
            "lr": 0,
            "real_lr": 0,
            "real_weight_decay": 0,
            "weight_decay": 0,
            "seed": 0,
            "resize": 0,
            "width": 1,
            "activation_epochs": 0,
            "mixup": 0,
        }.items():
            value = getattr(self, key)
            if value is not None and not low <= value < 2**62:
                raise BbgError(f"recipe key {key!r} is {value}, allowed is {low} or more, below 2^62")
        for key in ("momentum", "range_epochs", "warmup", "label_smoothing", "distill", "crop_scale", "colour"):
            if not 0 <= getattr(self, key) <= 1:
                raise BbgError(f"recipe key {key!r} is {getattr(self, key)}, allowed is 0 to 1")
        if not 0 < self.held_out < 1:
            raise BbgError(f"recipe key 'held_out' is {self.held_out}, allowed is a share between 0 and 1")
        self._check_pixels()
        if not 0.01 <= self.temperature <= 100:
            raise BbgError(f"recipe key 'temperature' is {self.temperature}, allowed is 0.01 to 100")
        if self.activation_epochs >= self.epochs:
            raise BbgError(
                f"recipe key 'activation_epochs' is {self.activation_epochs}, allowed are fewer than the {self.epochs} "
                "epochs: the weights must become binary before the end"
            )

    def _check_pixels(self) -> None:
        for key, most in {"randaugment": 100, "randaugment_magnitude": 30}.items():
            if not 0 <= getattr(self, key) <= most:
                raise BbgError(f"recipe key {key!r} is {getattr(self, key)}, allowed is 0 to {most}")
        if not 1 <= self.expand <= 10:
            raise BbgError(f"recipe key 'expand' is {self.expand}, allowed is 1 to 10")
        if self.crop_scale == 0:
            raise BbgError("recipe key 'crop_scale' is 0.0, allowed is more than 0 to 1")
        self.sides()
        if isinstance(self.mean, str) and self.mean != "measured":
            raise BbgError(f"recipe key 'mean' is {self.mean!r}, allowed are a number per channel, or \"measured\"")
        if isinstance(self.mean, list) != (self.std is not None):
            raise BbgError("recipe keys 'mean' and 'std' go together: give a number per channel for each of them")

    def sides(self) -> tuple[int, int] | None:
        """`(H, W)` of the images, as `size` states it."""
        given = self.size
        if isinstance(given, str) and (match := re.fullmatch(r"\s*(\d{1,5})\s*[xX]\s*(\d{1,5})\s*", given)):
            given = [int(match[1]), int(match[2])]
        sides = [given, given] if isinstance(given, int) else given
        if sides is not None and not (len(sides) == 2 and all(type(n) is int and 1 <= n < 2**16 for n in sides)):
            raise BbgError(f"recipe key 'size' is {self.size!r}, allowed are a side from 1 to 65535, \"HxW\" or [H, W]")
        return None if sides is None else (int(sides[0]), int(sides[1]))

    def to_dict(self) -> dict[str, Any]:
        """The keys and values, as a checkpoint stores them."""
        return asdict(self)

    def to_toml(self) -> str:
        """The recipe as a file, with every key and what it means; keys that are not set stand there as comments."""
        lines = []
        for key in keys_of_recipes():
            value = getattr(self, key.key)
            stated = f"{key.key} = {_toml(value)}" if value is not None else f"# {key.key} = "
            lines.append(f"{stated}  # {key.meaning}" if key.meaning else stated)
        return "\n".join(lines) + "\n"

    def changed(self, changes: dict[str, Any]) -> Recipe:
        """A copy with some keys set; a value that comes as text is read as TOML, or taken as a plain word.

        Raises BbgError for an unknown key or a value of the wrong type.
        """
        _refuse_unknown(changes)
        return replace(self, **{k: _parse(v) if isinstance(v, str) else v for k, v in changes.items()})

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Recipe:
        """The recipe with these keys; BbgError for an unknown or missing key or a wrong type."""
        _refuse_unknown(values)
        if "dataset" not in values:
            raise BbgError("recipe key 'dataset' is missing; every recipe names its dataset")
        return Recipe(**values)

    @staticmethod
    def find(given: str | Path) -> Recipe:
        """The recipe of the package that is called `given`, or else the one in the file at that path."""
        names = recipe_names()
        if isinstance(given, str) and given in names:
            return Recipe.load(FOLDER / f"{given}.toml")
        path = Path(given)
        if path.suffix != ".toml" and not os.path.exists(path):
            choice = allowed(given, names, "give the path of a TOML file or one of")
            raise BbgError(f"no recipe {str(given)!r}; {choice}")
        return Recipe.load(path)

    @staticmethod
    def load(path: Path) -> Recipe:
        """The recipe in the TOML file at `path`; BbgError for a missing or malformed file."""
        try:
            return Recipe.from_dict(tomllib.loads(contents(path, TEXT).decode("utf-8-sig")))
        except OSError as e:
            raise BbgError(f"cannot read recipe {str(path)!r}: {e.strerror}; give the path of a TOML file") from e
        except UnicodeDecodeError as e:
            raise BbgError(f"recipe {str(path)!r} is no text in UTF-8; give a TOML file in this encoding") from e
        except (ValueError, RecursionError) as e:
            if isinstance(e, BbgError):
                raise
            raise BbgError(f"recipe {str(path)!r} is no TOML: {e}") from e


def recipe_names() -> list[str]:
    """The names of the recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def keys_of_recipes() -> list[Key]:
    """All keys of a recipe, in the order of `Recipe`, with the comments that stand beside them there."""
    comments = dict(re.findall(r"^    (\w+): [^#\n]*?  # (.*)$", inspect.getsource(Recipe), re.MULTILINE))
    return [
        Key(f.name, str(f.type), None if f.default is MISSING else f.default, comments.get(f.name, ""))
        for f in fields(Recipe)
    ]


def _toml(value: Any) -> str:
    """A value as TOML, a table on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(v)}" for key, v in value.items()) + "}"
    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)  # of which JSON escapes a part


def _fits(value: Any, hint: Any) -> bool:
    """Whether `value` is of the type `hint`; a list of numbers may hold integers."""
    options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    for option in options:
        if get_origin(option) is dict:
            if isinstance(value, dict) and all(type(item) is get_args(option)[1] for item in value.values()):
                return True
            continue
        items = (int, float) if float in get_args(option) else get_args(option)
        if items and isinstance(value, list) and all(type(item) in items for item in value):
            return True
    return any(type(value) is option for option in options)


def _refuse_unknown(values: dict[str, Any]) -> None:
    known = [f.name for f in fields(Recipe)]
    for key in values:
        if key not in known:
            raise BbgError(f"unknown recipe key {key!r}; {allowed(key, known)}")


def _parse(text: str) -> Any:
    try:
        found = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return found["value"] if len(found) == 1 else text  # more of them: it has lines


def _typed(key: str, value: Any, hint: Any) -> Any:
    """The value of a key as its type has it; BbgError where it is of another."""
    if float in (hint, *get_args(hint)) and int not in get_args(hint) and type(value) is int:
        return float(value)
    if hint == tuple[str, ...]:
        if isinstance(value, (list, tuple)) and all(isinstance(word, str) for word in value):
            return tuple(value)
        raise BbgError(f"recipe key {key!r} is {value!r}, allowed is a list of words")
    if _fits(value, hint):
        return value
    wanted = str(hint) if get_args(hint) else hint.__name__
    raise BbgError(f"recipe key {key!r} is {value!r}, allowed is {wanted}")
