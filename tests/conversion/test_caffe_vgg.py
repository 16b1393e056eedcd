"""VGG-16 in Caffe's files, read by us and by OpenCV's Caffe importer: the same logits."""

from functools import partial
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
from helpers import foreign_files
from helpers.foreign_files import VGG16_OPS, VGG_POOL, channels_first, make_image

from alexnet_jax import convert
from alexnet_jax.config import sequential_model
from alexnet_jax.conversion import presets
from alexnet_jax.models import registry
from alexnet_jax.predict import predict
from configs import vgg

QUICK = {"xla_backend_optimization_level": 0}  # to compile, for what runs once
MEAN_BGR = (103.939, 116.779, 123.68)
# A sixteenth of the channels.
SIZES = {n: 4 * 2 ** min(int(n[4]) - 1, 3) for n in foreign_files.VGG16_CONVS}
SIZES |= dict(fc6=24, fc7=20, fc8=10)


def write(folder: Path, generation: str) -> tuple[Path, Path]:
    """Write the weights and the definition, and return their paths."""
    path, prototxt = folder / "VGG_ILSVRC_16_layers.caffemodel", folder / "deploy.prototxt"
    arrays = foreign_files.weights(SIZES, pixels=7, groups={})
    path.write_bytes(
        foreign_files.caffemodel(
            SIZES,
            arrays,
            generation=generation,
            shaped=generation == "layer",
            ops=VGG16_OPS,
            pool=VGG_POOL,
        )
    )
    prototxt.write_text(foreign_files.prototxt(SIZES, 224, VGG16_OPS, VGG_POOL))
    return path, prototxt


@pytest.mark.parametrize("generation", ["layer", "layers"])
def test_against_opencv(
    tmp_path: Path, generation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches: AlexNet's preprocessing for VGG's files, a crop that the definition has to state,
    units of fc6 in another order, RGB for BGR; a choice that is not printed."""
    path, prototxt = write(tmp_path, generation)
    model = convert.read_model(path)
    assert "preprocessing as for Caffe's VGG, model D, by its layers" in capsys.readouterr().err
    assert model.config.data == presets.caffe_vgg("D").data
    ours = sequential_model(model.config).ops
    assert [*ours] == [*sequential_model(vgg.get_config("D")).ops]

    pixels = make_image()
    files = (prototxt.read_bytes(), path.read_bytes())
    peer = cv2.dnn.readNetFromCaffe(*(np.frombuffer(content, np.uint8) for content in files))
    peer.enableFusion(False)
    crop = np.ascontiguousarray(pixels[16:240, 16:240, ::-1])
    peer.setInput(cv2.dnn.blobFromImage(crop, 1.0, (224, 224), MEAN_BGR))
    names = ["pool1", "conv3_2", "pool5", "fc6", "fc8", "prob"]
    theirs = dict(zip(names, peer.forward(names), strict=True))
    seen = pixels[None, 16:240, 16:240, ::-1] - np.array(MEAN_BGR, np.float32)
    compute = partial(registry.compute_activations, registry.make_model(model.config))
    activations = jax.jit(compute, compiler_options=QUICK)(model.variables, seen)
    for name in names[:-1]:
        expected = theirs[name]
        largest = np.abs(expected).max()
        assert largest > 1e-2
        got = channels_first(activations[name])
        # Float32 sums in another order.
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * largest, err_msg=name)
    ((_, best),) = predict(model, [("image", pixels)])
    for name, probability in best:
        assert probability == pytest.approx(float(theirs["prob"][0, int(name)]), rel=1e-3)


def test_other_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches: a model with some of VGG's layers taken for it, and one that is neither VGG nor
    AlexNet read without a word."""
    sizes = {n: size for n, size in SIZES.items() if n != "conv5_2"}
    ops = {n: names for n, names in VGG16_OPS.items() if n != "conv5_2"}
    arrays = foreign_files.weights(sizes, pixels=7, groups={})
    path = tmp_path / "net.caffemodel"
    content = foreign_files.caffemodel(
        sizes, arrays, generation="layer", shaped=True, ops=ops, pool=VGG_POOL
    )
    path.write_bytes(content)
    (tmp_path / "net.prototxt").write_text(foreign_files.prototxt(sizes, 224, ops, VGG_POOL))
    model = convert.read_model(path, prototxt=tmp_path / "net.prototxt")
    assert model.config.data.resize == "squash"
    assert "preprocessing as for Caffe's AlexNet, by its format, though" in capsys.readouterr().err


def test_a_mean_image_is_of_squares(tmp_path: Path) -> None:
    """Catches: a file of the mean image refused for VGG's weights, whose images are whole."""
    path, _ = write(tmp_path, "layer")
    assert convert.read_model(path).config.data.resize == "shorter_side"
    np.save(tmp_path / "mean.npy", np.full((256, 256, 3), 100, np.float32))
    data = convert.read_model(path, mean=tmp_path / "mean.npy").config.data
    assert (data.mean, data.resize) == ("image", "crop")
