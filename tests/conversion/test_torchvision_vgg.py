"""torchvision's VGG: its state dicts in both directions, and its ONNX export, beside itself."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from helpers.foreign_files import make_image
from helpers.in_process import run_here
from helpers.torchvision_files import load_state, write_state
from helpers.torchvision_models import make_vgg, models

from alexnet_jax import convert
from alexnet_jax.config import Config, sequential_model, with_changes
from alexnet_jax.conversion import presets
from alexnet_jax.conversion.pytorch.torchvision_chains import choose_modules
from alexnet_jax.errors import InputError
from alexnet_jax.models import registry
from alexnet_jax.models.ops import Dropout, MaxPool, parameter_ops
from alexnet_jax.predict import predict
from alexnet_jax.trained import TrainedModel
from configs import vgg, zfnet

QUICK = {"xla_backend_optimization_level": 0}  # to compile, for what runs once
NAMES = dict(A="vgg11", B="vgg13", D="vgg16", E="vgg19")


def small_config(letter: str = "D", share: int = 16) -> Config:
    """Return the config of torchvision's VGG with a share of its channels and units."""
    config = presets.torchvision_vgg(letter)
    for _, op in parameter_ops(sequential_model(config).ops):
        op.features //= share
    return config


def normalized(pixels: np.ndarray) -> np.ndarray:
    """Return images (1, 224, 224, 3) as torchvision.transforms make them: CenterCrop, Normalize."""
    seen = (pixels[16:240, 16:240] / 255.0 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    return seen[None].astype(np.float32)


def check_logits(model: TrainedModel, peer: torch.nn.Module) -> None:
    """Assert that logits are PyTorch's to 1e-5 of the largest."""
    images = normalized(make_image())
    with torch.no_grad():
        expected = peer(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    apply = partial(registry.apply_model, registry.make_model(model.config))
    ours = jax.jit(apply, compiler_options=QUICK)(model.variables, images)[0].logits
    assert np.ptp(expected) > 0.1
    # Float32 sums in another order.
    np.testing.assert_allclose(
        np.asarray(ours), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("letter", NAMES)
def test_names(letter: str, batch_norm: bool) -> None:
    """Catches: a module that is numbered otherwise than torchvision's, and a model taken for one
    that has more layers or batch normalization."""
    name = NAMES[letter] + ("_bn" if batch_norm else "")
    with torch.device("meta"):
        state = models.get_model(name, init_weights=False).state_dict()
    tensors = [key for key in state if not key.endswith("num_batches_tracked")]
    modules = choose_modules(tensors, None)
    assert modules.name == name
    assert {*modules.tensors()} == {*tensors}
    with torch.device("meta"):
        alexnet = models.get_model("alexnet").state_dict()
    assert {*choose_modules(alexnet, None).tensors()} == {*alexnet}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_both_ways(tmp_path: Path, suffix: str) -> None:
    """Catches: units of the first fully-connected layer in another order, a number that changes on
    the way, and other preprocessing than torchvision's."""
    peer = make_vgg("D", share=16)
    state = peer.state_dict()
    model = convert.read_model(write_state(tmp_path / f"net{suffix}", state), small_config())
    assert model.config.data == presets.torchvision_vgg("D").data
    kernel, weight = model.params["fc6"]["kernel"], state["classifier.0.weight"].numpy()
    row, column, channel = 2, 5, 11
    np.testing.assert_array_equal(
        kernel[(row * 7 + column) * 32 + channel], weight[:, (channel * 7 + row) * 7 + column]
    )
    if suffix == ".pth":
        check_logits(model, peer)
        with torch.no_grad():
            images = torch.tensor(normalized(make_image()).transpose(0, 3, 1, 2))
            expected = peer(images).softmax(1)[0].numpy()
        ((_, best),) = predict(model, [("image", make_image())])
        for name, probability in best:
            assert probability == pytest.approx(float(expected[int(name)]), rel=1e-4)
    convert.write_model(tmp_path / f"again{suffix}", model, names="torchvision")
    again = load_state(tmp_path / f"again{suffix}")
    assert [*again] == [*state] or suffix == ".safetensors"  # which sorts them
    assert {*again} == {*state}
    for name, tensor in state.items():
        assert torch.equal(again[name], tensor), name


def test_decided_by_the_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches: VGG's files that need --config, or a choice that is not printed."""
    for letter in "AE":
        path = write_state(tmp_path / "net.pth", make_vgg(letter, share=16).state_dict())
        with pytest.raises(InputError, match=r"conv1_1 \(4, 3, 3, 3\); expected \(64, 3, 3, 3\)"):
            convert.read_model(path)
        printed = capsys.readouterr().err
        assert f"as for torchvision's {NAMES[letter]}, by the names of its tensors" in printed
    with pytest.raises(
        InputError, match=r"conv1, .*; expected those of torchvision's alexnet, vgg"
    ):
        convert.read_model(path, zfnet.get_config("no_conv4"))
    with pytest.raises(InputError, match=r"no tensor features\.3\.weight"):
        convert.read_model(path, small_config("A"))


def test_batch_normalization(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches: a normalization with another epsilon or with the deviation for the variance, one
    that leaves out the biases of the convolution, and files of PyTorch before 0.4.1 refused, which
    have no counters."""
    peer = make_vgg("D", share=16, batch_norm=True)
    state = peer.state_dict()
    model = convert.read_model(write_state(tmp_path / "net.pth", state), small_config())
    assert "batch normalization (epsilon 1e-05) is folded into" in capsys.readouterr().err
    check_logits(model, peer)
    without = {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}
    path = write_state(tmp_path / "net.safetensors", without)
    again = convert.read_model(path, small_config())
    jax.tree.map(np.testing.assert_array_equal, model.params, again.params)
    convert.write_model(tmp_path / "plain.pth", model)
    assert [*load_state(tmp_path / "plain.pth")] == [*make_vgg("D", share=16).state_dict()]


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("running_var", -torch.ones(4), r"features\.1\.running_var that is negative or NaN"),
        ("running_var", torch.full((4,), torch.nan), r"features\.1\.running_var that is negative"),
        ("running_mean", torch.ones(5), r"features\.1\.running_mean \(5,\); expected \(4,\)"),
        ("weight", torch.full((4,), torch.inf), "conv1_1 has weights that are not finite"),
    ],
)
def test_damaged_batch_normalization(
    tmp_path: Path, name: str, tensor: torch.Tensor, message: str
) -> None:
    """Catches: a root of a negative number, and arrays that are stretched to fit."""
    state = make_vgg("A", share=16, batch_norm=True).state_dict()
    state[f"features.1.{name}"] = tensor
    with pytest.raises(InputError, match=message):
        convert.read_model(write_state(tmp_path / "net.pth", state), small_config("A"))


def with_paper_dropout(config: Config) -> Config:
    sequential_model(config).ops["drop6"] = Dropout()
    return config


def with_larger_crops(config: Config) -> Config:
    config.data.crop, config.data.image_size = 256, 288
    return config


def with_pooling_up(config: Config) -> Config:
    config.data.crop = 223
    for name in ("pool1", "pool2", "pool3", "pool4", "pool5"):
        sequential_model(config).ops[name] = MaxPool(2, 2, ceil_mode=True)
    return config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_paper_dropout, "drop6 multiplies activations at test time"),
        (with_larger_crops, "other layers or sizes than torchvision's models, alexnet, vgg11"),
        (with_pooling_up, "other layers or sizes"),
        (lambda _: zfnet.get_config("sample"), "other layers or sizes"),
    ],
)
def test_export_refused(tmp_path: Path, change: Callable[[Config], Config], message: str) -> None:
    """Catches: a state dict with which torchvision's model computes something else."""
    config = with_changes(change(small_config()), {"model.num_classes": 7})
    model = TrainedModel(config, 0, {}, np.zeros((256, 256, 3), np.float32), tuple("abcdefg"))
    with pytest.raises(InputError, match=message):
        convert.write_model(tmp_path / "net.pth", model)
    assert not [*tmp_path.iterdir()]


def test_the_command(tmp_path: Path) -> None:
    """Catches: names for which a flag is not enough or not needed, and an export that does not
    tell which images its weights are for."""
    state = make_vgg("A", share=16).state_dict()
    model = convert.read_model(write_state(tmp_path / "net.pth", state), small_config("A"))
    convert.write_workdir(tmp_path / "run", model)
    for suffix, flags in ((".pth", ()), (".safetensors", ("--names=torchvision",))):
        target = tmp_path / f"out{suffix}"
        done = run_here("convert", f"--workdir={tmp_path / 'run'}", f"--output={target}", *flags)
        assert done.returncode == 0, done.stderr
        assert "inputs, not stated in it: shorter side to 256, crop 224, RGB, mean" in done.stdout
        assert "divided by (58.395" in done.stdout
        assert all(torch.equal(load_state(target)[name], tensor) for name, tensor in state.items())
    for arguments, message in (
        (("--output=a.onnx",), "--names=torchvision is for .safetensors and .pth"),
        ((f"--input={tmp_path / 'net.pth'}",), "--names is for --output"),
    ):
        run = tmp_path / ("run" if "output" in arguments[0] else "new")
        done = run_here("convert", f"--workdir={run}", "--names=torchvision", *arguments)
        assert done.returncode == 2
        assert message in done.stderr


def test_onnx_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches: PyTorch's export of VGG refused or taken for another model, and other names."""
    path = tmp_path / "vgg16.onnx"
    images = normalized(make_image()).transpose(0, 3, 1, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter that needs no further package
        peer = make_vgg("D", share=16, batch_norm=True)
        torch.onnx.export(peer, (torch.tensor(images),), path, dynamo=False)
    model = convert.read_model(path)
    assert "preprocessing as for torchvision's vgg16, by its layers" in capsys.readouterr().err
    assert model.config.data == presets.torchvision_vgg("D").data
    assert [*model.params] == [n for n, _ in parameter_ops(sequential_model(small_config()).ops)]
    check_logits(model, peer)

    convert.write_model(tmp_path / "ours.onnx", model)
    session = onnxruntime.InferenceSession(
        tmp_path / "ours.onnx", providers=["CPUExecutionProvider"]
    )
    pixels = make_image()[None, 16:240, 16:240].transpose(0, 3, 1, 2).astype(np.float32)
    (logits,) = session.run(None, {"images": pixels})
    with torch.no_grad():
        expected = peer(torch.tensor(images)).numpy()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())

    exported = onnx.load(path)
    del exported.graph.node[[n.op_type for n in exported.graph.node].index("MaxPool") + 1 :]
    exported.graph.output[0].name = exported.graph.node[-1].output[0]
    path.write_bytes(exported.SerializeToString())
    with pytest.raises(InputError, match=r"written by 'pytorch', without LRN, 1 groups"):
        convert.read_model(path)


@pytest.mark.slow
@pytest.mark.parametrize(("letter", "batch_norm"), [("D", False), ("D", True), ("E", False)])
def test_full_size(tmp_path: Path, letter: str, batch_norm: bool) -> None:
    """Catches: files as torchvision has them that need a config; sums whose rounding grows."""
    peer = make_vgg(letter, classes=1000, batch_norm=batch_norm)
    model = convert.read_model(write_state(tmp_path / "net.pth", peer.state_dict()))
    check_logits(model, peer)
    if not batch_norm:
        convert.write_model(tmp_path / "again.pth", model)
        again = load_state(tmp_path / "again.pth")
        assert all(torch.equal(again[name], t) for name, t in peer.state_dict().items())


def test_config_words() -> None:
    """Catches: words of configs/vgg.py whose preprocessing is not that of the published weights."""
    for word, preset in (("caffe", presets.caffe_vgg), ("torchvision", presets.torchvision_vgg)):
        data, expected = vgg.get_config(f"E,{word}").data, preset("E").data
        for field in ("channel_order", "mean", "given_mean", "std", "resize", "crop"):
            assert getattr(data, field) == getattr(expected, field)
