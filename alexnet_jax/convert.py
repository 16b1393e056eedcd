"""Convert weights from and to other programs' files.

    python -m alexnet_jax.convert --input=FILE --workdir=DIR [--prototxt=FILE] [--mean=FILE]
                                  [--class_names=FILE] [--config=FILE [--config.FIELD=VALUE …]]
    python -m alexnet_jax.convert --workdir=DIR --output=FILE

In: Caffe's .caffemodel and ONNX (bvlcalexnet and the like), torchvision's alexnet as .pth or
.safetensors, and this program's own .safetensors. The result is a workdir that evaluate, predict
and experiments.figures take, and that training can start from, with the preprocessing of those
weights in its config. A file states neither preprocessing nor recipe. Without --config, those of
configs/bvlc_alexnet.py are taken for Caffe and ONNX, and those of configs/one_weird_trick.py for
torchvision's files.

Out: .safetensors, an exact copy of the newest checkpoint's parameters, and .onnx.

Nothing in a file is executed. A file that does not fit is refused with its first mismatch.
"""

import sys
from pathlib import Path

import jax
import numpy as np
from absl import flags

from alexnet_jax import command, train
from alexnet_jax import config as configs
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.config import Config
from alexnet_jax.conversion import (
    caffe,
    layout,
    onnx_reader,
    onnx_writer,
    presets,
    pytorch,
    safetensors,
)
from alexnet_jax.conversion.layout import ForeignNet
from alexnet_jax.data.names import synsets
from alexnet_jax.errors import InputError
from alexnet_jax.files import replace_when_complete
from alexnet_jax.metrics import MetricSums
from alexnet_jax.train_step import make_state
from alexnet_jax.trained import TrainedModel, load_trained
from alexnet_jax.workdir import lock_workdir, write_config

IMPORTED = (".caffemodel", ".onnx", ".pth", ".pt", ".safetensors")
EXPORTED = (".safetensors", ".onnx")
RESIZED = {"crop": "shorter side", "squash": "squash"}  # data.resize, as it is printed


def read(
    path: Path,
    config: Config | None = None,
    *,
    prototxt: Path | None = None,
    mean: Path | None = None,
    class_names: Path | None = None,
) -> TrainedModel:
    """Read a model from a file of any program.

    Args:
        config: what a file does not state: preprocessing, data, recipe; None takes
            `conversion.presets`.
        prototxt: of Caffe, the definition of the model.
        mean: of Caffe, a mean image (.binaryproto) to subtract in place of the config's mean.
        class_names: a text file with one name a line, in the order of the classes; None takes
            ImageNet's synsets where there are 1,000 classes, as Caffe and torchvision number
            them, and numbers otherwise.

    Raises:
        InputError: a file that cannot be read, or that is none of these.
    """
    kind = _suffix("input", path, IMPORTED)
    for file in filter(None, (path, prototxt, mean, class_names)):
        _check_readable(file)
    for flag, given, kinds in (
        ("prototxt", prototxt, (".caffemodel",)),
        ("mean", mean, (".caffemodel", ".onnx")),
    ):
        if given and kind not in kinds:
            raise InputError(f"--{flag}={given} is for {', '.join(kinds)}, but --input is {path}")
    if kind == ".safetensors" and safetensors.is_ours(path):
        for flag, refused in (("config", config), ("class_names", class_names)):
            if refused is not None:
                raise InputError(
                    f"--{flag} is for files of other programs, but {path} is this one's, which "
                    "holds its own"
                )
        return safetensors.read(path)
    base, net = _read_foreign(kind, path, config, prototxt)
    try:
        config = layout.make_config(base, net)
        params = layout.from_foreign(config, net)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    config, image = _with_mean_image(config, mean)
    if net.mean_file and mean is None:
        print(
            f"The model was trained with the mean image {net.mean_file!r}; taken is data.mean="
            f"{config.data.mean} {config.data.given_mean}. --mean=FILE takes the image.",
            file=sys.stderr,
        )
    names = _names(class_names, config.model.num_classes)
    return TrainedModel(config, 0, {"params": params}, image, names)


def _read_foreign(
    kind: str, path: Path, config: Config | None, prototxt: Path | None
) -> tuple[Config, ForeignNet]:
    """Return the config to begin with, and the content of another program's file."""
    if kind == ".caffemodel":
        return config or presets.bvlc_alexnet(), caffe.read(path, prototxt)
    if kind == ".onnx":
        base = config or presets.bvlc_alexnet()
        names = None
        if config is not None:
            layers = layout.layers_of(layout.sequential_model(config))
            names = {name: type(op) for name, op in layers}
        return base, onnx_reader.read(path, names, base.data.crop)
    base = config or presets.torchvision_alexnet()
    return base, pytorch.read(path, base)


def write_workdir(directory: Path, model: TrainedModel) -> None:
    """Make the folder of a run whose only checkpoint is this model, at step 0.

    Raises:
        InputError: a run is there already, or the folder cannot be written.
    """
    train.check(model.config)
    with lock_workdir(directory):
        check_free(directory)
        with Checkpoints(directory, model.config.keep_checkpoints) as checkpoints:
            train.save_checkpoint(
                checkpoints,
                model.config,
                make_state(model.config, model.variables),
                mean_image=model.mean_image,
                class_names=model.class_names,
                num_images=0,
                sums=MetricSums(),
            )
        write_config(directory, model.config, 0)


def check_free(directory: Path) -> None:
    """Raise InputError for a folder that holds a run."""
    if (directory / "config.json").exists() or (directory / "checkpoints").exists():
        raise InputError(f"--workdir={directory} holds a run already; give another")


def write(path: Path, model: TrainedModel) -> None:
    """Write a model as safetensors or ONNX, by the file's suffix.

    Raises:
        InputError: another suffix, or a folder that cannot be written.
    """
    kind = _suffix("output", path, EXPORTED)
    write_model = safetensors.write if kind == ".safetensors" else onnx_writer.write
    try:
        with replace_when_complete(path) as temporary:
            write_model(temporary, model)
    except OSError as error:
        raise InputError(f"cannot write --output={path}: {error.strerror}") from None


def _suffix(flag: str, path: Path, known: tuple[str, ...]) -> str:
    if path.suffix not in known:
        raise InputError(f"--{flag}={path} ends in {path.suffix!r}; expected {', '.join(known)}")
    return path.suffix


def _check_readable(path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def _with_mean_image(config: Config, mean: Path | None) -> tuple[Config, np.ndarray]:
    """Return the mean image for the workdir, (image_size, image_size, channels), and its config.

    The image is the config's given mean at every pixel, or that of a file, which the config then
    states.
    """
    side, channels = config.data.image_size, config.model.channels
    if mean is None:
        if config.data.mean not in ("given", "none"):
            raise InputError(
                f"config.data.mean={config.data.mean} needs the images that the weights were "
                'trained on; expected "given" with data.given_mean, "none", or --mean=FILE'
            )
        given = config.data.given_mean or (0.0,) * channels
        image = np.broadcast_to(np.asarray(given, np.float32), (side, side, channels)).copy()
        return config, image
    image = caffe.read_mean(mean).astype(np.float32)
    if image.shape != (side, side, channels):
        raise InputError(f"{mean} is {image.shape}; expected {(side, side, channels)}")
    return configs.with_changes(config, {"data.mean": "image", "data.given_mean": ()}), image


def _names(path: Path | None, classes: int) -> tuple[str, ...]:
    """Return the names of the classes."""
    if path is None:
        return synsets() if classes == 1000 else tuple(map(str, range(classes)))
    try:
        names = tuple(path.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError as error:
        raise InputError(f"--class_names={path} is no text in UTF-8: {error}") from None
    if len(names) != classes or len({*names}) != classes:
        raise InputError(
            f"--class_names={path} has {len({*names})} different names in {len(names)} lines; "
            f"expected {classes}, one a class"
        )
    return names


def _path(name: str) -> Path | None:
    value = flags.FLAGS[name].value
    return Path(value) if value else None


def main(_: list[str]) -> None:
    """Run the command."""
    source, target = _path("input"), _path("output")
    directory = Path(flags.FLAGS.workdir)
    if (source is None) == (target is None):
        raise InputError("give either --input=FILE, to make --workdir, or --output=FILE from it")
    if target is not None:
        for flag in ("config", "prototxt", "mean", "class_names"):
            if flags.FLAGS[flag].present:
                raise InputError(f"--{flag} is for --input; --output writes what {directory} holds")
        model = load_trained(directory)
        write(target, model)
        print(f"{target}: step {model.step} of {directory}")
        return
    assert source is not None
    check_free(directory)
    config = command.validated_config() if flags.FLAGS["config"].present else None
    files = {name: _path(name) for name in ("prototxt", "mean", "class_names")}
    model = read(source, config, **files)
    write_workdir(directory, model)
    count = sum(array.size for array in jax.tree.leaves(model.params))
    data = model.config.data
    colors = data.channel_order.upper() if model.config.model.channels == 3 else "gray"
    print(
        f"{directory}: {count:,} parameters, {model.config.model.num_classes} classes; inputs: "
        f"{RESIZED[data.resize]} to {data.image_size}, crop {data.crop}, {colors}, "
        f"mean {data.mean} {data.given_mean or ''}".rstrip()
    )


if __name__ == "__main__":
    command.define_config(required=False)
    flags.DEFINE_string("workdir", None, "Folder of the run: made by --input.", required=True)
    flags.DEFINE_string("input", None, f"Weights to read: {', '.join(IMPORTED)}.")
    flags.DEFINE_string("output", None, f"File to write: {', '.join(EXPORTED)}.")
    flags.DEFINE_string("prototxt", None, "Caffe's definition of the model, for a .caffemodel.")
    flags.DEFINE_string("mean", None, "Caffe's mean image, a .binaryproto.")
    flags.DEFINE_string("class_names", None, "Names of the classes, one a line.")
    command.run(main)
