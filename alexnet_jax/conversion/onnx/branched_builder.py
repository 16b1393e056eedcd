"""The ONNX graphs of GoogLeNet and residual networks.

Every variable is a tensor named by its path, such as params/conv2_1/conv1/kernel, in the layout of
ONNX; outputs of operators have the names of the activations. Batch normalization remains an
operator, so that all numbers are exact copies.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from alexnet_jax.config import with_changes
from alexnet_jax.conversion import branched
from alexnet_jax.conversion.onnx.builder import GraphBuilder
from alexnet_jax.models import googlenet
from alexnet_jax.models.branched_config import GoogLeNetConfig, ResNetConfig
from alexnet_jax.models.branched_layers import same_padding
from alexnet_jax.trained import TrainedModel

NORM = ("params/{}/scale", "params/{}/bias", "batch_stats/{}/mean", "batch_stats/{}/var")


def without_aux(model: TrainedModel) -> TrainedModel:
    """Return a model without auxiliary classifiers, which are of use in training only."""
    config = model.config
    if not (isinstance(config.model, GoogLeNetConfig) and config.model.aux_weight):
        return model
    variables = {
        collection: {layer: x for layer, x in part.items() if not layer.startswith("aux")}
        for collection, part in model.variables.items()
    }
    config = with_changes(config, {"model.aux_weight": 0.0})
    return replace(model, config=config, variables=variables)


class BranchedBuilder(GraphBuilder):
    """Build the graph of GoogLeNet without auxiliary classifiers, or of a residual network."""

    def __init__(self, model: TrainedModel) -> None:
        """Build the graph of a model."""
        super().__init__(model)
        self.arrays = branched.to_foreign(model.variables)
        for path, array in self.arrays.items():
            self.add_tensor(path, array)
        config = model.config.model
        assert isinstance(config, ResNetConfig | GoogLeNetConfig)
        self.epsilon = config.batch_norm.epsilon
        if isinstance(config, ResNetConfig):
            self._append_resnet(config)
        else:
            self._append_googlenet(config)
        self.append("GlobalAveragePool", name="global_pool")
        self.append("Flatten", axis=1)
        self.append("Gemm", "params/fc/kernel", "params/fc/bias", name="fc", transB=1)
        self.append("Identity", name="logits")

    def _append_conv(self, name: str, norm: str, stride: int = 1) -> None:
        """Append a convolution, and its batch normalization if the model has it.

        Args:
            name, norm: their names.
            stride: distance between windows in pixels.
        """
        kernel, bias = f"params/{name}/kernel", f"params/{name}/bias"
        side = self.arrays[kernel].shape[-1]
        self.append(
            "Conv",
            *(path for path in (kernel, bias) if path in self.arrays),
            name=name,
            kernel_shape=[side] * 2,
            strides=[stride] * 2,
            pads=[*same_padding(side)] * 2,
        )
        tensors = [path.format(norm) for path in NORM]
        if tensors[-1] in self.arrays:
            self.append("BatchNormalization", *tensors, name=norm, epsilon=self.epsilon)

    def _append_pool(self, name: str, window: int, stride: int, **attributes: Any) -> None:
        """Append a max pooling."""
        shape = dict(kernel_shape=[window] * 2, strides=[stride] * 2)
        self.append("MaxPool", name=name, **shape, **attributes)

    def _append_resnet(self, config: ResNetConfig) -> None:
        """Append the layers before the global pooling; see `models.resnet.ResNet`."""
        is_small = config.stem == "small"
        self._append_conv("conv1", "bn1", 1 if is_small else 2)
        self.append("Relu", name="relu1")
        if not is_small:
            padding = config.pool_padding
            self._append_pool("pool1", 3, 2, ceil_mode=int(not padding), pads=[padding] * 4)
        channels = config.width
        for stage, size in enumerate(config.stage_sizes, 2):
            for index in range(1, size + 1):
                stride = 2 if stage > 2 and index == 1 else 1
                channels = self._append_block(config, f"conv{stage}_{index}", stride, channels)

    def _append_block(self, config: ResNetConfig, name: str, stride: int, channels: int) -> int:
        """Append a block, and return the number of its output channels.

        Args:
            config: config of the model.
            name: name of the block.
            stride: 2 to halve the image, or 1.
            channels: number of its input channels.
        """
        inputs = self.output
        has_three = f"params/{name}/conv3/kernel" in self.arrays
        strided, last = (2 if has_three and config.stride_in == "3x3" else 1), 2 + has_three
        for number in range(1, last + 1):
            self._append_conv(
                f"{name}/conv{number}", f"{name}/bn{number}", stride if number == strided else 1
            )
            if number < last:
                self.append("Relu", name=f"{name}/relu{number}")
        outputs = len(self.arrays[f"params/{name}/conv{last}/kernel"])
        if config.shortcut != "none":
            added, self.output = self.output, inputs
            self._append_shortcut(name, stride, outputs - channels)
            self.append("Add", added, name=f"{name}/sum")
        self.append("Relu", name=f"{name}/relu")
        return outputs

    def _append_shortcut(self, name: str, stride: int, new_channels: int) -> None:
        """Append what a shortcut does to the inputs of a block: nothing, or a change of shape."""
        if f"params/{name}/shortcut_conv/kernel" in self.arrays:
            self._append_conv(f"{name}/shortcut_conv", f"{name}/shortcut_bn", stride)
            return
        if stride > 1:
            first, last = np.zeros(2, np.int64), np.full(2, np.iinfo(np.int64).max)
            axes, steps = np.array([2, 3]), np.full(2, stride)
            self.append("Slice", first, last, axes, steps, name=f"{name}/subsampled")
        if new_channels:
            pads = np.array([0, 0, 0, 0, 0, new_channels, 0, 0])  # before and after every axis
            self.append("Pad", pads, name=f"{name}/padded")

    def _append_googlenet(self, config: GoogLeNetConfig) -> None:
        """Append the layers before the global pooling; see `models.googlenet.GoogLeNet`."""
        ceil_mode, is_small = int(config.ceil_mode), config.stem == "small"
        self._append_conv_relu("conv1", 1 if is_small else 2)
        self._append_pool("pool1", 3, 2, ceil_mode=ceil_mode)
        self._append_lrn(config, "norm1")
        if not is_small:
            self._append_conv_relu("conv2_reduce")
            self._append_conv_relu("conv2")
            self._append_lrn(config, "norm2")
            self._append_pool("pool2", 3, 2, ceil_mode=ceil_mode)
        for module in googlenet.INCEPTION:
            self._append_inception(f"inception_{module}")
            if module == "3b":
                self._append_pool("pool3", 3, 2, ceil_mode=ceil_mode)
            if module == "4e":
                self._append_pool("pool4", config.pool4_window, 2, ceil_mode=ceil_mode)

    def _append_conv_relu(self, name: str, stride: int = 1) -> None:
        """Append a convolution, its batch normalization if the model has it, and ReLU."""
        self._append_conv(name, f"{name}_bn", stride)
        self.append("Relu", name=f"{name}_relu")

    def _append_lrn(self, config: GoogLeNetConfig, name: str) -> None:
        """Append response normalization, if the model has it."""
        size, k, alpha, beta = googlenet.LRN
        if config.normalization == "lrn":
            self.append("LRN", name=name, size=size, bias=k, alpha=alpha * size, beta=beta)

    def _append_inception(self, name: str) -> None:
        """Append an Inception module; see `models.googlenet.Inception`."""
        inputs, outputs = self.output, []
        for convs in (("1x1",), ("3x3_reduce", "3x3"), ("5x5_reduce", "5x5"), ("pool_proj",)):
            self.output = inputs
            if convs == ("pool_proj",):
                self._append_pool(f"{name}/pool", 3, 1, pads=[1] * 4)
            for conv in convs:
                self._append_conv_relu(f"{name}/{conv}")
            outputs.append(self.output)
        self.output = outputs[0]
        self.append("Concat", *outputs[1:], name=f"{name}/output", axis=1)
