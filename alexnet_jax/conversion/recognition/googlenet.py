"""Take the layers of GoogLeNet from files; see `models.googlenet`."""

from collections.abc import Collection, Mapping, Sequence

from alexnet_jax.conversion.recognition.graph import BatchNorm, Concat, GlobalPool, Item, Pool
from alexnet_jax.conversion.recognition.layer_sequence import STEMS, Layers
from alexnet_jax.errors import InputError
from alexnet_jax.models.branched_config import GoogLeNetConfig
from alexnet_jax.models.googlenet import AUXILIARY, INCEPTION
from alexnet_jax.models.googlenet import LRN as LRN_NUMBERS
from alexnet_jax.models.ops import LRN, Conv, Dense

ONES = [(1, 1)]  # kernel and stride
THREES = [(3, 1)]
LARGE = [(5, 1), (3, 1)]
CONV1_FILTERS = 64  # table 1


def take_googlenet(
    layers: Layers,
    model: GoogLeNetConfig,
    heads: Mapping[str, Sequence[Item]],
    weights: Sequence[float | None],
) -> None:
    """Take all layers of GoogLeNet, and set the fields of its config.

    Args:
        layers: the layers of the classifier.
        model: the config.
        heads: the layers of the auxiliary classifiers, by the names of the activations that they
            take.
        weights: weights of the auxiliary classifiers in the loss; None for those that the file does
            not state.

    Raises:
        InputError: a layer is none of GoogLeNet.
    """
    reader = _Reader(layers, model)
    reader.take_stem()
    found: dict[str, Sequence[Item]] = {}
    for module in INCEPTION:
        output = reader.take_module(f"inception_{module}")
        if output in heads and module in AUXILIARY:
            found[AUXILIARY[module]] = heads[output]
        if module == "3b":
            reader.max_pool()
        if module == "4e":
            model.pool4_window = reader.max_pool((3, 2))
    layers.take(GlobalPool, "global average pooling")
    model.dropout = layers.dropout()
    model.num_classes = layers.classifier()
    if heads and (len(heads) != 2 or len(found) != 2 or len(weights) != 2):
        raise InputError(
            f"the file has {len(weights)} auxiliary classifiers, {len(found)} of them after "
            f"modules {' and '.join(AUXILIARY)}; expected one after each of these, or none"
        )
    for name, items in found.items():
        reader.take_head(name, layers.within(items))
    reader.set_weight(weights)
    if not reader.ceil_modes:
        raise InputError(
            "some max poolings round sizes up and others down; expected the same for all"
        )
    model.ceil_mode = True in reader.ceil_modes


class _Reader:
    """Take the parts of GoogLeNet.

    Attributes:
        ceil_modes: values of the config's ceil_mode that all poolings so far allow.
    """

    def __init__(self, layers: Layers, model: GoogLeNetConfig) -> None:
        self.layers, self.model = layers, model
        self.ceil_modes = {True, False}

    def take_stem(self) -> None:
        """Take the layers before the first module, and set the fields that they determine."""
        layers, model = self.layers, self.model
        op = self.conv_relu(layers, "conv1", STEMS, first=True)
        model.stem, model.width = STEMS[op.kernel, op.stride], op.features / CONV1_FILTERS
        self.max_pool()
        if model.normalization == "none" and layers.next_is(LRN):
            model.normalization = "lrn"
        self.lrn()
        if model.stem == "small":
            return
        self.conv_relu(layers, "conv2_reduce", ONES)
        self.conv_relu(layers, "conv2", THREES)
        self.lrn()
        self.max_pool()

    def take_module(self, name: str) -> str:
        """Take an Inception module, and return the name of its output."""
        branches = self.layers.next_branches()
        node, _ = self.layers.take(Concat, f"the concatenation of {name}")
        if len(branches) != 4:
            raise self.layers.wrong_hyperparameters(
                node, f"of {len(branches)} branches", "four branches"
            )
        ones, threes, fives, pooled = (self.layers.within(branch) for branch in branches)
        self.conv_relu(ones, f"{name}/1x1", ONES)
        self.conv_relu(threes, f"{name}/3x3_reduce", ONES)
        self.conv_relu(threes, f"{name}/3x3", THREES)
        self.conv_relu(fives, f"{name}/5x5_reduce", ONES)
        kernel = self.conv_relu(fives, f"{name}/5x5", LARGE).kernel
        pooled.max_pool([3], 1, 1)
        self.conv_relu(pooled, f"{name}/pool_proj", ONES)
        for layers in (ones, threes, fives, pooled):
            layers.end()
        if name == "inception_3a":
            self.model.large_kernel = kernel
        if self.model.large_kernel != kernel:
            raise InputError(f"{name} has large kernels of {kernel}×{kernel}, unlike inception_3a")
        return node.output

    def take_head(self, name: str, layers: Layers) -> None:
        """Take an auxiliary classifier, and set the fields that it determines."""
        what = "average pooling of 5×5 with stride 3"
        node, pool = layers.take(Pool, what)
        found = (pool.kind, pool.window, pool.stride)
        if found != ("average", 5, 3) or False not in pool.ceil_modes:
            raise layers.wrong_hyperparameters(
                node, "another pooling", f"{what}, without windows that overhang"
            )
        self.conv_relu(layers, f"{name}/conv", ONES)
        units, _ = layers.take(Dense, "a fully-connected layer")
        layers.found.add_layer(f"{name}/fc1", units)
        layers.relu()
        rate = layers.dropout()
        classifier, op = layers.take(Dense, "a fully-connected layer")
        layers.found.add_layer(f"{name}/fc2", classifier)
        layers.end()
        if name == "aux1":
            self.model.aux_dropout = rate
        if (rate, op.features) != (self.model.aux_dropout, self.model.num_classes):
            raise InputError(
                f"{name} has a dropout of {rate} and {op.features} classes; expected "
                f"{self.model.aux_dropout} and {self.model.num_classes}"
            )
        self.model.aux_pooling = "windows"

    def set_weight(self, weights: Sequence[float | None]) -> None:
        """Set the weight of the auxiliary classifiers in the loss."""
        stated = {weight for weight in weights if weight is not None}
        if len(stated) > 1 or 0 in stated:
            raise InputError(
                f"the auxiliary losses have the weights {sorted(stated)}; expected one, not 0"
            )
        if not weights:
            self.model.aux_weight = 0.0
        elif stated:
            self.model.aux_weight = stated.pop()

    def conv_relu(
        self,
        layers: Layers,
        name: str,
        geometry: Collection[tuple[int, int]],
        *,
        first: bool = False,
    ) -> Conv:
        """Take a convolution, batch normalization if the model has it, and a ReLU."""
        node, op = layers.conv(geometry)
        if first:
            has_norm = layers.next_is(BatchNorm)
            self.model.normalization = "batch_norm" if has_norm else "none"
            self.model.channels = sum(node.arrays["weight"].shape[1:2])
        if self.model.normalization == "batch_norm":
            norm, _ = layers.take(BatchNorm, "batch normalization")
            layers.found.add_normalized(name, node, f"{name}_bn", norm)
        else:
            layers.found.add_layer(name, node)
        layers.relu()
        return op

    def max_pool(self, windows: Sequence[int] = (3,)) -> int:
        """Take a max pooling with stride 2, and return the side of its windows."""
        pool = self.layers.max_pool(windows, 2, 0)
        self.ceil_modes &= {*pool.ceil_modes}
        return pool.window

    def lrn(self) -> None:
        """Take response normalization if the model has it."""
        if self.model.normalization != "lrn":
            return
        node, op = self.layers.take(LRN, "response normalization")
        if (op.size, op.k, op.coefficient(), op.beta) != LRN_NUMBERS:
            raise InputError(
                f"{node.name} has size {op.size}, k {op.k}, alpha {op.coefficient()} per channel "
                f"and beta {op.beta}; expected {LRN_NUMBERS}, as in Caffe's GoogLeNet"
            )
