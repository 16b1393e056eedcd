"""Common parts of all commands: flags, help, exit statuses and error messages."""

import errno
import io
import os
import re
import runpy
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from alexnet_jax import cache, environment, fields, streams
from alexnet_jax.config import Config, validated
from alexnet_jax.errors import DivergedError, InputError, print_error
from alexnet_jax.preemption import (
    Terminated,
    interrupt_status,
    raise_terminated,
    stop_signals,
)

FLAGS = flags.FLAGS

# Keep TensorFlow, which is used only to read data, from printing its CPU features at every start.
QUIET_TENSORFLOW = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}

# Flags whose values are paths. Those in the config are expanded where they are read.
PATHS = ("workdir", "output", "input", "prototxt", "mean", "class_names", "data_dir")

_EXAMPLE = "an example is --config=configs/alexnet.py:sample"


def define_config(*, required: bool = True) -> None:
    """Define --config=FILE[:VARIANT], with --config.FIELD=VALUE beside it."""
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Config file and variant, such as configs/alexnet.py:sample (the docstring of the file "
        "lists the variants); --config.FIELD=VALUE overrides a field.",
    )
    if required:
        flags.mark_flag_as_required("config")  # type: ignore[no-untyped-call]


def validated_config() -> Config:
    """Return the config given by --config and --config.FIELD, checked and sealed.

    Raises:
        InputError: the config is not valid.
    """
    return validated(FLAGS.config)


def load_config(file: str) -> Config:
    """Return the config of FILE[:VARIANT], neither checked nor sealed.

    Raises:
        InputError: the file has no get_config, or it does not return a Config.
    """
    path, _, variant = file.partition(":")
    get_config = runpy.run_path(path).get("get_config")
    if get_config is None:
        raise InputError(f"{path} defines no get_config; expected one as in configs/alexnet.py")
    return _expect_config(get_config(variant) if variant else get_config(), file)


def _expect_config(config: object, file: str) -> Config:
    """Return the result of a file's get_config after a check of its type.

    Raises:
        InputError: it is not a Config.
        OSError: the file cannot be read, for which ml_collections returns a placeholder.
    """
    getattr(config, "seed", None)  # ml_collections raises OSError only when a field is read
    if not isinstance(config, Config):
        raise InputError(
            f"get_config of {file} returns a {type(config).__name__}; expected an "
            "alexnet_jax.config.Config, as in configs/alexnet.py"
        )
    return config


def define_processes() -> None:
    """Define the flags of `distributed` for runs with several processes."""
    flags.DEFINE_bool(
        "distributed",
        False,
        "Run as one of several processes started by SLURM, Open MPI or on Cloud TPU.",
    )
    flags.DEFINE_string(
        "coordinator_address", None, "HOST:PORT of process 0, if it cannot be detected."
    )
    flags.DEFINE_integer("num_processes", None, "Number of processes.", lower_bound=1)
    flags.DEFINE_integer("process_id", None, "Number of this process, from 0.", lower_bound=0)


def given_config() -> tuple[str, dict[str, object]]:
    """Return FILE[:VARIANT] of --config, and the fields set by --config.FIELD=VALUE."""
    holder = FLAGS["config"]
    return config_flags.get_config_filename(holder), config_flags.get_override_values(holder)


def default_workdir() -> str:
    """Return the default workdir of the config given by --config."""
    return workdir_of(given_config()[0])


def workdir_of(file: str) -> str:
    """Return the default workdir of FILE[:VARIANT].

    It is runs/alexnet-sample for configs/alexnet.py:sample. Commas in the variant are replaced by
    hyphens, since evaluate splits --workdir at commas; slashes are replaced, too, if the variant is
    a path.
    """
    path, _, variant = file.partition(":")
    words = [Path(path).stem, *re.split("[,/]", variant)]
    return os.path.join("runs", "-".join(filter(None, words)))


def make_folder(output: str | Path) -> Path:
    """Create the folder of --output if it does not exist, and return its path.

    Raises:
        InputError: the folder cannot be created or written to.
    """
    path = Path(output)
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise InputError(f"--output={output} cannot be written to: {error.strerror}") from None
    return path


def run(main: Callable[[list[str]], int | None]) -> None:
    """Parse the flags, call `main` with the other arguments and exit with its status.

    Exit statuses:
        0: `main` returned None or 0, or --help was given.
        1: a defect of the program, with a traceback, or what the command documents.
        2: wrong flags, a wrong config, or any other InputError: one message on stderr.
        3: training diverged (DivergedError): one message on stderr.
        128 + N: ended by signal N: 129 for SIGHUP, 130 for SIGINT, 143 for SIGTERM, 141 for a pipe
            of stdout that is closed.
    """
    if {"--help", "-help", "-h"} & set(sys.argv[1:]):
        print(_help())
        sys.exit(0)
    for name, value in QUIET_TENSORFLOW.items():  # read when TensorFlow is imported
        os.environ.setdefault(name, value)
    if isinstance(sys.stderr, io.TextIOWrapper):  # not in the tests' own process
        sys.stderr = streams.open_messages(sys.stderr)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = streams.open_output(sys.stdout)
    for number in {*stop_signals()} - {signal.SIGINT}:  # Python raises KeyboardInterrupt for that
        signal.signal(number, raise_terminated)
    try:
        with cache.replace_damaged(), _platform_errors_as_input_errors():
            status = main(_parse(sys.argv))
        sys.stdout.flush()
    except InputError as error:
        print_error(str(error))
        status = 2
    except DivergedError as error:
        print_error(str(error))
        status = 3
    except KeyboardInterrupt as error:  # the training loop handles signals and saves first
        print_error("terminated" if isinstance(error, Terminated) else "interrupted")
        status = interrupt_status(error)
    except BrokenPipeError:  # the reader of stdout has closed it, as in `… | head`
        status = 141
    with suppress(InputError, BrokenPipeError):  # what was printed before an error
        sys.stdout.flush()
    sys.exit(status)


@contextmanager
def _platform_errors_as_input_errors() -> Iterator[None]:
    """Turn the exceptions of JAX for platforms that it cannot use into InputErrors."""
    try:
        yield
    except (RuntimeError, AssertionError):
        problem = environment.find_platform_problem() if "jax" in sys.modules else None
        if problem is None:
            raise
        raise InputError(problem) from None


def _parse(arguments: list[str]) -> list[str]:
    """Parse the flags and return the other arguments."""
    try:
        positional = FLAGS(arguments)[1:]
        _expand_home_folder()
        if "config" in FLAGS and FLAGS["config"].present:
            _expect_config(FLAGS.config, config_flags.get_config_filename(FLAGS["config"]))
    except flags.Error as error:
        if "Traceback (most recent call last)" in str(error):
            raise  # absl wraps a TypeError or ValueError raised by a config file, which is a defect
        last = str(error).strip().splitlines()[-1]
        if missing := re.match(r"flag --(\w+)=None", last):
            last = f"--{missing[1]} is missing"
            if missing[1] == "config":
                last += f"; {_EXAMPLE}"
        raise InputError(f"{last} (--help lists the flags)") from None
    except OSError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"cannot read the config file: {reason}; {_EXAMPLE}") from None
    except (SyntaxError, ImportError) as error:
        raise InputError(f"the config file cannot be run: {_with_place(error)}") from None
    except (AttributeError, KeyError, ValueError):  # the last for a path such as model.ops.
        message = _unknown_field(arguments)
        if message is None:
            raise
        raise InputError(message) from None
    if positional and "config" in FLAGS:
        raise InputError(f"unexpected arguments: {' '.join(positional)} (--help lists the flags)")
    return positional


def _expand_home_folder() -> None:
    """Replace a "~" at the start of paths in flags, which shells leave after an equals sign."""
    for name in PATHS:
        value = FLAGS[name].value if name in FLAGS else None
        if isinstance(value, str):
            FLAGS[name].value = os.path.expanduser(value)
        elif value is not None:  # a list of paths
            FLAGS[name].value = [*map(os.path.expanduser, value)]


def _with_place(error: SyntaxError | ImportError) -> str:
    """Return an error of a config file, or of a module that it imports, with file and line."""
    if isinstance(error, SyntaxError):
        return (
            f"{error.filename}, line {error.lineno}: {error.msg}" if error.filename else error.msg
        )
    frames = traceback.extract_tb(error.__traceback__)
    last = [frame for frame in frames if not frame.filename.startswith("<frozen ")][-1]
    return f"{last.filename}, line {last.lineno}: {error}"


def _unknown_field(arguments: list[str]) -> str | None:
    """Return the message for the first --config.FIELD that the config does not have.

    Args:
        arguments: command line, in which values follow flags after "=" or as next argument.
    """
    flags_and_values = zip(arguments, [*arguments[1:], ""], strict=True)
    files = [
        argument.partition("=")[2] or following
        for argument, following in flags_and_values
        if re.match("--?config(=|$)", argument)
    ]
    override = re.compile(r"--?(?:no)?config\.([^=]+)")
    paths = [found[1] for argument in arguments if (found := override.match(argument))]
    if not files:
        return None
    config = load_config(files[-1])
    return next(filter(None, (fields.find_unknown(config, path) for path in paths)), None)


def _help() -> str:
    """Return the docstring of the main module, and its flags and those of this package."""
    main = sys.modules["__main__"]
    packages = (__package__, "experiments")  # omit the flags of absl
    modules = FLAGS.flags_by_module_dict()
    names = [name for name in modules if name == sys.argv[0] or name.split(".")[0] in packages]
    listed = [FLAGS.module_help(name).split(":\n", 1)[1].rstrip() for name in names]
    return "\n".join([(main.__doc__ or "").strip(), "\nflags:", *listed])
