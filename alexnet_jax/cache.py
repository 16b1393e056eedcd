"""The user's cache folder: packs, and the programs that XLA has compiled."""

import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MAX_BYTES = 2**30  # of compiled programs; the least recently used are deleted first

# JAX passes every failure of its cache on as a UserWarning whose text holds the exception's name
# and message; neither an exception, nor a category of its own, nor a callback tells it.
_FAILED = ("Error reading persistent compilation", "Error writing persistent compilation")


def directory() -> Path:
    """Return alexnet_jax in $XDG_CACHE_HOME, or in ~/.cache if that is not set."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser().absolute() / "alexnet_jax"


def keep_compiled() -> None:
    """Have JAX keep compiled programs on disk, so that a second start does not compile them again.

    The key of a program is its text, the compiler, its options and the machine. Processes may
    share the folder. `replace_damaged` handles failures.

    With JAX_COMPILATION_CACHE_DIR set, JAX's own cache is used there, with JAX's own messages.
    JAX_ENABLE_COMPILATION_CACHE=false switches both off.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    import jax  # not at the top: preparing data needs `directory` without JAX

    for name, value in (
        ("jax_compilation_cache_dir", str(_compiled())),
        ("jax_compilation_cache_max_size", MAX_BYTES),  # with a limit, JAX locks the folder
        ("jax_persistent_cache_min_compile_time_secs", 0.0),  # many small programs add up
    ):
        if name.upper() not in os.environ:
            jax.config.update(name, value)


@contextmanager
def replace_damaged() -> Iterator[None]:
    """Within the context, replace a cache of compiled programs that cannot be used.

    At the first failure of the folder of `keep_compiled`, print one line on stderr, delete the
    folder, and switch the cache off for this process. JAX would warn of every program, on every
    start. Other warnings are shown as before.
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
    return directory() / "compiled"


def _is_used() -> bool:
    """Return whether JAX's cache is the one of `keep_compiled`, not one of the user's own."""
    import jax

    return bool(jax.config.values["jax_compilation_cache_dir"] == str(_compiled()))


def _replace(reason: str) -> None:
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    if "Timeout" not in reason:  # of the lock: the entries are sound
        shutil.rmtree(_compiled(), ignore_errors=True)
    print(
        f"The compiled programs in {_compiled()} cannot be used ({reason}); compiling anew.",
        file=sys.stderr,
    )
