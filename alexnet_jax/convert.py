"""Weights from and to other programs.

    python -m alexnet_jax.convert --input=FILE --workdir=DIR [--prototxt=FILE] [--mean=FILE]
                                  [--class_names=FILE] [--config=FILE [--config.FIELD=VALUE …]]
    python -m alexnet_jax.convert --workdir=DIR --output=FILE

In: Caffe's .caffemodel and ONNX (bvlcalexnet and the like; configs/bvlc_alexnet.py unless --config
is given), torchvision's alexnet as .pth or .safetensors (configs/one_weird_trick.py), and this
program's own .safetensors. The result is a workdir that evaluate, predict and experiments.figures
take, and that training can start from, with the preprocessing of those weights in its config.

Out: .safetensors, an exact copy of the newest checkpoint's parameters, and .onnx.

Nothing in a file is executed. A file that does not fit is refused with its first mismatch.
"""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from alexnet_jax import command
from alexnet_jax.data.names import synsets
from alexnet_jax.errors import InputError

IMPORTED = (".caffemodel", ".onnx", ".pth", ".pt", ".safetensors")
EXPORTED = (".safetensors", ".onnx")
RESIZED = {"crop": "shorter side", "squash": "squash"}  # data.resize, as it is told


def read(
    path: Path,
    config: ConfigDict | None = None,
    *,
    prototxt: Path | None = None,
    mean: Path | None = None,
    class_names: Path | None = None,
) -> Any:
    """The net in a file of any program, as `evaluate.load_net` gives those of this one.

    Args:
        config: what a file does not state: preprocessing, data, recipe; by default that of the
            replica whose files these are.
        prototxt: of Caffe, the definition of the net.
        mean: of Caffe, a mean image (.binaryproto) to subtract in place of the config's mean.
        class_names: a text file with one name a line, in the order of the classes; by default
            ImageNet's synsets where there are 1,000 classes, as Caffe and torchvision number
            them, and numbers otherwise.

    Raises:
        InputError: a file that cannot be read, or that is none of these.
    """
    from alexnet_jax.evaluate import Net
    from alexnet_jax.formats import caffe, layout, native, onnx_in, pytorch
    from configs import alexnet, bvlc_alexnet, one_weird_trick

    kind = _suffix("input", path, IMPORTED)
    for file in filter(None, (path, prototxt, mean, class_names)):
        _check_readable(file)
    for flag, given, kinds in (
        ("prototxt", prototxt, (".caffemodel",)),
        ("mean", mean, (".caffemodel", ".onnx")),
    ):
        if given and kind not in kinds:
            raise InputError(f"--{flag}={given} is for {', '.join(kinds)}, but --input is {path}")
    if kind == ".safetensors" and native.is_ours(path):
        for flag, refused in (("config", config), ("class_names", class_names)):
            if refused is not None:
                raise InputError(
                    f"--{flag} is for files of other programs, but {path} is this one's, which "
                    "holds its own"
                )
        return native.read(path, alexnet.get_config())
    default = bvlc_alexnet if kind in (".caffemodel", ".onnx") else one_weird_trick
    config = default.get_config() if config is None else config
    if kind == ".caffemodel":
        stack = caffe.read(path, prototxt)
    elif kind == ".onnx":
        names = [layer.name for layer in layout.layers_of(config)]
        stack = onnx_in.read(path, names, config.data.crop)
    else:
        stack = pytorch.read(path, config)
    config = layout.configure(config, stack)
    params = layout.params_of(config, stack)
    image = _mean_image(config, mean)
    if stack.mean_file and mean is None:
        print(
            f"The net was trained with the mean image {stack.mean_file!r}; taken is data.mean="
            f"{config.data.mean} {tuple(config.data.given_mean)}. --mean=FILE takes the image.",
            file=sys.stderr,
        )
    return Net(config, 0, params, image, _names(class_names, config.model.classes))


def write_workdir(directory: Path, net: Any) -> None:
    """Make the folder of a run that has this net as its only checkpoint, at step 0.

    Raises:
        InputError: a run is there already, or the folder cannot be written.
    """
    from alexnet_jax import metrics, train
    from alexnet_jax.checkpoint import Checkpoints
    from alexnet_jax.workdir import claim, write_config

    train.check(net.config)
    with claim(directory):
        check_free(directory)
        state = train.first_state(net.config, net.params)
        optimizer = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
        del optimizer["params"]
        metadata = dict(
            config=net.config.to_dict(),
            class_names=list(net.class_names),
            images=0,
            totals=dict(vars(metrics.Totals())),
        )
        checkpoints = Checkpoints(directory, net.config.keep_checkpoints)
        checkpoints.save(0, state.params, optimizer, net.mean_image, metadata)
        checkpoints.close()
        write_config(directory, net.config, 0)


def check_free(directory: Path) -> None:
    """Raise InputError for a folder that holds a run."""
    if (directory / "config.json").exists() or (directory / "checkpoints").exists():
        raise InputError(f"--workdir={directory} holds a run already; give another")


def write(path: Path, net: Any) -> None:
    """Write a net as safetensors or ONNX, by the file's suffix.

    Raises:
        InputError: another suffix, or a folder that cannot be written.
    """
    from alexnet_jax.formats import native, onnx_out

    kind = _suffix("output", path, EXPORTED)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        (native if kind == ".safetensors" else onnx_out).write(temporary, net)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"cannot write --output={path}: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


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


def _mean_image(config: ConfigDict, mean: Path | None) -> np.ndarray:
    """What the workdir keeps as the mean image, (image_size, image_size, channels).

    The config's given mean, everywhere, or that of a file, which the config then names.
    """
    from alexnet_jax.formats import caffe

    side, channels = config.data.image_size, config.model.channels
    if mean is None:
        if config.data.mean not in ("given", "none"):
            raise InputError(
                f"config.data.mean={config.data.mean} needs the images that the weights were "
                'trained on; expected "given" with data.given_mean, "none", or --mean=FILE'
            )
        given = config.data.given_mean or (0.0,) * channels
        return np.broadcast_to(np.asarray(given, np.float32), (side, side, channels)).copy()
    image = caffe.read_mean(mean).astype(np.float32)
    if image.shape != (side, side, channels):
        raise InputError(f"{mean} is {image.shape}; expected {(side, side, channels)}")
    config.data.mean, config.data.given_mean = "image", ()
    return image


def _names(path: Path | None, classes: int) -> tuple[str, ...]:
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
    """The command."""
    source, target = _path("input"), _path("output")
    directory = Path(flags.FLAGS.workdir)
    if (source is None) == (target is None):
        raise InputError("give either --input=FILE, to make --workdir, or --output=FILE from it")
    if target is not None:
        for flag in ("config", "prototxt", "mean", "class_names"):
            if flags.FLAGS[flag].present:
                raise InputError(f"--{flag} is for --input; --output writes what {directory} holds")
        from alexnet_jax.evaluate import load_net

        net = load_net(directory)
        write(target, net)
        print(f"{target}: step {net.step} of {directory}")
        return
    assert source is not None
    check_free(directory)
    config = flags.FLAGS.config if flags.FLAGS["config"].present else None
    files = {name: _path(name) for name in ("prototxt", "mean", "class_names")}
    net = read(source, config, **files)
    write_workdir(directory, net)
    count = sum(array.size for layer in net.params.values() for array in layer.values())
    data = net.config.data
    colours = data.channel_order.upper() if net.config.model.channels == 3 else "grey"
    print(
        f"{directory}: {count:,} parameters, {net.config.model.classes} classes; inputs: "
        f"{RESIZED[data.resize]} to {data.image_size}, crop {data.crop}, {colours}, "
        f"mean {data.mean} {tuple(data.given_mean) or ''}".rstrip()
    )


if __name__ == "__main__":
    command.define_config(required=False)
    flags.DEFINE_string("workdir", None, "Folder of the run: made by --input.", required=True)
    flags.DEFINE_string("input", None, f"Weights to read: {', '.join(IMPORTED)}.")
    flags.DEFINE_string("output", None, f"File to write: {', '.join(EXPORTED)}.")
    flags.DEFINE_string("prototxt", None, "Caffe's definition of the net, for a .caffemodel.")
    flags.DEFINE_string("mean", None, "Caffe's mean image, a .binaryproto.")
    flags.DEFINE_string("class_names", None, "Names of the classes, one a line.")
    command.run(main)
