"""Flags, help, exit statuses and error messages of every command."""

import errno
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from alexnet_jax import cache
from alexnet_jax.errors import DivergedError, InputError

FLAGS = flags.FLAGS

# Otherwise TensorFlow, which only reads data here, reports its CPU kernels at every start.
QUIET_TENSORFLOW = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}


def define_config(*, required: bool = True) -> "flags.FlagHolder[ConfigDict]":
    """Define --config=FILE[:VARIANT], with --config.FIELD=VALUE beside it."""
    holder = config_flags.DEFINE_config_file(
        "config",
        None,
        "Config file and variant, as configs/alexnet.py:sample (the head of the file lists its "
        "variants); --config.FIELD=VALUE overrides a field.",
    )
    if required:
        flags.mark_flag_as_required("config")
    return holder


def define_processes() -> None:
    """Define the flags that `distributed` reads to make several processes one run."""
    flags.DEFINE_bool(
        "distributed",
        False,
        "Run as one of the processes that SLURM, Open MPI or Cloud TPU have started.",
    )
    flags.DEFINE_string(
        "coordinator_address", None, "HOST:PORT of process 0, where nothing else tells it."
    )
    flags.DEFINE_integer("num_processes", None, "How many processes there are.", lower_bound=1)
    flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.", lower_bound=0)


def given_config() -> tuple[str, dict[str, Any]]:
    """Return FILE[:VARIANT] of --config, and the fields set by --config.FIELD=VALUE."""
    holder = FLAGS["config"]
    return config_flags.get_config_filename(holder), config_flags.get_override_values(holder)


def default_workdir() -> str:
    """Return the workdir of a config: runs/alexnet-sample for configs/alexnet.py:sample.

    Commas between a variant's words become hyphens, since commands split --workdir at commas; so
    do slashes, where the variant is a folder.
    """
    path, _, variant = given_config()[0].partition(":")
    words = [Path(path).stem, *re.split("[,/]", variant)]
    return os.path.join("runs", "-".join(filter(None, words)))


def make_folder(output: str | Path) -> Path:
    """Make the folder of --output if it is missing, and return it.

    Raises:
        InputError: it cannot be made, or written to.
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
        128 + N: ended by signal N: 130 for SIGINT, 143 for SIGTERM, 141 for a closed pipe.
    """
    if {"--help", "-help", "-h"} & set(sys.argv[1:]):
        print(_help())
        sys.exit(0)
    for name, value in QUIET_TENSORFLOW.items():  # read when TensorFlow is imported
        os.environ.setdefault(name, value)
    try:
        with cache.replace_damaged():
            status = main(_parse(sys.argv))
        sys.stdout.flush()
    except InputError as error:
        print_error(str(error))
        status = 2
    except DivergedError as error:
        print_error(str(error))
        status = 3
    except KeyboardInterrupt:  # while training, train.py takes it and saves first
        print_error("interrupted")
        status = 130
    except BrokenPipeError:  # the reader has gone, as in `… | head`; nothing left to tell it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    sys.exit(status)


def print_error(message: str) -> None:
    """Print an error message on stderr, after the program's name."""
    print(f"{_program()}: {message}", file=sys.stderr)


def _parse(arguments: list[str]) -> list[str]:
    """Parse the flags and return the other arguments."""
    try:
        rest = FLAGS(arguments)[1:]
        if "config" in FLAGS and FLAGS["config"].present:
            _check_loaded(FLAGS.config)
    except flags.Error as error:  # an exception inside the config file comes with a traceback
        last = str(error).strip().splitlines()[-1]
        last = last.removeprefix("ValueError: ")
        if missing := re.match(r"flag --(\w+)=None", last):
            last = f"--{missing[1]} is missing"
        raise InputError(f"{last} (--help lists the flags)") from None
    except OSError as error:
        raise InputError(
            f"cannot read the config file: {str(error).strip().splitlines()[-1].strip()}; "
            "an example is --config=configs/alexnet.py:sample"
        ) from None
    except (AttributeError, KeyError) as error:
        cause = error.args[0]
        said = str(cause.args[0] if isinstance(cause, KeyError) else cause)
        guess = re.search(r'Did you mean "(.+?)" instead of "(.+?)"', said)
        name = guess[2] if guess else said.strip("'")
        given = re.compile(rf"--?config\.((?:.+\.)?{re.escape(name)})(?:=|$)")
        whole = next((found[1] for flag in arguments if (found := given.match(flag))), name)
        hint = f"; did you mean {guess[1]}?" if guess else ""
        raise InputError(f"the config has no field {whole}{hint}") from None
    except (TypeError, ValueError) as error:
        raise InputError(f"in the config: {error}") from None
    if rest and "config" in FLAGS:
        raise InputError(f"unexpected arguments: {' '.join(rest)} (--help lists the flags)")
    return rest


def _check_loaded(config: Any) -> None:
    """Raise the OSError of a config file that cannot be read, if there was one.

    `config_flags` puts the error off to the first use of any attribute, whatever its name.
    """
    getattr(config, "any", None)


def _help() -> str:
    """Return the main module's docstring, its flags and those of this package."""
    main = sys.modules["__main__"]
    packages = (__package__, "experiments")  # not absl's
    modules = FLAGS.flags_by_module_dict()
    ours = [name for name in modules if name == sys.argv[0] or name.split(".")[0] in packages]
    listed = [FLAGS.module_help(name).split(":\n", 1)[1].rstrip() for name in ours]
    return "\n".join([(main.__doc__ or "").strip(), "\nflags:", *listed])


def _program() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec else os.path.basename(sys.argv[0])
