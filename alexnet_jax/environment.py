"""Check the installed packages and JAX's platforms, with one line where something is missing."""

import importlib.metadata
import re
import sys

# Lowest version, and first version that is too high, "" for any; as in pyproject.toml.
PYTHON = ("3.11", "3.14")
PACKAGES = {
    "absl-py": ("2.1", ""),
    "filelock": ("3.13", ""),
    "flax": ("0.12.7", "0.13"),
    "jax": ("0.10.2", "0.13"),
    "jaxlib": ("0.10.2", "0.13"),
    "ml_collections": ("1.1", "2"),
    "numpy": ("2.0", "3"),
    "optax": ("0.2.8", "0.3"),
    "orbax-checkpoint": ("0.12", "0.13"),
    "pillow": ("11.3", ""),
    "tensorboardX": ("2.6.2.2", "3"),
    "tqdm": ("4.66", ""),
}


def check_versions() -> None:
    """Check the versions of Python and of the installed packages.

    The package calls this before it imports anything else, since its modules cannot be imported
    with versions that lack what they use.

    Raises:
        SystemExit: a version does not fit, and a command has been started: one line on stderr,
            and exit status 2.
        ImportError: the same, and another program imports the package.
    """
    problems = [_problem("Python", ".".join(map(str, sys.version_info[:3])), PYTHON)]
    for package, bounds in PACKAGES.items():
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found = ""
        problems.append(_problem(package, found, bounds))
    listed = ", ".join(filter(None, problems))
    if not listed:
        return
    message = f"needs {listed}; run pip install -e . in the checkout of alexnet_jax"
    if _is_command():
        print(f"alexnet_jax {message}", file=sys.stderr)
        sys.exit(2)
    raise ImportError(f"alexnet_jax {message}")


def _problem(package: str, found: str, bounds: tuple[str, str]) -> str:
    """Return what is needed and found, such as "jax>=0.10.2,<0.13 (0.4.30 is installed)"; or ""."""
    low, high = bounds
    version = _numbers(found)
    if found and version >= _numbers(low) and not (high and version >= _numbers(high)):
        return ""
    needed = f"{package}>={low},<{high}" if high else f"{package}>={low}"
    return f"{needed} ({found or 'none'} is installed)"


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version; (0, 10, 2) for "0.10.2rc1"."""
    release = re.match(r"[0-9.]*", version)
    assert release is not None
    return tuple(int(number) for number in release[0].split(".") if number)


def _is_command() -> bool:
    """Return whether Python has been started with `-m` to run a command of this project."""
    if sys.argv[:1] == ["-m"]:  # while Python looks for the module to run
        return True
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name.split(".")[0] in ("alexnet_jax", "experiments")


def find_platform_problem() -> str | None:
    """Return the message if JAX cannot use the platforms it is told to; None if it can.

    The platforms are those of JAX_PLATFORMS. JAX raises RuntimeError for unknown or missing ones,
    and an AssertionError without a text for CUDA (0.10).
    """
    import jax  # not at the top: versions are checked before

    wanted = jax.config.jax_platforms  # type: ignore[attr-defined]
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition(" (set JAX_PLATFORMS")[0] or "no such backend is installed"
    else:
        return None
    jax.config.update("jax_platforms", None)  # find the best one
    available = dict.fromkeys((jax.default_backend(), "cpu"))
    return (
        f"JAX_PLATFORMS={wanted}: JAX cannot use this platform; available: {', '.join(available)}. "
        f"Unset JAX_PLATFORMS to choose automatically. ({' '.join(reason.split())})"
    )
