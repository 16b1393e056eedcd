"""Compute the receptive fields of models with branches: residual networks and GoogLeNet."""

from collections.abc import Iterable, Mapping

from alexnet_jax.analysis.receptive_fields import (
    ReceptiveField,
    Windows,
    apply_windows,
    field_of_pixels,
)
from alexnet_jax.errors import InputError
from alexnet_jax.models.branched_config import GoogLeNetConfig, ResNetConfig
from alexnet_jax.models.branched_layers import same_padding
from alexnet_jax.models.googlenet import INCEPTION
from alexnet_jax.models.model_config import ModelConfig
from alexnet_jax.models.resnet import block_convolutions, list_blocks


def compute_branched_fields(
    model: ModelConfig, crop: int, sizes: Mapping[str, int]
) -> dict[str, ReceptiveField]:
    """Return the receptive field of every op at test time, by name.

    The field of an op that joins branches is the smallest interval that contains all of theirs.

    Args:
        model: config of the model.
        crop: side of its input in pixels, data.crop.
        sizes: side in pixels of the output of every op by name, 1 for units, in the order of
            `registry.compute_activations`.

    Raises:
        InputError: the model has no rules here.
    """
    fields = _Fields(crop, sizes)
    match model:
        case ResNetConfig():
            fields.add_resnet(model)
        case GoogLeNetConfig():
            fields.add_googlenet(model)
        case _:
            raise InputError(
                f"the receptive fields of a {type(model).__name__} are unknown: it has no rule in "
                "alexnet_jax/analysis/branched_fields.py"
            )
    return {name: fields.found[name] for name in sizes}


class _Fields:
    """The fields found so far.

    Attributes:
        found: by the name of the op.
        last: the field of the op that was added last.
    """

    def __init__(self, crop: int, sizes: Mapping[str, int]) -> None:
        self.found: dict[str, ReceptiveField] = {}
        self.last = field_of_pixels(crop)
        self._sizes = sizes

    def add(self, name: str, windows: Windows, of: ReceptiveField | None = None) -> ReceptiveField:
        """Add an op whose windows lie on the op added last, or on another field."""
        field = apply_windows(of or self.last, windows, self._sizes[name])
        return self.add_copies((name,), field)

    def add_conv(
        self, name: str, kernel: int, stride: int = 1, of: ReceptiveField | None = None
    ) -> ReceptiveField:
        """Add a convolution, and its normalization and ReLU in GoogLeNet."""
        windows = Windows(kernel, stride, same_padding(kernel)[0])
        return self.add_copies((f"{name}_bn", f"{name}_relu"), self.add(name, windows, of))

    def add_copies(self, names: Iterable[str], field: ReceptiveField) -> ReceptiveField:
        """Add those of some ops that the model has, each with the same field."""
        self.found.update((name, field) for name in names if name in self._sizes)
        self.last = field
        return field

    def add_rest(self, classifier: str) -> None:
        """Add the average over all pixels, and what follows it."""
        field = self.add("global_pool", Windows(len(self.last.bounds)))
        self.add_copies(("drop", classifier), field)

    def add_resnet(self, model: ResNetConfig) -> None:
        """Add the ops of a residual network."""
        kernel, stride = (7, 2) if model.stem == "imagenet" else (3, 1)
        self.add_copies(("bn1", "relu1"), self.add_conv("conv1", kernel, stride))
        if model.stem == "imagenet":
            self.add("pool1", Windows(3, 2, model.pool_padding))
        for block, _, stride in list_blocks(model):
            self._add_block(model, block, stride)
        self.add_rest("fc")

    def _add_block(self, model: ResNetConfig, block: str, stride: int) -> None:
        """Add a residual block, or a block of a plain network."""
        inputs = self.last
        for number, (_, kernel, step) in enumerate(block_convolutions(model, 1, stride), 1):
            main = self.add_conv(f"{block}/conv{number}", kernel, step)
            self.add_copies((f"{block}/bn{number}", f"{block}/relu{number}"), main)
        if model.shortcut != "none":
            shortcut = apply_windows(inputs, Windows(1, stride), len(main.bounds))
            self.add_copies((f"{block}/shortcut_conv", f"{block}/shortcut_bn"), shortcut)
            main = join_fields((main, shortcut))
        self.add_copies((f"{block}/sum", f"{block}/relu"), main)

    def add_googlenet(self, model: GoogLeNetConfig) -> None:
        """Add the ops of GoogLeNet without its auxiliary classifiers."""
        pool = Windows(3, 2)
        self.add_conv("conv1", *((7, 2) if model.stem == "imagenet" else (3, 1)))
        self.add_copies(("norm1",), self.add("pool1", pool))
        if model.stem == "imagenet":
            self.add_conv("conv2_reduce", 1)
            self.add_copies(("norm2",), self.add_conv("conv2", 3))
            self.add("pool2", pool)
        for module in INCEPTION:
            self._add_inception(f"inception_{module}", model.large_kernel)
            if module == "3b":
                self.add("pool3", pool)
            if module == "4e":
                self.add("pool4", Windows(model.pool4_window, 2))
        self.add_rest("fc")

    def _add_inception(self, module: str, large_kernel: int) -> None:
        """Add an Inception module."""
        inputs = self.last
        branches = [self.add_conv(f"{module}/1x1", 1, of=inputs)]
        for kernel, name in ((3, "3x3"), (large_kernel, "5x5")):
            self.add_conv(f"{module}/{name}_reduce", 1, of=inputs)
            branches.append(self.add_conv(f"{module}/{name}", kernel))
        self.add(f"{module}/pool", Windows(3, 1, 1), of=inputs)
        branches.append(self.add_conv(f"{module}/pool_proj", 1))
        self.add_copies((f"{module}/output",), join_fields(branches))


def join_fields(fields: Iterable[ReceptiveField]) -> ReceptiveField:
    """Return the smallest field that contains all of the given ones, which have one stride."""
    fields = list(fields)
    start = min(field.start for field in fields)
    end = max(field.start + field.size for field in fields)
    bounds = []
    for places in zip(*(field.bounds for field in fields), strict=True):
        seen = [(first, stop) for first, stop in places if first < stop]
        firsts, stops = [first for first, _ in seen], [stop for _, stop in seen]
        bounds.append((min(firsts, default=0), max(stops, default=0)))
    return ReceptiveField(end - start, fields[0].stride, start, tuple(bounds))
