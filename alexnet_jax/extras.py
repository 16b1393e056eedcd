"""Packages that only some commands need: the extras of pyproject.toml."""

import importlib.util

from alexnet_jax.errors import InputError


def check_installed(extra: str, purpose: str, *modules: str) -> None:
    """Raise InputError where a module of an extra cannot be imported.

    Args:
        extra: its name in pyproject.toml.
        purpose: what needs the modules, for the message.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"{purpose} needs {' and '.join(missing)}, which "
            f"{'is' if len(missing) == 1 else 'are'} not installed; run "
            f"pip install -e '.[{extra}]' in the checkout of alexnet_jax"
        )
