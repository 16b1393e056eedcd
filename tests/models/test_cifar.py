"""The authors' networks for CIFAR-10: sizes, forward passes and training, beside other programs."""

from functools import partial
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import torch_cifar
from helpers.config_files import differences, load
from helpers.foreign_files import blob, wire
from helpers.torch_reference import random_params

from alexnet_jax import describe, fields, sharding
from alexnet_jax.analysis.summary import abstract_activations, summarize
from alexnet_jax.config import Config, sequential_model, validated
from alexnet_jax.data.batch import Batch
from alexnet_jax.data.epochs import make_epochs
from alexnet_jax.errors import InputError
from alexnet_jax.models import registry
from alexnet_jax.models.ops import AvgPool, Dense, LayerOp, LocalConv
from alexnet_jax.optimizer import weight_decay
from alexnet_jax.pytree import leaves_by_path
from alexnet_jax.schedules import learning_rates
from alexnet_jax.train_step import make_state, make_train_step
from configs import cifar

pytestmark = pytest.mark.usefixtures("double_precision")

QUICK = {"xla_backend_optimization_level": 0}  # to compile, for what runs once
WORDS = tuple(torch_cifar.NETWORKS)


def narrow(word: str, features: int = 4) -> Config:
    """Return a network with few channels, not yet sealed."""
    config = load("cifar.py", word)
    for op in sequential_model(config).ops.values():
        if isinstance(op, LayerOp) and op.features:
            op.features = features
    config.model.num_classes = 10
    return config


@pytest.mark.parametrize(
    ("word", "parameters"),
    [("80sec", 145_578), ("18pct", 89_578), ("13pct", 1_116_490), ("11pct", 2_112_970)],
)
def test_parameters(word: str, parameters: int) -> None:
    """Counted by hand from the layer files; Caffe's cifar10_quick and _full have the first two.

    Catches: biases of a local layer shared between places, sizes rounded down, another width.
    """
    rows = summarize(describe.with_classes(load("cifar.py", word)))
    assert sum(row.parameters for row in rows) == parameters
    kinds = {row[0] for row in torch_cifar.NETWORKS[word] if len(row) == 4}
    assert {row.name for row in rows} == kinds
    widths = {row[0]: row[2] for row in torch_cifar.NETWORKS[word] if len(row) == 4}
    assert {row.name: row.output[-1] for row in rows} == widths


def test_default_and_sizes() -> None:
    """Catches: another default; multiply-adds of a local layer counted at each place."""
    assert load("cifar.py", "") == load("cifar.py", "13pct")
    rows = {row.name: row for row in summarize(describe.with_classes(load("cifar.py", "")))}
    assert rows["local3"].multiply_adds == 36 * 9 * 64 * 32
    shapes = abstract_activations(describe.with_classes(load("cifar.py", "80sec")))
    assert [shapes[f"pool{n}"].shape[1] for n in (1, 2, 3)] == [16, 8, 4]


def test_changes() -> None:
    """A comparison of 11pct with and without normalization changes nothing else.

    Catches: a word that changes nothing, or another field.
    """
    for word, norms in (("18pct", {"rnorm1", "rnorm2"}), ("11pct", {"norm1", "norm2"})):
        fields_changed = differences(load("cifar.py", word), load("cifar.py", f"{word},no_lrn"))
        assert fields_changed == {f"model.ops.{name}" for name in norms}
    for word in ("80sec", "13pct"):
        with pytest.raises(InputError, match="no_lrn removes response normalization, but the"):
            load("cifar.py", f"{word},no_lrn")
    for variant in ("tanh", "13pct,sample,tanh", "sample,80sec"):
        validated(load("cifar.py", variant))


# Standard deviations of the initial weights, initW.
INIT = {
    "80sec": dict(conv1=0.0001, conv2=0.01, conv3=0.01, fc64=0.1, fc10=0.1),
    "18pct": dict(conv1=0.0001, conv2=0.01, conv3=0.01, fc10=0.01),
    "13pct": dict(conv1=0.0001, conv2=0.01, local3=0.04, local4=0.04, fc10=0.01),
    "11pct": dict(conv1=0.0001, conv2=0.01, local3=0.04, local4=0.04, fc10=0.01),
}


@pytest.mark.parametrize("word", WORDS)
def test_initial_weights_rates_and_decays(word: str) -> None:
    """Catches: a value of another layer or file, decay of biases, equal rates of biases."""
    config = validated(describe.with_classes(load("cifar.py", word)))
    assert sequential_model(config).init == "normal"
    ops = sequential_model(config).ops
    assert {n: (op.std, op.bias) for n, op in ops.items() if isinstance(op, LayerOp)} == {
        name: (std, 0.0) for name, std in INIT[word].items()
    }
    variables = registry.abstract_variables(config)["params"]
    decays = {row[0]: row[3] for row in torch_cifar.NETWORKS[word] if len(row) == 4}
    rates = leaves_by_path(learning_rates(config, 50_000, 0, jnp.float32(0.001), variables))
    for name, decay in decays.items():
        assert weight_decay(config.optimizer, f"{name}/kernel") == pytest.approx(decay)
        assert weight_decay(config.optimizer, f"{name}/bias") == 0
        assert float(rates[f"{name}/kernel"]) == pytest.approx(0.001)
        assert float(rates[f"{name}/bias"]) == pytest.approx(0.002)
    assert (config.batch_size, config.optimizer.momentum) == (128, 0.9)


def test_a_local_layer_is_initialized_from_its_deviation() -> None:
    """Catches: a fan-in of all places, or the deviation of another op."""
    for init, std in (("normal", 0.04), ("scaled", (2 / (9 * 3)) ** 0.5)):
        config = narrow("13pct")
        sequential_model(config).init = init
        sequential_model(config).ops = dict(local3=LocalConv(8, kernel=3, std=0.04), fc10=Dense(0))
        config.data.crop = 8
        variables = registry.init_variables(config)["params"]
        assert np.asarray(variables["local3"]["kernel"]).std() == pytest.approx(std, rel=0.05)
        assert not np.asarray(variables["local3"]["bias"]).any()


@pytest.mark.parametrize("word", WORDS)
def test_rates_after_drops(word: str) -> None:
    """All rates are divided, or those of weights alone (epsW) in the networks with local layers.

    Catches: biases that follow the weights, or do not, against the authors' files.
    """
    config = validated(describe.with_classes(load("cifar.py", word)))
    variables = registry.abstract_variables(config)["params"]
    step = make_epochs(config, 50_000).first_step(config.epochs) - 1
    drops = len(config.schedule.drop_epochs)
    rate = jnp.float32(0.001 * 0.1**drops)
    rates = leaves_by_path(learning_rates(config, 50_000, step, rate, variables))
    weights_only = word in ("13pct", "11pct")
    assert float(rates["conv1/kernel"]) == pytest.approx(0.001 * 0.1**drops)
    expected = 0.002 if weights_only else 0.002 * 0.1**drops
    assert float(rates["conv1/bias"]) == pytest.approx(expected)


def as_tensors(params: Any, *, grad: bool = False) -> dict[str, dict[str, torch.Tensor]]:
    """Return parameters as float64 tensors."""
    return {
        name: {
            part: torch.tensor(np.asarray(array, np.float64), requires_grad=grad)
            for part, array in layer.items()
        }
        for name, layer in params.items()
    }


@pytest.mark.parametrize("word", WORDS)
def test_forward_pass_is_that_of_pytorch(word: str) -> None:
    """Every activation, at inputs large enough for the normalizations to matter.

    Catches: a layer in another place, alpha not divided by the window, windows that differ, and
    the average of a clipped window.
    """
    config = validated(narrow(word, 12))
    params = random_params(config)
    crop = config.data.crop
    images = np.random.default_rng(1).normal(0, 30, (2, crop, crop, 3))
    compute = partial(registry.compute_activations, registry.make_model(config))
    found = jax.jit(compute, compiler_options=QUICK)({"params": params}, jnp.float32(images))
    expected = torch_cifar.forward(word, as_tensors(params), torch.tensor(images))
    assert [*expected] == [*sequential_model(config).ops]
    for name, tensor in expected.items():
        array = tensor.numpy()
        np.testing.assert_allclose(
            found[name], array, rtol=0, atol=2e-6 * np.abs(array).max(), err_msg=name
        )


FILES, IMAGES = 5, 5  # of a small copy of the training set, in minibatches of 4


def short_recipe(word: str) -> tuple[Config, list[tuple[int, float, float]]]:
    """Return a network and its recipe in few steps, and (files, epsW, epsB) of each epoch."""
    config = narrow(word)
    config.batch_size = 4
    config.data.scale = 1 / 64  # weights are those of `random_params`
    config.learning_rate = 0.02
    if config.data.stages:
        cifar.set_stages(config, alone=1, folded_in=1)
        config.data.stages = ((1, (FILES - 1) * IMAGES), (2, FILES * IMAGES))
        epochs = [(4, 0.02, 0.04), (5, 0.02, 0.04), (5, 0.002, 0.04)]
    else:
        config.schedule.drop_epochs = (2,)
        epochs = [(5, 0.02, 0.04), (5, 0.002, 0.004)]
    config.data.part_images = IMAGES
    return validated(config), epochs


SLOW = pytest.mark.slow  # 18pct and 11pct have all of the ops


@pytest.mark.parametrize(
    "word", [pytest.param(w, marks=SLOW) if w in ("80sec", "13pct") else w for w in WORDS]
)
def test_training_is_that_of_pytorch(word: str) -> None:
    """Stages, short minibatches, rates and decays of each layer give PyTorch's parameters.

    Catches: a gradient divided by 4 where a minibatch has one image; the momentum reset when the
    fifth file is added or the rate drops; the rate outside of the momentum; a decay or rate of
    another layer; a gradient of a local layer, an average pooling or a normalization.
    """
    config, epochs = short_recipe(word)
    crop, start = config.data.crop, random_params(config)
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (FILES * IMAGES, crop, crop, 3), np.uint8)
    labels, mean = rng.integers(0, 10, FILES * IMAGES), rng.uniform(100, 150, (crop, crop, 3))

    params = as_tensors(start, grad=True)
    incs = {name: {p: torch.zeros_like(w) for p, w in q.items()} for name, q in params.items()}
    expected_losses = []
    inputs = (torch.tensor(images) - torch.tensor(mean)) / 64
    for files, eps_w, eps_b in epochs:
        for chosen in torch_cifar.minibatches(files, IMAGES, 4):
            logits = torch_cifar.forward(word, params, inputs[[*chosen]])["fc10"]
            loss = F.cross_entropy(logits, torch.tensor(labels[[*chosen]]))
            for layer in params.values():
                for w in layer.values():
                    w.grad = None
            loss.backward()
            expected_losses.append(loss.item())
            with torch.no_grad():
                torch_cifar.update(params, incs, word, eps_w, eps_b)

    step_fn = make_train_step(config, sharding.make_mesh(config.parallel), FILES * IMAGES)
    quick = jax.jit(lambda *arguments: step_fn(*arguments), compiler_options=QUICK)
    state = make_state(config, jax.tree.map(jnp.float32, {"params": start}))
    plan, losses = make_epochs(config, FILES * IMAGES), []
    for step in range(len(expected_losses)):
        examples = plan.examples(step, np.arange(4))
        assert examples.mask is not None
        batch = Batch(
            image=images[examples.position],
            offset=np.zeros((4, 2), np.int32),
            flip=np.zeros(4, bool),
            label=labels[examples.position].astype(np.int32),
            mask=examples.mask,
            example=examples.number.astype(np.uint32),
            shift=np.zeros((4, 3), np.float32),
            gain=np.ones(4, np.float32),
        )
        state, metrics = quick(state, jnp.float32(mean), batch)
        assert int(metrics.sums.count) == examples.mask.sum()
        losses.append(float(metrics.sums.loss / metrics.sums.count))
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
    found = leaves_by_path(state.params)
    for name, layer in params.items():
        for part, tensor in layer.items():
            array, before = tensor.detach().numpy(), start[name][part]
            moved = np.abs(array - before).max()
            assert moved > 0
            difference = np.abs(np.asarray(found[f"{name}/{part}"]) - array).max()
            assert difference <= 1e-4 * moved + 2e-7 * np.abs(array).max(), (name, part)


def caffe_network(word: str, params: Any) -> tuple[bytes, bytes]:
    """Return the definition and the weights of Caffe's cifar10_quick or cifar10_full.

    cifar10_quick is 80sec without the ReLU between its last two layers.
    """
    rows, text, content = torch_cifar.NETWORKS[word], ['input: "data"'], b""
    text += [f"input_dim: {n}" for n in (1, 3, 32, 32)]
    bottom = "data"
    pool = "kernel_size: 3 stride: 2"
    norm = "local_size: 3 alpha: 5e-05 beta: 0.75 norm_region: WITHIN_CHANNEL"
    for name, kind, *_ in rows:
        if name == "relu4":
            continue
        weights = params.get(name, {})
        outputs = weights["bias"].shape[-1] if weights else 0
        kernel = np.asarray(weights["kernel"]) if weights else np.zeros(0)
        match kind:
            case "conv":
                kernel = kernel.transpose(3, 2, 0, 1)
                layer, own = "Convolution", f"num_output: {outputs} pad: 2 kernel_size: 5 stride: 1"
            case "fc":
                channels = 4 if kernel.shape[0] == 4 * 16 else 0  # that of pool3, 4 × 4 pixels
                if channels:
                    kernel = kernel.reshape(4, 4, channels, -1).transpose(2, 0, 1, 3)
                kernel = kernel.reshape(-1, outputs).T
                layer, own = "InnerProduct", f"num_output: {outputs}"
            case "max" | "avg":
                layer, own = "Pooling", f"pool: {'MAX' if kind == 'max' else 'AVE'} {pool}"
            case "rnorm":
                layer, own = "LRN", norm
            case _:
                layer, own = "ReLU", ""
        sections = dict(Convolution="convolution", InnerProduct="inner_product", Pooling="pooling")
        parameter = f"{sections.get(layer, layer.lower())}_param {{ {own} }}" if own else ""
        places = f'bottom: "{bottom}" top: "{name}"'
        text.append(f'layer {{ name: "{name}" type: "{layer}" {places} {parameter} }}')
        bottom = name
        if weights:
            blobs = b"".join(
                wire(7, blob(np.ascontiguousarray(array, np.float32), shaped=True))
                for array in (kernel, weights["bias"])
            )
            content += wire(100, wire(1, name) + wire(2, layer) + blobs)
    return "\n".join(text).encode(), content


@pytest.mark.parametrize("word", ["80sec", "18pct"])
def test_caffes_copies_in_opencv(word: str) -> None:
    """OpenCV computes Caffe's cifar10_quick and cifar10_full, as our 80sec and 18pct do.

    Catches: averages over other windows, a normalization with alpha not divided by size².
    """
    config = narrow(word)
    model = sequential_model(config)
    model.ops = {name: op for name, op in model.ops.items() if name != "relu4"}
    params = random_params(validated(config))
    images = np.random.default_rng(1).normal(0, 30, (1, 32, 32, 3)).astype(np.float32)
    files = (np.frombuffer(file, np.uint8) for file in caffe_network(word, params))
    peer = cv2.dnn.readNetFromCaffe(*files)
    peer.enableFusion(False)
    peer.setInput(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    names = [name for name in model.ops if not name.startswith("relu")]
    compute = partial(registry.compute_activations, registry.make_model(config))
    found = jax.jit(compute, compiler_options=QUICK)({"params": params}, images)
    for name, theirs in zip(names, peer.forward(names), strict=True):
        ours = np.asarray(found[name])
        if ours.ndim == 4:
            ours = ours.transpose(0, 3, 1, 2)
        np.testing.assert_allclose(
            ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max(), err_msg=name
        )


def test_local_layers_are_refused_in_columns() -> None:
    """Catches: a traceback for columns, in the model or in the layout on devices."""
    config = narrow("13pct")
    config.parallel.columns = 2
    with pytest.raises(InputError, match=r"columns=2 devices cannot share model\.num_columns=1"):
        validated(config)
    config = narrow("13pct")
    sequential_model(config).num_columns = 2
    with pytest.raises(InputError, match="local3 is a LocalConv in a model of 2 columns"):
        validated(config)


def test_checks_of_the_new_ops() -> None:
    """Catches: a local layer or a pooling whose numbers are not checked, or after fc10's kind."""
    for name, change, message in (
        ("local3", dict(kernel=0), "local3.kernel is 0; expected 1 or more"),
        ("local3", dict(padding=(-1, 1)), "local3.padding is"),
        ("local3", dict(features=0), "local3.features is 0"),
        ("local3", dict(kernel=9), "too small for the model: local3 has a window of 9×9"),
    ):
        config = narrow("13pct")
        ops = sequential_model(config).ops
        ops[name] = fields.replace(ops[name], change)
        with pytest.raises(InputError, match=message):
            validated(config)
    config = narrow("80sec")
    ops = sequential_model(config).ops
    ops["pool2"] = AvgPool(stride=4)
    with pytest.raises(InputError, match=r"pool2\.stride is 4; expected at most the window"):
        validated(config)


def test_dense_evaluation_is_refused() -> None:
    """Catches: weights made for places of a crop applied at places of a whole image."""
    with pytest.raises(InputError, match="the weights of local3 are made for the places in a crop"):
        registry.make_dense_model(validated(narrow("13pct")))
