"""Configs of the models that are not chains of ops: residual networks and GoogLeNet."""

from dataclasses import dataclass, field

from alexnet_jax.errors import InputError
from alexnet_jax.fields import Section
from alexnet_jax.models.model_config import ModelConfig

STEMS = ("imagenet", "small")
NORMALIZATIONS = ("lrn", "batch_norm", "none")
AUX_POOLINGS = ("windows", "adaptive")
BLOCKS = ("basic", "bottleneck")
SHORTCUTS = ("A", "B", "C", "none")
STRIDES_IN = ("1x1", "3x3")


@dataclass
class BatchNormConfig(Section):
    """The hyperparameters of batch normalization; see `layers.batch_norm.BatchNorm`.

    Attributes:
        momentum: factor of the running averages in their update.
        epsilon: constant that is added to the variance.
        unbiased: average the unbiased variance, as PyTorch and Caffe do; False averages the biased
            one, as Flax does.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    unbiased: bool = True

    def check(self) -> None:
        """Raise InputError if a number is out of range."""
        if not 0 <= self.momentum < 1:
            raise InputError(
                f"model.batch_norm.momentum={self.momentum}; expected from 0 to below 1"
            )
        if self.epsilon <= 0:
            raise InputError(f"model.batch_norm.epsilon={self.epsilon}; expected more than 0")


@dataclass
class ResNetConfig(ModelConfig):
    """The config of a residual network (He et al. 2015, arXiv:1512.03385).

    The defaults are those of ResNet-50 (table 1).

    Attributes:
        stem: "imagenet" begins with a 7×7 convolution of stride 2 and max pooling; "small" with a
            3×3 convolution of stride 1, for images of about 32 pixels (section 4.2).
        pool_padding: pixels of padding around the input of the max pooling: 0 cuts off the last
            window, as in the authors' Caffe models; 1 is that of PyTorch.
        width: number of filters of the stem and of the 3×3 convolutions of the first stage; each
            stage has twice as many as the one before.
        stage_sizes: number of blocks of each stage. The first block of each stage but the first
            halves the image.
        block: "basic" has two 3×3 convolutions; "bottleneck" has 1×1, 3×3 and 1×1 convolutions,
            of which the last has four times as many filters (figure 5).
        shortcut: "A" subsamples and adds channels of zeros where a block changes the shape, "B"
            has a projection there, "C" everywhere (section 4.1); "none" makes a plain network.
        stride_in: convolution of a bottleneck with the stride: the first "1x1", as in the paper,
            or the "3x3", as in "v1.5" of other programs.
        batch_norm: the batch normalization after every convolution.
    """

    stem: str = "imagenet"
    pool_padding: int = 0
    width: int = 64
    stage_sizes: tuple[int, ...] = (3, 4, 6, 3)
    block: str = "bottleneck"
    shortcut: str = "B"
    stride_in: str = "1x1"
    batch_norm: BatchNormConfig = field(default_factory=BatchNormConfig)

    def check(self, crop: int) -> None:
        """See `ModelConfig`."""
        _check_word("stem", self.stem, STEMS)
        _check_word("block", self.block, BLOCKS)
        _check_word("shortcut", self.shortcut, SHORTCUTS)
        _check_word("stride_in", self.stride_in, STRIDES_IN)
        if self.pool_padding not in (0, 1):
            raise InputError(f"model.pool_padding={self.pool_padding}; expected 0 or 1")
        if self.width < 1:
            raise InputError(f"model.width={self.width}; expected 1 or more")
        if not self.stage_sizes or min(self.stage_sizes) < 1:
            raise InputError(
                f"model.stage_sizes={self.stage_sizes}; expected one stage or more, of one block "
                "or more each"
            )
        if self.stem == "imagenet" and crop < 5:
            raise InputError(
                f"data.crop={crop} is too small for the model; expected 5 or more pixels"
            )
        self.batch_norm.check()

    def normalizes_batches(self) -> bool:
        """See `ModelConfig`."""
        return True


@dataclass
class GoogLeNetConfig(ModelConfig):
    """The config of GoogLeNet (Szegedy et al. 2014, arXiv:1409.4842); the defaults are the paper's.

    Attributes:
        stem: "imagenet" begins with two convolutions, of which the first has stride 2, and two
            max poolings (table 1); "small" with a 3×3 convolution of stride 1 and one max pooling,
            for images of about 32 pixels.
        width: factor of the number of filters of every layer of table 1.
        normalization: "lrn" has two response normalizations in the stem, as BVLC's replica does;
            "batch_norm" normalizes the batch after every convolution, in place of its biases, as
            torchvision does; "none" has neither.
        large_kernel: side of the larger kernels of the Inception modules; torchvision has 3.
        pool4_window: side of the windows of the max pooling after module 4e; torchvision has 2.
        ceil_mode: whether poolings of stride 2 keep a last window that overhangs, as Caffe and
            torchvision do; the ONNX model zoo's file omits it. See `layers.pooling.max_pool`.
        dropout: probability that a feature is dropped before the classifier.
        aux_weight: weight of each auxiliary classifier in the loss; 0 for none of them.
        aux_pooling: "windows" of 5×5 pixels with stride 3 before an auxiliary classifier;
            "adaptive" makes 4×4 means of any image, as torchvision does.
        aux_dropout: probability that a unit is dropped in an auxiliary classifier.
        batch_norm: hyperparameters of normalization "batch_norm".
    """

    stem: str = "imagenet"
    width: float = 1.0
    normalization: str = "lrn"
    large_kernel: int = 5
    pool4_window: int = 3
    ceil_mode: bool = True
    dropout: float = 0.4
    aux_weight: float = 0.3
    aux_pooling: str = "windows"
    aux_dropout: float = 0.7
    batch_norm: BatchNormConfig = field(default_factory=BatchNormConfig)

    def check(self, crop: int) -> None:
        """See `ModelConfig`."""
        _check_word("stem", self.stem, STEMS)
        _check_word("normalization", self.normalization, NORMALIZATIONS)
        _check_word("aux_pooling", self.aux_pooling, AUX_POOLINGS)
        for name, value, expected, is_valid in (
            ("width", self.width, "more than 0", self.width > 0),
            ("large_kernel", self.large_kernel, "3 or 5", self.large_kernel in (3, 5)),
            ("pool4_window", self.pool4_window, "2 or 3", self.pool4_window in (2, 3)),
            ("dropout", self.dropout, "from 0 to below 1", 0 <= self.dropout < 1),
            ("aux_dropout", self.aux_dropout, "from 0 to below 1", 0 <= self.aux_dropout < 1),
            ("aux_weight", self.aux_weight, "0 or more", self.aux_weight >= 0),
        ):
            if not is_valid:
                raise InputError(f"model.{name}={value}; expected {expected}")
        smallest = self._smallest_crop()
        if crop < smallest:
            raise InputError(
                f"data.crop={crop} is too small for the model; expected {smallest} or more pixels"
            )
        self.batch_norm.check()

    def normalizes_batches(self) -> bool:
        """See `ModelConfig`."""
        return self.normalization == "batch_norm"

    def _smallest_crop(self) -> int:
        """Return the smallest side of an image in which every window fits."""
        side = 5 if self.aux_weight and self.aux_pooling == "windows" else self.pool4_window
        poolings = 3 if self.stem == "imagenet" else 2
        for _ in range(poolings):  # 3×3 windows with stride 2
            side = max(3, 2 * side) if self.ceil_mode else 2 * side + 1
        return 2 * side - 1 if self.stem == "imagenet" else side


def _check_word(name: str, value: str, words: tuple[str, ...]) -> None:
    """Raise InputError unless the value of a field is one of the words."""
    if value not in words:
        raise InputError(f"model.{name}={value}; expected one of {', '.join(words)}")
