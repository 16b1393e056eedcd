"""convert as a command: the workdirs that it makes, and what it refuses."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.numpy
import torch
from helpers import foreign_files, processes, torchvision_files
from helpers.image_sets import smooth_pixels, write_folder
from helpers.in_process import run_here
from helpers.onnx_files import make_zoo_model
from helpers.weight_files import (
    TINY,
    Maker,
    caffemodel,
    make_caffe,
    make_onnx,
    make_ours,
    make_safetensors,
    make_torch,
    read,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from PIL import Image

from alexnet_jax import convert
from alexnet_jax.errors import InputError
from alexnet_jax.evaluate import evaluate
from alexnet_jax.model_data import check_classes, choose_split, open_data, print_assumptions
from alexnet_jax.trained import load_trained
from configs import bvlc_alexnet


@pytest.mark.usefixtures("quick_to_compile")
def test_a_workdir_from_caffe(tmp_path: Path) -> None:
    """Catches a workdir that evaluate, predict or training do not take, a mean in BGR, and rates
    of layers that the command line cannot set."""
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(TINY))
    (tmp_path / "deploy.prototxt").write_text(foreign_files.prototxt(TINY))
    mean = np.random.default_rng(0).uniform(90, 140, (1, 3, 256, 256)).astype(np.float32)
    (tmp_path / "mean.binaryproto").write_bytes(foreign_files.blob(mean, shaped=False))
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    write_folder(tmp_path / "pictures" / "train", dict(a=3, b=2, c=3))
    write_folder(tmp_path / "pictures" / "test", dict(a=2, b=2, c=1))
    workdir = tmp_path / "run"
    arguments = [
        f"--input={tmp_path / 'net.caffemodel'}",
        f"--prototxt={tmp_path / 'deploy.prototxt'}",
        f"--mean={tmp_path / 'mean.binaryproto'}",
        f"--class_names={tmp_path / 'names.txt'}",
        f"--workdir={workdir}",
        "--config=configs/bvlc_alexnet.py",
        "--config.data.name=folder",
        f"--config.data.dir={tmp_path / 'pictures'}",
    ]
    ended = run_here("convert", *arguments)
    assert ended.returncode == 0, ended.stderr
    assert "3 classes; inputs: squash to 256, crop 227, BGR, mean image" in ended.stdout
    model = load_trained(workdir)
    np.testing.assert_array_equal(model.mean_image, mean[0, ::-1].transpose(1, 2, 0))
    split, (result,) = evaluate([model])
    assert (split, result["count"]) == ("test", 5)
    with pytest.raises(InputError, match="already contains a run"):
        convert.write_workdir(workdir, model)

    Image.fromarray(smooth_pixels(90, 300)).save(tmp_path / "wide.png")
    ended = run_here("predict", f"--workdir={workdir}", tmp_path / "wide.png")
    assert ended.returncode == 0, ended.stderr
    assert {line.split()[-1] for line in ended.stdout.splitlines()[1:]} == {*"abc"}

    ended = run_here(
        "main",
        f"--config=configs/from_workdir.py:{workdir}",
        "--config.batch_size=4",
        "--config.max_steps=1",
        '--config.schedule.multipliers=(("conv1/.*", 1, 0.0),)',
        f"--workdir={tmp_path / 'on'}",
    )
    assert ended.returncode == 0, ended.stderr
    assert "step 0: took conv1, conv2, conv3, conv4, conv5, fc6, fc7, fc8;" in ended.stderr
    trained = load_trained(tmp_path / "on").params
    np.testing.assert_array_equal(trained["conv1"]["kernel"], model.params["conv1"]["kernel"])
    assert np.any(trained["fc7"]["kernel"] != model.params["fc7"]["kernel"])


def test_classes_of_other_data_are_refused(tmp_path: Path) -> None:
    """Catches errors counted with the labels of other classes."""
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(TINY))
    write_folder(tmp_path / "pictures" / "train", dict(a=3, b=2))
    write_folder(tmp_path / "pictures" / "test", dict(a=2, b=2))
    config = bvlc_alexnet.get_config()
    config.data.name, config.data.dir = "folder", str(tmp_path / "pictures")
    model = convert.read_model(tmp_path / "net.caffemodel", config)
    with pytest.raises(InputError, match=r"has 3 classes, folder has 2; class 0 is 0 and"):
        evaluate([model])


def test_names_of_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches other names, or another order, taken for the same classes; numbers refused, which
    are the names of a model that came without; and silence about them."""
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(TINY))
    for split in ("train", "test"):
        write_folder(tmp_path / "pictures" / split, dict(a=2, b=2, c=2))
    config = bvlc_alexnet.get_config()
    config.data.name, config.data.dir = "folder", str(tmp_path / "pictures")
    model = convert.read_model(tmp_path / "net.caffemodel", config)
    pack = open_data(model)
    split = choose_split(model, pack)
    capsys.readouterr()
    print_assumptions(dataclasses.replace(model, class_names=("a", "b", "c")), pack, split)
    assert capsys.readouterr().err == ""
    print_assumptions(model, pack, split)
    assert "numbers for class names: its classes are taken in the order of folder's, a" in (
        capsys.readouterr().err
    )
    check_classes(("a", "b"), ("a", "b"), "folder")
    check_classes(("0", "1"), ("a", "b"), "folder")
    for ours in (("b", "a"), ("a", "c"), ("1", "0")):
        with pytest.raises(InputError, match=r"class [01] is . and .; expected the same"):
            check_classes(ours, ("a", "b"), "folder")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--input=net.h5", "--workdir=x"], "ends in '.h5'; expected .caffemodel"),
        (["--input=none.onnx", "--workdir=x"], "cannot read none.onnx: No such file"),
        (["--workdir=x"], "give either --input"),
        (["--workdir=x", "--output=y.onnx", "--mean=m"], "--mean is for --input; --output writes"),
        (["--input=README.md", "--workdir=."], "ends in '.md'"),
    ],
)
def test_wrong_use(arguments: list[str], expected: str, tmp_path: Path) -> None:
    """Catches a traceback, or a folder left behind, for a command that cannot work."""
    ended = processes.run("convert", *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert expected in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert not os.path.exists("x")


# Files that are good, each by the function that makes it; damage is done to their bytes.
MAKERS: list[Maker] = [make_caffe, make_onnx, make_torch, make_safetensors, make_ours]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Maker], Path]:
    made: dict[Maker, Path] = {}

    def get(make: Maker) -> Path:
        if make not in made:
            made[make] = make(tmp_path_factory.mktemp(make.__name__))
            read(made[make], make)
        return made[make]

    return get


def refusal(path: Path, make: Maker) -> str | None:
    """Return the message for a file that is refused; None for one that is read."""
    try:
        read(path, make)
    except InputError as error:
        return str(error)
    return None


@pytest.mark.parametrize("make", MAKERS)
@settings(deadline=None, max_examples=25)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_prefix_is_refused(good: Callable[[Maker], Path], make: Maker, share: float) -> None:
    """Catches a traceback, or a model of fewer layers, for a file that is cut off anywhere."""
    content = good(make).read_bytes()
    path = good(make).with_name(f"cut{good(make).suffix}")
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError) as raised:
        read(path, make)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("make", MAKERS)
@settings(deadline=None, max_examples=25)
@given(place=st.integers(0, 3000), byte=st.integers(0, 255))
def test_a_changed_byte_is_one_line_at_most(
    good: Callable[[Maker], Path],
    make: Maker,
    place: int,
    byte: int,
) -> None:
    """Catches a traceback for types, names or sizes that are damaged.

    Weights have no checksum in any of these formats: other numbers, if finite, are taken.
    """
    content = bytearray(good(make).read_bytes())
    content[place] = byte
    path = good(make).with_name(f"flipped{good(make).suffix}")
    path.write_bytes(content)
    assert "\n" not in (refusal(path, make) or "")


@pytest.mark.parametrize("word", [b"conv3", b"relu1"])
def test_names_that_are_no_text_are_refused(tmp_path: Path, word: bytes) -> None:
    """Catches bytes where protobuf finds no UTF-8, which no comparison with names expects."""
    path = tmp_path / "net.caffemodel"
    path.write_bytes(caffemodel(TINY).replace(word, b"\xff" + word[1:]))
    with pytest.raises(InputError, match="names are not UTF-8 text"):
        convert.read_model(path)


def test_attributes_of_another_type_are_refused(tmp_path: Path) -> None:
    """Catches a TypeError for strides that are a text."""
    model = make_zoo_model(TINY)
    (strides,) = (a for a in model.graph.node[0].attribute if a.name == "strides")
    strides.type = onnx.AttributeProto.STRING
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="attribute strides of another type"):
        convert.read_model(tmp_path / "net.onnx")


@pytest.mark.parametrize("generation", ["layer", "layers"])
def test_a_prefix_between_layers_is_refused(tmp_path: Path, generation: str) -> None:
    """Catches a model that ends where the file was cut, at the exact end of any of its layers."""
    arrays = foreign_files.weights(TINY)
    content = foreign_files.caffemodel(TINY, arrays, generation=generation, shaped=True)
    path = tmp_path / "net.caffemodel"
    marker = foreign_files.wire(100 if generation == "layer" else 2, b"")[:-1]
    cuts = [i for i in range(len(content)) if content.startswith(marker, i)]
    refused = 0
    for cut in cuts:
        path.write_bytes(content[:cut])
        with pytest.raises(InputError):
            convert.read_model(path)
        refused += 1
    assert refused >= 20  # layers without weights count too


NAMES = [  # the last number: how often the name is changed, -1 for everywhere
    (make_caffe, b"conv3", b"conv9", r"takes \['conv[39]'\]", 1),
    (make_caffe, b"fc7", b"fc8", r"two layers with weights and the same name", -1),
    (make_onnx, b"conv3_w_0", b"conv3_v_0", r"conv3_w_0|conv3_v_0", 1),
    (make_onnx, b"Gemm", b"Gemn", r"operator Gemn", 1),
    (make_safetensors, b"classifier.4.weight", b"classifier.5.weight", r"classifier\.[45]\.", 1),
    (make_ours, b"conv4.kernel", b"conv4.kernal", r"conv4\.kern[ae]l", 1),
]


@pytest.mark.parametrize(("make", "name", "other", "message", "times"), NAMES)
def test_a_changed_name_is_refused(
    good: Callable[[Maker], Path],
    make: Maker,
    name: bytes,
    other: bytes,
    message: str,
    times: int,
) -> None:
    """Catches layers matched by their order alone, or a missing tensor that raises KeyError."""
    content = good(make).read_bytes()
    assert content.count(name)
    path = good(make).with_name(f"renamed{good(make).suffix}")
    path.write_bytes(content.replace(name, other, times))
    with pytest.raises(InputError, match=message):
        read(path, make)


@settings(deadline=None, max_examples=25)
@given(
    name=st.sampled_from([*TINY]),
    axis=st.integers(0, 3),
    change=st.sampled_from(["grow", "shrink", "flatten"]),
    make=st.sampled_from([make_caffe, make_onnx, make_torch]),
)
def test_a_changed_shape_is_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, axis: int, change: str, make: Maker
) -> None:
    """Catches weights reshaped to fit: every size follows from the layers before it.

    Outputs of the last layer are the classes, which a file may have as many of as it likes.
    """
    folder = tmp_path_factory.mktemp("shape")
    arrays = foreign_files.weights(TINY)

    def changed(weight: np.ndarray) -> np.ndarray:
        if change == "flatten":
            return weight.reshape(-1)
        along = axis % weight.ndim
        extra = weight.take([0], along)
        parts = [weight, extra] if change == "grow" else [weight.take([0], along)]
        return np.concatenate(parts, along)

    if make is make_caffe:
        arrays[name] = (changed(arrays[name][0]), arrays[name][1])
        path = folder / "net.caffemodel"
        path.write_bytes(foreign_files.caffemodel(TINY, arrays, generation="layer", shaped=True))
    elif make is make_onnx:
        path, model = folder / "net.onnx", make_zoo_model(TINY)
        (tensor,) = (t for t in model.graph.initializer if t.name == f"{name}_w_0")
        tensor.CopyFrom(numpy_helper.from_array(changed(arrays[name][0]), tensor.name))
        path.write_bytes(model.SerializeToString())
    else:
        path = folder / "net.pth"
        torchvision_files.write_weights(path)
        state = torch.load(path, weights_only=True)
        key = [k for k in state if k.endswith("weight")][[*TINY].index(name)]
        state[key] = torch.tensor(changed(state[key].numpy()))
        torch.save(state, path)
    with pytest.raises(InputError, match=r"conv|fc"):
        read(path, make)


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    """Catches damage that shapes do not show."""
    arrays = foreign_files.weights(TINY)
    arrays["conv2"][0][0, 0, 0, 0] = np.nan
    path = tmp_path / "net.caffemodel"
    path.write_bytes(foreign_files.caffemodel(TINY, arrays, generation="layer", shaped=True))
    with pytest.raises(InputError, match="conv2 has weights that are not finite"):
        convert.read_model(path)


def test_weights_in_another_file_are_refused(tmp_path: Path) -> None:
    """Catches ONNX's external data followed to wherever the file points."""
    model = make_zoo_model(TINY)
    tensor = model.graph.initializer[1]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="is stored in another file"):
        convert.read_model(tmp_path / "net.onnx")


def test_a_safetensors_file_says_whose_it_is(good: Callable[[Maker], Path], tmp_path: Path) -> None:
    """Catches our own parameters read as torchvision's where the metadata are lost."""
    arrays = safetensors.numpy.load_file(good(make_ours))
    safetensors.numpy.save_file(arrays, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=r"no tensor features\.0\.weight"):
        convert.read_model(tmp_path / "x.safetensors")
