"""The engine: a packed network, run at 1 bit by the native kernels (docs/format.md says what each op computes).

    engine = bbg.load("resnet20-cifar10")
    engine.predict("cat.jpg")                     # [Prediction(label='cat', score=0.93), ...]
    engine.segment("street.jpg")                  # of a segmentation: a Mask
    engine.detect("street.jpg")                   # of a detection: [Box('car', 0.97, (12.0, 40.5, 90.0, 77.2)), ...]
    engine(images)                                # uint8 [N, H, W, C] -> logits [N, classes]
    engine(normalised)                            # float32 [N, C, H, W], as for the torch model

This file checks and names things; the work is done by `bbg._native`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, cast, overload

import numpy as np

import bbg._native as _native
from bbg import zoo
from bbg.cpu import cores, most_threads
from bbg.errors import BbgError
from bbg.graph import Graph, Op
from bbg.graph.file import PackedModel, read
from bbg.graph.types import Shape
from bbg.heads import Box, Classification, Detection, Prediction, Segmentation
from bbg.image import Source, image_size, plain
from bbg.limits import Limits
from bbg.masks import Mask
from bbg.tables import Row, Shown, html, paragraphs

Outputs = np.ndarray | tuple[np.ndarray, ...] | list[np.ndarray] | dict[str, np.ndarray]
S = TypeVar("S", bound=Source)
Answer = TypeVar("Answer")

TRUSTED = (
    "; if you trust the file, load it with limits=bbg.Limits(memory=..., operations=...), or with --no-limits on the "
    "command line"
)


class OpTime(NamedTuple):
    """How long one op took, in seconds, for the whole batch; 0 where the readers of its result do its work."""

    name: str
    kind: str
    shape: Shape
    seconds: float
    kernels: str


class KernelSet(NamedTuple):
    """A set of kernels; `chosen` is the one that a new engine gets."""

    name: str
    supported: bool
    chosen: bool


def load(source: str | os.PathLike[str], threads: int | None = None, limits: Limits | None = None) -> Engine:
    """The engine of a packed file, or of a network of the zoo (`bbg.zoo.names()`).

    `threads` None: as many as this process has physical cores. `limits`: what the file may cost; None: `Limits()`.
    Raises BbgError for a file that is no packed network or takes more than the limits allow, and for a name that the
    zoo does not have.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise BbgError(f"a packed file is loaded by its path, or by a name of the zoo, got a {type(source).__name__}")
    return Engine(read(zoo.resolve(source)), threads, limits)


class Engine:
    """A network ready to run. Threads may call one engine at once, and so may forked processes.

    Calls of several threads run side by side, as many as keep all processors busy; others wait. Each has a workspace of
    its own, as far as the limits have memory for more than one.

    A signal, such as that of Ctrl-C, is handled while a call runs, and ends it where its handler raises an exception.
    So does an exception that another thread raises in the calling one (`PyThreadState_SetAsyncExc`).

    `labels`: class names or None. `input_shape`: `(C, H, W)`. `preprocess`: how images become inputs, or None. `head`:
    what the outputs mean, or None.
    `threads`: threads used. `kernels`: name of the kernel set, which the environment variable BBG_ISA can force.
    """

    def __init__(self, model: PackedModel, threads: int | None = None, limits: Limits | None = None) -> None:
        self.labels = model.labels
        self.preprocess = model.preprocess
        self.input_shape = model.graph.input_shape
        self.threads = _threads(threads)
        self.provenance = dict(model.provenance)
        self._names = [output.name for output in model.graph.outputs]
        self._structure = model.graph.structure
        self.head = model.head
        self._costs = model.graph.costs()
        scale, bias = ((), ()) if model.preprocess is None else model.preprocess.affine()
        self._takes = {np.dtype(np.float32), np.dtype(np.uint8)}
        if model.preprocess is None:
            self._takes = {np.dtype(np.uint8 if model.graph.input_type == "bytes" else np.float32)}
        if limits is not None and not isinstance(limits, Limits):
            raise BbgError(f"limits is a {type(limits).__name__}; give a bbg.Limits or None")
        weights = sum(tensor.nbytes for op in model.graph.ops for tensor in op.tensors.values())
        allowed = (limits or Limits()).of(weights)
        try:
            self._native = _native.Engine(_build(model.graph), None, self.threads, scale, bias, *allowed)
        except ValueError as error:
            raise BbgError(f"{error}{TRUSTED if 'limits.' in str(error) else ''}") from None
        self.kernels = self._native.isa

    def __reduce__(self) -> tuple[Any, ...]:
        raise BbgError(
            "an Engine cannot be pickled, since it holds the network as this CPU runs it; send the path of the packed "
            "file, and load it in the other process"
        )

    def __call__(self, images: np.ndarray) -> Outputs:
        """Run a batch: what the torch model returns, as numpy float32: an array, or a tuple, list or dict of arrays.

        `images`: float32 `[N, C, H, W]`, normalised as for the torch model, or uint8 `[N, H, W, C]`, which the stored
        preprocessing normalises. Raises BbgError for another shape or dtype, and for a NaN or an infinity.
        """
        outputs = self.run(images)
        if self._structure == "dict":
            return outputs
        arrays = list(outputs.values())
        if self._structure == "list":
            return arrays
        return tuple(arrays) if self._structure == "tuple" else arrays[0]

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Run a batch as a call does: the outputs by name, '' for one array, '0', '1', ... for a tuple or a list."""
        self._check(images)
        run = self._native.run_bytes if images.dtype == np.uint8 else self._native.run_floats
        arrays = _answer(run, images)
        return dict(zip(self._names, arrays, strict=True))

    @overload
    def predict(self, image: Source, top: int = 5) -> list[Prediction]: ...
    @overload
    def predict(self, image: list[S] | tuple[S, ...], top: int = 5) -> list[list[Prediction]]: ...
    def predict(
        self, image: Source | list[S] | tuple[S, ...], top: int = 5
    ) -> list[Prediction] | list[list[Prediction]]:
        """The `top` classes of an image, best first, as a list of `Prediction`; for a list of images, a list of lists.

        `image`: a path, bytes, a Pillow image or a uint8 array `[H, W, C]`. Raises BbgError for what is no image and
        for a network that has no preprocessing or no scores. A network whose head is a segmentation gives what
        `segment` gives, and one whose head is a detection what `detect` gives, which are their typed names; `top` then
        counts for nothing.
        """
        if isinstance(self.head, (Segmentation, Detection)):
            found: Any = self.segment(image) if isinstance(self.head, Segmentation) else self.detect(image)
            return cast("list[Prediction]", found)
        if self.preprocess is None:
            raise BbgError("this network was packed without preprocessing: convert it with preprocess=..., or call it")
        if self.head is None:
            raise BbgError("this network was packed without a head, which says what its outputs mean: call it")
        assert isinstance(self.head, Classification)
        top = plain(top)
        if type(top) is not int or top < 1:
            raise BbgError(f"top is {top!r}, it must be an integer of at least 1")
        images: Sequence[Source] = image if isinstance(image, (list, tuple)) else [image]
        if not images:
            return []
        (logits,) = self.run(np.stack([self.preprocess.apply(i) for i in images])).values()
        predictions = self.head.predict(logits, self.labels, top)
        return predictions if isinstance(image, (list, tuple)) else predictions[0]

    @overload
    def segment(self, image: Source) -> Mask: ...
    @overload
    def segment(self, image: list[S] | tuple[S, ...]) -> list[Mask]: ...
    def segment(self, image: Source | list[S] | tuple[S, ...]) -> Mask | list[Mask]:
        """The class of each pixel of an image, at the image's own size, as a `Mask`; for a list of images, a list.

        The network's maps are brought to the size of its input bilinearly, the largest decides, and the classes are
        brought to the size of the image by the nearest pixel. Images go through one by one. Raises BbgError for what is
        no image and for a network that has no preprocessing or whose head is no segmentation.
        """
        if self.preprocess is None:
            raise BbgError("this network was packed without preprocessing: convert it with preprocess=..., or call it")
        if not isinstance(self.head, Segmentation):
            came = "the network has no head" if self.head is None else f"the head is a {self.head.kind}"
            raise BbgError(f'{came}; to segment an image takes a network that was converted with head="segmentation"')
        if isinstance(image, (list, tuple)):
            return [self.segment(one) for one in image]
        return mask_of(self, self.run(self.preprocess.apply(image)[None]), image_size(image))

    @overload
    def detect(self, image: Source, score: float = 0.5, iou: float = 0.45) -> list[Box]: ...
    @overload
    def detect(self, image: list[S] | tuple[S, ...], score: float = 0.5, iou: float = 0.45) -> list[list[Box]]: ...
    def detect(
        self, image: Source | list[S] | tuple[S, ...], score: float = 0.5, iou: float = 0.45
    ) -> list[Box] | list[list[Box]]:
        """The boxes of an image, best first, as a list of `Box`, in pixels of the image; for a list of images, a list.

        Boxes with a probability of at least `score`; of two of one class with an intersection over union above `iou`
        the better one. Images go through one by one. Raises BbgError for what is no image, for thresholds that are not
        from 0 to 1, and for a network that has no preprocessing or whose head is no detection.
        """
        if self.preprocess is None:
            raise BbgError("this network was packed without preprocessing: convert it with preprocess=..., or call it")
        if not isinstance(self.head, Detection):
            came = "it has none" if self.head is None else f"it is a {self.head.kind}"
            raise BbgError(f"to detect takes the head bbg.heads.Detection, {came}: convert it with head=...")
        score, iou = plain(score), plain(iou)
        for name, value in (("score", score), ("iou", iou)):
            if type(value) not in (int, float) or not 0 <= value <= 1:
                raise BbgError(f"{name} is {value!r}, it must be a number from 0 to 1")
        if isinstance(image, (list, tuple)):
            return [self.detect(one, score, iou) for one in image]
        outputs = self.run(self.preprocess.apply(image)[None])
        return boxes_of(self, outputs, image_size(image), score, iou)

    def profile(self, images: np.ndarray) -> list[OpTime]:
        """Run a batch and return the time of every op, in order; inputs as for a call."""
        self._check(images)
        time = self._native.time_bytes if images.dtype == np.uint8 else self._native.time_floats
        seconds = _answer(time, images)
        return [
            OpTime(cost.name, cost.kind, cost.shape, taken, self.kernels)
            for cost, taken in zip(self._costs, seconds, strict=True)
        ]

    def summary(self) -> Shown:
        """A table of the ops: kind, result shape, bit width of the weight, bytes, multiply-accumulates.

        It is a string, which a notebook shows as a table.
        """
        rows: list[Row] = [
            {"op": c.name, "kind": c.kind, "result": c.shape, "bits": c.bits, "bytes": c.bytes, "MACs": c.macs}
            for c in self._costs
        ]
        rows.append(
            {"op": "total", "bytes": sum(c.bytes for c in self._costs), "MACs": sum(c.macs for c in self._costs)}
        )
        constants, workspace = self._native.bytes
        memory = f"{constants:,} bytes of constants and {workspace:,} of workspace per call"
        return Shown(rows, [f"kernels: {self.kernels}; threads: {self.threads}; in memory: {memory}"])

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.input_shape))
        outputs = f"{len(self.labels)} classes" if self.labels else "no labels"
        bits = sum(c.macs for c in self._costs if c.bits == 1) / max(sum(c.macs for c in self._costs), 1)
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"<bbg.Engine {shape}, {outputs}, {bits:.0%} of the products at 1 bit, {self.kernels}, {threads}>"

    def _repr_html_(self) -> str:
        notes = [{"note": note, "value": value} for note, value in self.provenance.items()]
        return paragraphs([repr(self)]) + (html(notes) if notes else "") + self.summary()._repr_html_()

    def _check(self, images: np.ndarray) -> None:
        channels, height, width = self.input_shape
        if isinstance(images, np.ndarray) and images.ndim == 4 and images.shape[0] and images.dtype in self._takes:
            if images.dtype == np.float32 and images.shape[1:] == (channels, height, width):
                return
            if images.dtype == np.uint8 and images.shape[1:] == (height, width, channels):
                return
        came = f"{images.dtype} {list(images.shape)}" if isinstance(images, np.ndarray) else type(images).__name__
        forms = {"float32": [channels, height, width], "uint8": [height, width, channels]}
        taken = {name: shape for name, shape in forms.items() if np.dtype(name) in self._takes}
        allowed = " or ".join(f"{name} [N, {', '.join(map(str, shape))}]" for name, shape in taken.items())
        why = "" if len(self._takes) == 2 else " (this network was packed without preprocessing)"
        raise BbgError(f"the input is {came}; give a numpy array, {allowed}, with N at least 1{why}")


def mask_of(engine: Engine, outputs: Mapping[str, np.ndarray], size: tuple[int, int]) -> Mask:
    """What `engine.segment` makes of the network's outputs for one image of `size` (H, W)."""
    assert isinstance(engine.head, Segmentation)
    assert engine.preprocess is not None
    (logits,) = outputs.values()
    (classes,) = engine.head.decide(logits, engine.preprocess.size)
    labels = engine.labels or tuple(str(i) for i in range(logits.shape[1]))
    return Mask(engine.preprocess.restored(classes, size), labels)


def boxes_of(
    engine: Engine, outputs: Mapping[str, np.ndarray], size: tuple[int, int], score: float, iou: float
) -> list[Box]:
    """What `engine.detect` makes of the network's outputs for one image of `size` (H, W)."""
    assert isinstance(engine.head, Detection)
    assert engine.preprocess is not None
    (found,) = engine.head.decide(outputs, score, iou)
    labels = engine.labels or tuple(str(i) for i in range(outputs["scores"].shape[2] - 1))
    places = engine.preprocess.located(found.boxes, size).tolist()
    rows = zip(found.classes.tolist(), found.scores.tolist(), places, strict=True)
    return [Box(labels[number], share, (place[0], place[1], place[2], place[3])) for number, share, place in rows]


def kernel_sets() -> list[KernelSet]:
    """The kernel sets, best first: which this machine runs, and which a new engine gets. BbgError for a bad BBG_ISA."""
    try:
        chosen = _native.choose(None)
    except ValueError as error:
        raise BbgError(str(error)) from None
    return [KernelSet(name, runs, name == chosen) for name, runs in _native.kernel_sets()]


def _answer(call: Callable[[np.ndarray], Answer], images: np.ndarray) -> Answer:
    try:
        return call(np.ascontiguousarray(images))
    except ValueError as error:
        raise BbgError(str(error)) from None
    except MemoryError:
        raise BbgError(f"there is no memory for the outputs of {len(images):,} images; give fewer at once") from None


def _build(graph: Graph) -> _native.Graph:
    native = _native.Graph(graph.input_name, graph.input_type == "bytes", *graph.input_shape)
    for op in graph.ops:
        written = op.real, op.bits, op.bytes
        native.add(op.name, op.kind, op.operands, op.shortcut, *written, op.attributes, _tensors(op), *op.clip)
    for output in graph.outputs:
        native.output([(part.value, part.order) for part in output.parts], list(output.shape))
    return native


def _tensors(op: Op) -> Mapping[str, np.ndarray]:
    """The op's tensors with the epilogue taken apart into its parameters."""
    tensors = {name: array for name, array in op.tensors.items() if name != "epilogue"}
    return tensors | {name: op.tensors["epilogue"][i] for i, name in enumerate(op.epilogue)}


def _threads(asked: int | None) -> int:
    if asked is None:
        return cores()
    asked = plain(asked)
    if type(asked) is not int or not 1 <= asked <= most_threads():
        raise BbgError(
            f"threads is {asked!r}, it must be None or an integer from 1 to {most_threads()}, four for each processor "
            "that this process may use"
        )
    return asked


__all__: Sequence[str] = ["Engine", "KernelSet", "OpTime", "Prediction", "kernel_sets", "load"]
