"""Chains of the ONNX model zoo with drawn weights, run by us and by ONNX Runtime."""

from pathlib import Path

import jax
import onnx
import pytest
from helpers.light_models import check_logits, make_light_model

from alexnet_jax import convert
from alexnet_jax.config import Config, sequential_model, with_changes
from alexnet_jax.conversion import presets
from alexnet_jax.conversion.layout import layer_names
from alexnet_jax.errors import InputError
from alexnet_jax.models.ops import LRN, MaxPool
from alexnet_jax.trained import TrainedModel
from configs import vgg, zfnet


def given_config(name: str) -> Config | None:
    """Return the config that has to be given for a file: the zoo does not tell zfnet512's."""
    if name == "zfnet512":
        return with_changes(zfnet.get_config(), {"data.mean": "none"})
    return None


def read(path: Path, name: str, model: onnx.ModelProto) -> TrainedModel:
    path.write_bytes(model.SerializeToString())
    return convert.read_model(path, given_config(name))


def read_and_check(path: Path, name: str, share: int) -> TrainedModel:
    """Assert that our logits are ONNX Runtime's, and return our model."""
    model = make_light_model(name, share)
    trained = read(path, name, model)
    check_logits(trained, model)
    return trained


@pytest.mark.parametrize("name", ["bvlc_alexnet", "zfnet512", "vgg19"])
def test_logits(tmp_path: Path, name: str) -> None:
    """Catches: geometry that is assumed for a family, such as padding and rounding of ZFNet's
    pooling; biases given by operators lost; an unused input taken for the images. With an eighth
    of the channels and units."""
    read_and_check(tmp_path / "net.onnx", name, share=8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameters"),
    [("bvlc_alexnet", 60_965_224), ("zfnet512", 87_250_536), ("vgg19", 143_667_240)],
)
def test_logits_at_full_size(tmp_path: Path, name: str, parameters: int) -> None:
    """Catches: what the test above does, in the models as they are; another number of parameters
    than the package's."""
    trained = read_and_check(tmp_path / "net.onnx", name, share=1)
    assert sum(leaf.size for leaf in jax.tree.leaves(trained.params)) == parameters


def test_the_zoos_vgg(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches: VGG read with the preprocessing of AlexNet, or with other names than our config's;
    a choice that is not printed."""
    trained = read(tmp_path / "net.onnx", "vgg19", make_light_model("vgg19", 16))
    assert "preprocessing as for Caffe's VGG, model E, by its layers" in capsys.readouterr().err
    data = trained.config.data
    assert data == presets.caffe_vgg("E").data
    assert (data.channel_order, data.resize, data.crop) == ("bgr", "shorter_side", 224)
    assert data.given_mean == (123.68, 116.779, 103.939)
    assert [*trained.params] == layer_names(sequential_model(vgg.get_config("E")))


def test_the_zoos_zfnet(tmp_path: Path) -> None:
    """Catches: preprocessing that is guessed; the paper's ops in place of the file's, which
    normalizes before it pools, has 2×2 windows at the end, and rounds down."""
    model = make_light_model("zfnet512", 16)
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(
        InputError, match=r"written by 'onnx-caffe2', with LRN, 1 groups .*--config"
    ):
        convert.read_model(path)
    ops = sequential_model(read(path, "zfnet512", model).config).ops
    assert [*ops][:5] == ["conv1", "relu1", "norm1", "pool1", "conv2"]
    norm = ops["norm1"]
    assert isinstance(norm, LRN)
    assert (norm.k, norm.size, norm.coefficient()) == (2.0, 5, 1e-4)
    assert ops["pool1"] == MaxPool(3, 2, ceil_mode=False)
    assert ops["pool5"] == MaxPool(2, 2, ceil_mode=False)


def test_vgg_of_another_converter(tmp_path: Path) -> None:
    """Catches: any VGG taken for Caffe's, such as that of a file that names no producer."""
    model = make_light_model("vgg19", 16)
    model.producer_name = ""
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(
        InputError, match=r"an unnamed program', without LRN, .* give it with --con"
    ):
        convert.read_model(path)
    config = vgg.get_config("E,torchvision")
    assert convert.read_model(path, config).config.data.std == presets.torchvision_vgg("E").data.std


def test_vgg_without_a_relu(tmp_path: Path) -> None:
    """Catches: a model taken for VGG by its kernels alone."""
    model = make_light_model("vgg19", 16)
    (relu,) = (node for node in model.graph.node if node.output[0] == "r1")
    relu.op_type = "Identity"
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="does not state the preprocessing"):
        convert.read_model(path)
