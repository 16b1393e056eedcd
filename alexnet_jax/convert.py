"""Convert models from and to files of other programs.

    python -m alexnet_jax.convert --input=FILE --workdir=DIR [--prototxt=FILE] [--mean=FILE]
                                  [--class_names=FILE] [--config=FILE [--config.FIELD=VALUE …]]
    python -m alexnet_jax.convert --workdir=DIR --output=FILE [--names=PROGRAM]

Supported inputs are .caffemodel files of Caffe, .onnx files (such as bvlcalexnet), weights of Caffe
as .npy or .npz, torchvision's alexnet, vgg, googlenet and resnet as .pth, .pth.tar, .pt, .th,
.ckpt, .bin or .safetensors, the first two also as .onnx, and .safetensors and .onnx files that this
program wrote. Models in .caffemodel and .onnx files are chains of layers, GoogLeNet or residual
networks. The result is a workdir for evaluate, predict and experiments.figures, from which training
can start. Its config contains the preprocessing that the weights need. Files of other programs do
not state preprocessing or recipe; without --config, those that the models published for Caffe or
torchvision's models need are used, depending on what the file contains. An ONNX file of none of
them needs --config.

Supported outputs are .safetensors, .onnx and .pth, which contain exact copies of the newest
checkpoint's parameters. A .pth file, and a .safetensors file with --names, is a state dict of a
program's model with the same layers: torchvision's, or one of two others with residual networks for
CIFAR-10, akamaster (pytorch_resnet_cifar10) and d-x-y (ResNeXt-DenseNet).

No code in a file is executed. A file that does not fit is rejected with its first mismatch.
"""

import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import jax
import numpy as np
from absl import flags

from alexnet_jax import command, run_config
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.config import Config, with_changes
from alexnet_jax.conversion import (
    branched,
    caffe_tensorflow,
    file_kinds,
    layout,
    numpy_files,
    origins,
    presets,
)
from alexnet_jax.conversion.branched import BranchedModel
from alexnet_jax.conversion.caffe import reader as caffe_reader
from alexnet_jax.conversion.layout import ForeignModel
from alexnet_jax.conversion.pytorch import torch_files
from alexnet_jax.conversion.pytorch.resnet_names import PROGRAMS
from alexnet_jax.data.names import read_class_names, synsets
from alexnet_jax.data_config import DataConfig
from alexnet_jax.errors import InputError, printable_errors
from alexnet_jax.extras import check_installed
from alexnet_jax.files import MAKE_ROOM, write_atomically, write_errors_as_input_errors
from alexnet_jax.metrics import MetricSums
from alexnet_jax.pytree import Variables
from alexnet_jax.train_step import make_state
from alexnet_jax.trained import TrainedModel, load_trained
from alexnet_jax.training_run import save_checkpoint
from alexnet_jax.workdir import CONFIG, lock_workdir, saved_steps, write_config

NUMPY = (".npy", ".npz")
IMPORTED = (".caffemodel", ".onnx", *torch_files.SUFFIXES, ".safetensors", *NUMPY)
EXPORTED = (".safetensors", ".onnx", ".pth")
# Names of data.resize in messages.
RESIZE_NAMES = {"crop": "central square", "shorter_side": "shorter side", "squash": "squash"}


def read_model(
    path: Path,
    config: Config | None = None,
    *,
    prototxt: Path | None = None,
    mean: Path | None = None,
    class_names: Path | None = None,
) -> TrainedModel:
    """Read a model from a file of any supported program.

    Args:
        path: the file.
        config: preprocessing, data and recipe, which a file does not state; None takes those of
            `conversion.presets`.
        prototxt: Caffe's definition of the model.
        mean: Caffe's mean image (.binaryproto or .npy), subtracted in place of the config's mean.
        class_names: text file with one name per line, in the order of the classes. None takes
            ImageNet's synsets for 1,000 classes, in the order of Caffe and torchvision, and
            numbers otherwise.

    Raises:
        InputError: a file cannot be read or is not supported.
    """
    kind = _check_files(path, prototxt, mean, class_names)
    given = dict(config=config, mean=mean, class_names=class_names)
    with printable_errors():
        own = _read_own(kind, path, [flag for flag, value in given.items() if value is not None])
        if own is not None:
            return own
        base, foreign = _read_foreign(kind, path, config, prototxt)
        try:
            config, variables = _import(base, foreign)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        config, image = _with_mean_image(config, mean)
    if foreign.mean_file and mean is None:
        print(
            f"The model was trained with the mean image {foreign.mean_file!r}, but data.mean="
            f"{config.data.mean} {config.data.given_mean} is used; to use the image, give "
            "--mean=FILE.",
            file=sys.stderr,
        )
    names = _class_names(class_names, config.model.num_classes)
    return TrainedModel(config, 0, variables, image, names)


def _check_files(
    path: Path, prototxt: Path | None, mean: Path | None, class_names: Path | None
) -> str:
    """Return the suffix of the file of weights after a check of all files.

    Raises:
        InputError: a file cannot be read, is of a kind without weights, or does not belong to the
            file of weights; or packages are missing.
    """
    if what := file_kinds.WITHOUT_WEIGHTS.get(path.suffix):
        raise InputError(f"--input={path} is {what}")
    files = [*filter(None, (path, prototxt, mean, class_names))]
    for file in files:
        if what := file_kinds.describe(file):
            raise InputError(f"{file} is {what}")
    kind = _suffix("input", path, IMPORTED)
    for file in files:
        _check_readable(file)
    for flag, given, kinds in (
        ("prototxt", prototxt, (".caffemodel",)),
        ("mean", mean, (".caffemodel", ".onnx", *NUMPY)),
    ):
        if given and kind not in kinds:
            raise InputError(f"--{flag}={given} is for {', '.join(kinds)}, but --input is {path}")
    _check_packages(path)
    return kind


def _read_own(kind: str, path: Path, flags_given: list[str]) -> TrainedModel | None:
    """Return the model in a file that this program wrote; None for other files.

    Raises:
        InputError: the file is damaged, or flags are given for what it contains.
    """
    from alexnet_jax.conversion import safetensors  # not at the top: _check_packages
    from alexnet_jax.conversion.onnx import own_files

    formats = {
        ".safetensors": (safetensors.is_own_format, safetensors.read_safetensors),
        ".onnx": (own_files.is_own_format, own_files.read_own_onnx),
    }
    is_own, read = formats.get(kind, (None, None))
    if is_own is None or read is None or not is_own(path):
        return None
    if flags_given:
        raise InputError(
            f"--{flags_given[0]} is for files of other programs, but this program wrote {path}, "
            "which contains its own"
        )
    return read(path)


def _import(base: Config, foreign: ForeignModel | BranchedModel) -> tuple[Config, Variables]:
    """Return the config and the variables of an imported model.

    Raises:
        InputError: the config cannot represent the model, or arrays do not fit it.
    """
    if isinstance(foreign, BranchedModel):
        config = branched.make_imported_config(base, foreign)
        return config, branched.from_foreign(config, foreign)
    config = layout.make_imported_config(base, foreign)
    return config, {"params": layout.from_foreign(config, foreign)}


def _read_foreign(
    kind: str, path: Path, config: Config | None, prototxt: Path | None
) -> tuple[Config, ForeignModel | BranchedModel]:
    """Return the given or default config, and the model in a file of another program."""
    from alexnet_jax.conversion.onnx import reader as onnx_reader
    from alexnet_jax.conversion.pytorch import state_dict

    if kind == ".onnx":
        return onnx_reader.read_onnx(path, config)
    if kind == ".caffemodel":
        foreign = caffe_reader.read_caffemodel(path, prototxt, config.model if config else None)
        return config or origins.choose_for_caffe(path, foreign), foreign
    if kind in NUMPY:
        base = config or presets.bvlc_alexnet()
        foreign = caffe_tensorflow.read_layers(path, base)
        print(
            f"{path} contains arrays only: order of ops, sizes and preprocessing are those of "
            f"{'--config' if config else 'bvlc_alexnet; --config=FILE states others'}.",
            file=sys.stderr,
        )
        return base, foreign
    return state_dict.read_state_dict(path, config)


def write_workdir(directory: Path, model: TrainedModel) -> None:
    """Make a workdir whose only checkpoint is this model, at step 0.

    If that fails, what was written is removed.

    Raises:
        InputError: the folder already contains a run, or cannot be written.
    """
    run_config.check_devices_and_patterns(model.config)
    with lock_workdir(directory):
        check_unused(directory)
        try:
            _write_checkpoint(directory, model)
            write_config(directory, model.config, 0)
        except BaseException:
            shutil.rmtree(directory / "checkpoints" / "step_0", ignore_errors=True)
            with suppress(OSError):  # another program's files are in it
                (directory / "checkpoints").rmdir()
            raise


def _write_checkpoint(directory: Path, model: TrainedModel) -> None:
    """Write a model as the checkpoint of step 0; see `write_workdir`."""
    with Checkpoints(directory, model.config.keep_checkpoints) as checkpoints:
        save_checkpoint(
            checkpoints,
            model.config,
            make_state(model.config, model.variables),
            mean_image=model.mean_image,
            class_names=model.class_names,
            num_images=0,
            sums=MetricSums(),
            epoch_sums=MetricSums(),
        )


def check_unused(directory: Path) -> None:
    """Raise InputError for a folder that contains a run, or that cannot be read.

    Without a config and without a complete checkpoint, there is only what a killed process left.
    """
    if os.path.exists(directory / CONFIG) or saved_steps(directory):
        raise InputError(f"--workdir={directory} already contains a run; give another folder")


def write_model(path: Path, model: TrainedModel, *, names: str = "") -> None:
    """Write a model as safetensors, ONNX or a PyTorch file, depending on the suffix of the path.

    Args:
        path: the file.
        model: the model.
        names: program, of `resnet_names.PROGRAMS`, whose names the tensors of a state dict have; ""
            for a safetensors file that is none, and for a PyTorch file with torchvision's names.

    Raises:
        InputError: the suffix is unknown, the format cannot represent the model, or the file
            cannot be written.
    """
    kind = _suffix("output", path, EXPORTED)
    if names and kind == ".onnx":
        raise InputError(f"--names={names} is for .safetensors and .pth, but --output is {path}")
    _check_packages(path)
    from alexnet_jax.conversion import safetensors
    from alexnet_jax.conversion.onnx import writer as onnx_writer
    from alexnet_jax.conversion.pytorch import state_dict

    if names or kind == ".pth":
        content = state_dict.to_state_dict(path, model, names or "torchvision")
    elif kind == ".onnx":
        content = onnx_writer.to_onnx(model)
    else:
        content = safetensors.to_safetensors(model)
    with write_errors_as_input_errors(path, MAKE_ROOM):
        write_atomically(path, content)


def _check_packages(path: Path) -> None:
    """Raise InputError where packages of file formats are missing.

    The modules that import them are imported after this check, so that it can be made.
    """
    check_installed("convert", f"{path}: conversion", "onnx", "safetensors")


def _suffix(flag: str, path: Path, known: tuple[str, ...]) -> str:
    """Return the suffix of a path, which must be a known one."""
    if path.suffix not in known:
        raise InputError(f"--{flag}={path} ends in {path.suffix!r}; expected {', '.join(known)}")
    return path.suffix


def _check_readable(path: Path) -> None:
    """Raise InputError for a file that cannot be read."""
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def _with_mean_image(config: Config, mean: Path | None) -> tuple[Config, np.ndarray]:
    """Return the config and the mean image of a workdir, (image_size, image_size, channels).

    The image is read from the file `mean`, and data.mean is then set to "image", and data.resize to
    "crop" if images had different shapes. Without a file it is data.given_mean at every pixel.
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
    read = numpy_files.read_mean_image if mean.suffix == ".npy" else caffe_reader.read_mean_image
    image = read(mean).astype(np.float32)
    if not np.isfinite(image).all():
        raise InputError(f"{mean} has numbers that are not finite; the file is damaged")
    if image.shape != (side, side, channels):
        raise InputError(f"{mean} is {image.shape}; expected {(side, side, channels)}")
    resize = "crop" if config.data.resize == "shorter_side" else config.data.resize
    changes = {"data.mean": "image", "data.given_mean": (), "data.resize": resize}
    return with_changes(config, changes), image


def _class_names(path: Path | None, classes: int) -> tuple[str, ...]:
    """Return the names in a text file; without one, ImageNet's synsets or numbers."""
    if path is not None:
        return read_class_names(path, classes)
    return synsets() if classes == 1000 else tuple(map(str, range(classes)))


def _path_flag(name: str) -> Path | None:
    """Return the path that a flag gives; None if it is not set."""
    value = flags.FLAGS[name].value
    return Path(value) if value else None


def main(_: list[str]) -> None:
    """Run the command."""
    source, target = _path_flag("input"), _path_flag("output")
    directory = Path(flags.FLAGS.workdir)
    if (source is None) == (target is None):
        raise InputError("give either --input=FILE, to make --workdir, or --output=FILE from it")
    if target is not None:
        for flag in ("config", "prototxt", "mean", "class_names"):
            if flags.FLAGS[flag].present:
                raise InputError(
                    f"--{flag} is for --input; --output writes the model in {directory}"
                )
        model, names = load_trained(directory), flags.FLAGS["names"].value
        write_model(target, model, names=names or "")
        is_state_dict = names or target.suffix == ".pth"
        not_stated = f"; inputs, not stated in it: {_inputs(model.config)}" if is_state_dict else ""
        print(f"{target}: step {model.step} of {directory}{not_stated}")
        return
    assert source is not None
    if flags.FLAGS["names"].present:
        raise InputError("--names is for --output, a file with other names; --input has its own")
    check_unused(directory)
    config = command.validated_config() if flags.FLAGS["config"].present else None
    files = {name: _path_flag(name) for name in ("prototxt", "mean", "class_names")}
    model = read_model(source, config, **files)
    write_workdir(directory, model)
    count = sum(array.size for array in jax.tree.leaves(model.params))
    print(
        f"{directory}: {count:,} parameters, {model.config.model.num_classes} classes; inputs: "
        f"{_inputs(model.config)}"
    )


def _inputs(config: Config) -> str:
    """Return a description of the preprocessing that a model expects."""
    data = config.data
    colors = data.channel_order.upper() if config.model.channels == 3 else "gray"
    text = f"{RESIZE_NAMES[data.resize]} to {data.image_size}, crop {data.crop}, {colors}, "
    text += f"mean {data.mean} {data.given_mean or ''}".rstrip()
    if data.scale != 1:
        text += f", times {data.scale}"
    return text if data.std == DataConfig().std else f"{text}, divided by {data.std}"


if __name__ == "__main__":
    command.define_config(required=False)
    flags.DEFINE_string("workdir", None, "Folder of the run; --input makes it.", required=True)
    flags.DEFINE_string("input", None, f"File to read: {', '.join(IMPORTED)}.")
    flags.DEFINE_string("output", None, f"File to write: {', '.join(EXPORTED)}.")
    flags.DEFINE_enum("names", None, [*PROGRAMS], "Program with whose names to write tensors.")
    flags.DEFINE_string("prototxt", None, "Caffe's definition of the model, for a .caffemodel.")
    flags.DEFINE_string("mean", None, "Caffe's mean image, a .binaryproto or .npy.")
    flags.DEFINE_string("class_names", None, "Text file of class names, one per line.")
    command.run(main)
