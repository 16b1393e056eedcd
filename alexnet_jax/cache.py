"""The folder of the user's cache: packs, and the programs that XLA has compiled."""

import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

MOST_BYTES = 2**30  # of compiled programs; those not used for longest give way

_FAILED = ("Error reading persistent compilation", "Error writing persistent compilation")


def directory() -> Path:
    """alexnet_jax in $XDG_CACHE_HOME, which is ~/.cache where it is not set."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser().absolute() / "alexnet_jax"


def keep_compiled() -> None:
    """Have JAX keep what it compiles, so that a second start does not compile it again.

    A program's entry is found by all that shapes it: its text, the compiler, its options and the
    machine. Processes may share the folder. Where it cannot be used, or an entry is damaged, a
    line on stderr says so, the folder is emptied, and this process compiles for itself.

    Who sets JAX_COMPILATION_CACHE_DIR gets JAX's own cache there, with JAX's own messages.
    JAX_ENABLE_COMPILATION_CACHE=false switches off either.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    import jax  # not for `directory`, which preparing needs without JAX
    from jax.experimental.compilation_cache import compilation_cache

    folder = directory() / "compiled"
    for name, value in (
        ("jax_compilation_cache_dir", str(folder)),
        ("jax_compilation_cache_max_size", MOST_BYTES),  # with it, JAX locks the folder
        ("jax_persistent_cache_min_compile_time_secs", 0.0),  # the many small ones add up
    ):
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    show, said = warnings.showwarning, False

    def show_once(message: Any, *about: Any, **more: Any) -> None:
        """JAX warns of every entry that fails, reading and writing, in words of its own."""
        nonlocal said
        if not str(message).startswith(_FAILED):
            show(message, *about, **more)
        elif not said:
            said = True
            jax.config.update("jax_enable_compilation_cache", False)
            compilation_cache.reset_cache()
            reason = str(message).partition("': ")[2].splitlines()[0][:200]
            if "Timeout" not in reason:  # of the lock: nothing is wrong with what lies there
                shutil.rmtree(folder, ignore_errors=True)
            print(
                f"The compiled programs in {folder} cannot be used ({reason}); compiling anew.",
                file=sys.stderr,
            )

    warnings.showwarning = show_once
