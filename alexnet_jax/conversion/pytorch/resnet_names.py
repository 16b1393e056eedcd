"""Names of the modules of residual networks in PyTorch programs, by which state dicts name tensors.

The names of layers here are the paths of their modules, such as conv2_1/bn1.
"""

from collections.abc import Collection
from dataclasses import dataclass

from alexnet_jax.models.branched_config import ResNetConfig


@dataclass(frozen=True)
class ResNetNames:
    """The names of modules in a program.

    Attributes:
        program: name of the program, for messages.
        stem: names of the first convolution and its normalization.
        block: pattern of the name of a block, for its stage from 1 and its number there from 0.
        convs, norms: names of the convolutions of a block, and of their normalizations.
        shortcut: names of the convolution and the normalization of a shortcut.
        classifier: name of the classifier.
    """

    program: str
    stem: tuple[str, str] = ("conv1", "bn1")
    block: str = "layer{}.{}"
    convs: tuple[str, ...] = ("conv1", "conv2", "conv3")
    norms: tuple[str, ...] = ("bn1", "bn2", "bn3")
    shortcut: tuple[str, str] = ("downsample.0", "downsample.1")
    classifier: str = "fc"

    @property
    def first_tensor(self) -> str:
        """The name of a tensor that every model has, by which it is recognized."""
        return f"{self.block.format(1, 0)}.{self.convs[0]}.weight"

    def module_names(self, model: ResNetConfig) -> dict[str, str]:
        """Return the names of modules by the names of layers here, in the program's order.

        Layers that a model may have are included, such as shortcuts in all blocks.
        """
        names = dict(zip(("conv1", "bn1"), self.stem, strict=True))
        for stage, size in enumerate(model.stage_sizes, 1):
            for index in range(size):
                ours, theirs = f"conv{stage + 1}_{index + 1}", self.block.format(stage, index)
                for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True), 1):
                    names[f"{ours}/conv{number}"] = f"{theirs}.{conv}"
                    names[f"{ours}/bn{number}"] = f"{theirs}.{norm}"
                names[f"{ours}/shortcut_conv"] = f"{theirs}.{self.shortcut[0]}"
                names[f"{ours}/shortcut_bn"] = f"{theirs}.{self.shortcut[1]}"
        return names | {"fc": self.classifier}


TORCHVISION = ResNetNames("torchvision")
# akamaster/pytorch_resnet_cifar10, resnet.py, and many copies of it.
AKAMASTER = ResNetNames("akamaster", shortcut=("shortcut.0", "shortcut.1"), classifier="linear")
# D-X-Y/ResNeXt-DenseNet, models/resnet.py, which follows fb.resnet.torch, and many copies of it.
DXY = ResNetNames(
    "d-x-y",
    stem=("conv_1_3x3", "bn_1"),
    block="stage_{}.{}",
    convs=("conv_a", "conv_b"),
    norms=("bn_a", "bn_b"),
    shortcut=("downsample.conv", "downsample.bn"),
    classifier="classifier",
)
PROGRAMS = {names.program: names for names in (TORCHVISION, AKAMASTER, DXY)}


def choose_names(first_tensor: str, tensors: Collection[str]) -> ResNetNames:
    """Return the names of the program from which tensors are.

    Args:
        first_tensor: the tensor by which the model was recognized, of one of the programs.
        tensors: names of all tensors, without prefixes.
    """
    if first_tensor == DXY.first_tensor:
        return DXY
    return AKAMASTER if f"{AKAMASTER.classifier}.weight" in tensors else TORCHVISION
