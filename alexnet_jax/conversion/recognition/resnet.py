"""Take the layers of residual and plain networks from files; see `models.resnet`."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from alexnet_jax.conversion.recognition.graph import BatchNorm, GlobalPool, Node, Sum
from alexnet_jax.conversion.recognition.layer_sequence import STEMS, Layers, VariableArrays
from alexnet_jax.errors import InputError
from alexnet_jax.models.branched_config import ResNetConfig
from alexnet_jax.models.ops import Conv

# Kind of a block by the kernels of its convolutions.
BLOCKS = {(3, 3): "basic", (1, 3, 1): "bottleneck"}
FIRST_STRIDES = ((2, 1), (2, 1, 1))  # of blocks that halve the image
STRIDES_V1_5 = (1, 2, 1)
# Kernels and strides of convolutions in blocks.
GEOMETRY = [(kernel, stride) for kernel in (1, 3) for stride in (1, 2)]


@dataclass(frozen=True)
class Block:
    """A block of a file, or of a plain network two convolutions.

    Attributes:
        convs: its convolutions and the batch normalizations after them.
        shortcut: those of its shortcut, none for the input itself; None without a shortcut.
    """

    convs: list[tuple[Node, Node]]
    shortcut: list[tuple[Node, Node]] | None

    def ops(self) -> list[Conv]:
        """Return the convolutions, without that of the shortcut."""
        return [conv.op for conv, _ in self.convs if isinstance(conv.op, Conv)]

    def stride(self) -> int:
        """Return the stride of the block, 1 or 2."""
        return max(op.stride for op in self.ops())


def take_resnet(layers: Layers, model: ResNetConfig) -> None:
    """Take all layers of a network, and set the fields of its config.

    Raises:
        InputError: a layer is none of a residual or plain network.
    """
    conv, norm = _take_conv(layers, STEMS)
    layers.found.add_normalized("conv1", conv, "bn1", norm)
    layers.relu()
    assert isinstance(conv.op, Conv)
    model.stem, model.width = STEMS[conv.op.kernel, conv.op.stride], conv.op.features
    model.channels = sum(conv.arrays["weight"].shape[1:2])
    if model.stem == "imagenet":
        _take_pool(layers, model)
    blocks: list[Block] = []
    sizes: list[int] = []
    while not blocks or not layers.next_is(GlobalPool):
        block = _take_block(layers)
        if blocks and block.stride() == 1:
            sizes[-1] += 1
        else:
            sizes.append(1)
        _name_arrays(block, f"conv{len(sizes) + 1}_{sizes[-1]}", layers.found)
        blocks.append(block)
    layers.take(GlobalPool, "a block or global average pooling")
    model.num_classes = layers.classifier()
    model.stage_sizes = tuple(sizes)
    _set_kinds(model, blocks)


def _take_conv(layers: Layers, geometry: Collection[tuple[int, int]]) -> tuple[Node, Node]:
    """Return the next two layers, a convolution and its batch normalization."""
    conv, _ = layers.conv(geometry)
    norm, _ = layers.take(
        BatchNorm,
        "batch normalization, which exporters fold into the convolution; export the model with "
        "do_constant_folding=False, or give its state dict",
    )
    return conv, norm


def _take_pool(layers: Layers, model: ResNetConfig) -> None:
    """Take the first max pooling, and set its padding."""
    pool = layers.max_pool([3], 2, None)
    model.pool_padding = pool.padding
    if pool.padding not in (0, 1) or (pool.padding == 0) not in pool.ceil_modes:
        raise InputError(
            f"the first max pooling has a padding of {pool.padding} and rounds sizes "
            f"{'up' if True in pool.ceil_modes else 'down'}; expected no padding and rounding up, "
            "or a padding of 1 and rounding down"
        )


def _take_block(layers: Layers) -> Block:
    """Return the next layers up to the last ReLU of a block.

    The input of a block may come before or after the branch of convolutions in the sum.
    """
    branches = layers.next_branches()
    if branches:
        node, _ = layers.take(Sum, "the sum of a block")
        if len(branches) != 2:
            raise layers.wrong_hyperparameters(node, f"the sum of {len(branches)} branches", "two")
        shortcut, main = sorted(branches, key=len)
        block = Block(_take_convs(layers.within(main)), _take_convs(layers.within(shortcut)))
    else:
        first = _take_conv(layers, GEOMETRY)
        layers.relu()
        block = Block([first, _take_conv(layers, GEOMETRY)], None)
    layers.relu()
    return block


def _take_convs(layers: Layers) -> list[tuple[Node, Node]]:
    """Return all convolutions of a branch with their batch normalizations."""
    convs: list[tuple[Node, Node]] = []
    while not layers.is_empty():
        if convs:
            layers.relu()
        convs.append(_take_conv(layers, GEOMETRY))
    return convs


def _name_arrays(block: Block, name: str, found: VariableArrays) -> None:
    """Add the arrays of a block."""
    for number, (conv, norm) in enumerate(block.convs, 1):
        found.add_normalized(f"{name}/conv{number}", conv, f"{name}/bn{number}", norm)
    for conv, norm in block.shortcut or ():
        found.add_normalized(f"{name}/shortcut_conv", conv, f"{name}/shortcut_bn", norm)


def _set_kinds(model: ResNetConfig, blocks: Sequence[Block]) -> None:
    """Set the fields of a config that all blocks must have in common.

    Raises:
        InputError: the blocks differ, or are of an unknown kind.
    """
    if blocks[0].stride() != 1:
        raise InputError("the first block halves the image; expected the first of a later stage to")
    kernels = _common("kernels", [tuple(op.kernel for op in block.ops()) for block in blocks])
    if kernels not in BLOCKS:
        raise InputError(f"the blocks have the kernels {kernels}; expected (3, 3) or (1, 3, 1)")
    model.block = BLOCKS[kernels]
    halving = [tuple(op.stride for op in block.ops()) for block in blocks if block.stride() == 2]
    strides = _common("strides", halving) if halving else FIRST_STRIDES[0]
    if strides not in (*FIRST_STRIDES, STRIDES_V1_5):
        raise InputError(
            f"the blocks that halve the image have the strides {strides}; expected 2 for the first "
            "convolution or for the 3×3 one of three"
        )
    model.stride_in = "3x3" if strides == STRIDES_V1_5 else "1x1"
    model.shortcut = _shortcut(model.block, blocks)


def _common(what: str, values: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the value that all blocks have."""
    if len({*values}) != 1:
        raise InputError(f"the blocks have the {what} {sorted({*values})}; expected one kind")
    return values[0]


def _shortcut(kind: str, blocks: Sequence[Block]) -> str:
    """Return the kind of the shortcuts, a value of `ResNetConfig.shortcut`.

    "A" is impossible: it takes further layers where a block changes the shape.

    Raises:
        InputError: the shortcuts are of no kind.
    """
    counts = [None if block.shortcut is None else len(block.shortcut) for block in blocks]
    changes = [block.stride() == 2 for block in blocks]
    changes[0] = kind == "bottleneck"
    for name, expected in (
        ("none", [None for _ in blocks]),
        ("B", [int(changed) for changed in changes]),
        ("C", [1 for _ in blocks]),
    ):
        if counts == expected:
            return name
    raise InputError(
        f"the shortcuts of the blocks have {counts} convolutions; expected one in each block, one "
        "where the shape changes, or no shortcuts"
    )
