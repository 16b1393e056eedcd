"""The graphs of the ONNX model zoo that the onnx package contains, with drawn weights.

In the package their weights are operators: ConstantOfShape, of a shape that is an initializer and
one of the graph's inputs. Biases of at most 64 numbers are those of the zoo.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
IMAGES = ("data_0", "gpu_0/data_0")
KEPT = (3, 1000)  # numbers of colors and of classes


def make_light_model(name: str, share: int = 1) -> onnx.ModelProto:
    """Return a model of the package, such as vgg19, with weights that keep the size of activations.

    Biases stay operators of one number, and the drawn weights are inputs, too.

    Args:
        name: name of the model there.
        share: divisor of the numbers of channels and units.
    """
    model = onnx.load(FOLDER / f"light_{name}.onnx")
    graph = model.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    shapes = {
        node.output[0]: numpy_helper.to_array(tensors[node.input[0]])
        for node in graph.node
        if node.op_type == "ConstantOfShape"
    }
    rng = np.random.default_rng(0)
    for node in [*graph.node]:
        if node.op_type != "ConstantOfShape":
            continue
        (output,), shape = node.output, shapes[node.output[0]]
        divided = [size if size in KEPT else size // share for size in shape[:2].tolist()]
        sizes = [*divided, *shape[2:].tolist()]
        if len(sizes) == 1:
            _replace(tensors[node.input[0]], np.array(sizes))
            continue
        weight = rng.standard_normal(sizes, np.float32) * (2 / np.prod(sizes[1:])) ** 0.5
        graph.node.remove(node)
        graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), output))
        graph.input.append(onnx.helper.make_tensor_value_info(output, 1, sizes))
    _shrink(graph, share)
    return model


def _shrink(graph: onnx.GraphProto, share: int) -> None:
    """Divide the sizes of biases that are stored, and those of the flattened activations."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Conv" and node.input[2] in stored:
            bias = numpy_helper.to_array(stored[node.input[2]])
            _replace(stored[node.input[2]], bias[: len(bias) // share])
        if node.op_type == "Reshape":
            batch, units = numpy_helper.to_array(stored[node.input[1]])
            _replace(stored[node.input[1]], np.array([batch, units // share]))
    values = {value.name: value for value in graph.input}
    for tensor in graph.initializer:
        if tensor.name in values:
            changed = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            values[tensor.name].CopyFrom(changed)


def _replace(tensor: onnx.TensorProto, array: np.ndarray) -> None:
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def logits_name(model: onnx.ModelProto) -> str:
    """Return the name of the last fully-connected layer's output."""
    name: str = [node.output[0] for node in model.graph.node if node.op_type == "Gemm"][-1]
    return name
