"""The user's cache folder, for packs and for programs compiled by XLA."""

import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MAX_BYTES = 2**30  # size limit of compiled programs; the least recently used are deleted first

# JAX reports failures of its cache only as a UserWarning whose text contains the exception's name
# and message.
_FAILED = ("Error reading persistent compilation", "Error writing persistent compilation")


def directory() -> Path:
    """Return alexnet_jax in $XDG_CACHE_HOME, or in ~/.cache if that is not set."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser().absolute() / "alexnet_jax"


def keep_compiled() -> None:
    """Make JAX cache compiled programs on disk, so that later runs need not compile them again.

    The key of a program consists of its text, the compiler, its options and the machine. Several
    processes may use the folder. `replace_damaged` handles failures.

    If JAX_COMPILATION_CACHE_DIR is set, JAX uses that folder instead and reports failures itself.
    JAX_ENABLE_COMPILATION_CACHE=false turns both caches off.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    import jax  # not at the top: preparing data needs `directory` without JAX

    for name, value in (
        ("jax_compilation_cache_dir", str(_compiled())),
        ("jax_compilation_cache_max_size", MAX_BYTES),  # with a limit, JAX locks the folder
        ("jax_persistent_cache_min_compile_time_secs", 0.0),  # there are many small programs
    ):
        if name.upper() not in os.environ:
            jax.config.update(name, value)


@contextmanager
def replace_damaged() -> Iterator[None]:
    """Within the context, delete the cache of compiled programs if it cannot be used.

    At the first failure of the cache of `keep_compiled`, print one line on stderr, delete the
    folder, and turn the cache off for this process. Otherwise JAX would warn about every program
    in every run. Other warnings are shown as usual.
    """
    with warnings.catch_warnings():
        show, replaced = warnings.showwarning, False

        def show_or_replace(message: Any, *args: Any, **kwargs: Any) -> None:
            nonlocal replaced
            text = str(message)
            if not (text.startswith(_FAILED) and _is_used()):
                show(message, *args, **kwargs)
            elif not replaced:
                replaced = True
                _replace(text.partition("': ")[2].splitlines()[0][:200])

        warnings.showwarning = show_or_replace
        yield


def _compiled() -> Path:
    """Return the folder of compiled programs."""
    return directory() / "compiled"


def _is_used() -> bool:
    """Return whether JAX uses the cache of `keep_compiled`, and not one that the user has set."""
    import jax

    return bool(jax.config.values["jax_compilation_cache_dir"] == str(_compiled()))


def _replace(reason: str) -> None:
    """Turn the cache off and delete it, unless the failure was a timeout."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    if "Timeout" not in reason:  # a timeout of the lock does not mean damage
        shutil.rmtree(_compiled(), ignore_errors=True)
    print(
        f"The compiled programs in {_compiled()} cannot be used ({reason}); compiling anew.",
        file=sys.stderr,
    )
