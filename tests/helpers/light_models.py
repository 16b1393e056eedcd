"""The graphs of the ONNX model zoo that the onnx package contains, with drawn weights.

In the package their weights are operators: ConstantOfShape, of a shape that is an initializer and
one of the graph's inputs. Biases of at most 64 numbers are those of the zoo.
"""

from functools import partial
from pathlib import Path

import jax
import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from alexnet_jax.models import registry
from alexnet_jax.trained import TrainedModel

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
IMAGES = ("data_0", "gpu_0/data_0")
QUICK = {"xla_backend_optimization_level": 0}  # to compile, for what runs once
KEPT = (3, 1000)  # numbers of colors and of classes


def make_light_model(name: str, share: int = 1) -> onnx.ModelProto:
    """Return a model of the package, such as vgg19, with weights that keep the size of activations.

    Biases stay operators of one number, and the drawn weights are inputs, too. All arrays of batch
    normalizations are drawn.

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
        (output,), sizes = node.output, _divided(shapes[node.output[0]].tolist(), share)
        if len(sizes) == 1:
            _replace(tensors[node.input[0]], np.array(sizes))
            continue
        weight = rng.standard_normal(sizes, np.float32) * (2 / np.prod(sizes[1:])) ** 0.5
        graph.node.remove(node)
        graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), output))
        graph.input.append(onnx.helper.make_tensor_value_info(output, 1, sizes))
    _shrink(graph, share)
    _draw_norms(graph, rng)
    return model


def _divided(shape: list[int], share: int) -> list[int]:
    """Return the shape of an array with a share of its channels and units."""
    if shape[:2] == [1, 1]:  # of a fully-connected layer, like a blob of Caffe's old format
        return [1, 1, *_divided(shape[2:], share)]
    return [size if size in KEPT else size // share for size in shape[:2]] + shape[2:]


def _shrink(graph: onnx.GraphProto, share: int) -> None:
    """Divide the sizes of biases that are stored, and those of the flattened activations."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Conv" and len(node.input) > 2 and node.input[2] in stored:
            bias = numpy_helper.to_array(stored[node.input[2]])
            _replace(stored[node.input[2]], bias[: len(bias) // share])
        if node.op_type == "Reshape":
            sizes = numpy_helper.to_array(stored[node.input[1]])
            _replace(stored[node.input[1]], np.array(_divided([*sizes.tolist()], share)))
    _update_inputs(graph)


def _draw_norms(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    """Give batch normalizations drawn scales, biases, means and variances, which are stored."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    kernels = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "Conv"}
    made = {node.output[0]: node for node in graph.node if node.op_type == "ConstantOfShape"}
    for node in [*graph.node]:
        if node.op_type != "BatchNormalization":
            continue
        (features, *_) = stored[kernels[node.input[0]]].dims
        for name, low in zip(node.input[1:], (0.5, -0.5, -0.5, 0.5), strict=True):
            if name in made:
                graph.node.remove(made[name])
                graph.initializer.append(onnx.TensorProto(name=name))
                stored[name] = graph.initializer[-1]
                graph.input.append(onnx.helper.make_empty_tensor_value_info(name))
            _replace(stored[name], rng.uniform(low, low + 1, features).astype(np.float32))
    _update_inputs(graph)


def _update_inputs(graph: onnx.GraphProto) -> None:
    """Give the inputs the shapes of the initializers of the same names."""
    values = {value.name: value for value in graph.input}
    for tensor in graph.initializer:
        if tensor.name in values:
            changed = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            values[tensor.name].CopyFrom(changed)


def _replace(tensor: onnx.TensorProto, array: np.ndarray) -> None:
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def check_logits(trained: TrainedModel, model: onnx.ModelProto) -> None:
    """Assert that our logits are ONNX Runtime's.

    Args:
        trained: our model.
        model: the same model in ONNX, to which an output is added.
    """
    images = np.random.default_rng(1).normal(0, 50, (1, 224, 224, 3)).astype(np.float32)
    apply = partial(registry.apply_model, registry.make_model(trained.config))
    ours = jax.jit(apply, compiler_options=QUICK)(trained.variables, images)[0].logits
    output = [node.output[0] for node in model.graph.node if node.op_type == "Gemm"][-1]
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(output))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # of weights among the inputs
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (source,) = (value.name for value in session.get_inputs() if value.name in IMAGES)
    (theirs,) = session.run([output], {source: images.transpose(0, 3, 1, 2)})
    largest = np.abs(theirs).max()
    assert theirs.std() > 0.1 * largest
    # Float32 sums of up to 25,088 terms in another order, and LRN by another formula.
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=1e-5 * largest)
