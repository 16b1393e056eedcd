"""The paper's update rule and its learning rate (section 5)."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array

from alexnet_jax.errors import InputError


class Plateau(flax.struct.PyTreeNode):
    """What the rule "divide by 10 when the validation error stops improving" remembers.

    Attributes, all scalars:
        drops: how often the rate has been divided.
        best: the lowest validation error so far, a fraction.
        stale: validations since then, or since the last division.
    """

    drops: Array
    best: Array
    stale: Array

    @classmethod
    def start(cls) -> "Plateau":
        """Before the first validation."""
        return cls(jnp.int32(0), jnp.float32(jnp.inf), jnp.int32(0))

    def observe(self, error: float, patience: int) -> "Plateau":
        """After a validation with this error; `patience` stale ones divide the rate."""
        if jnp.float32(error) < self.best:  # in the type of `best`, or 0.4 would beat 0.4
            return self.replace(best=jnp.float32(error), stale=jnp.zeros_like(self.stale))
        stale = self.stale + 1
        if int(stale) < patience:
            return self.replace(stale=stale)
        return self.replace(drops=self.drops + 1, stale=jnp.zeros_like(stale))


def learning_rate(
    config: Mapping[str, Any], images: int, step: Array | int, plateau: Plateau
) -> Array:
    """The rate at a step: config.learning_rate × schedule.factor ^ drops so far.

    Rule "epochs": one drop at the start of each epoch in `drop_epochs`, counted from 1 as in
    the 2012 program's logs. Rule "plateau": as many as it saw fit, at most `drops`.

    Args:
        config: the whole config.
        images: in the training split.
        step: number of updates done.
        plateau: read by the rule "plateau" only.

    Raises:
        InputError: a rule of another name.
    """
    schedule = config["schedule"]
    if schedule["rule"] == "epochs":
        starts = [_first_step(epoch, images, config) for epoch in schedule["drop_epochs"]]
        drops = sum((jnp.asarray(step >= start, jnp.int32) for start in starts), jnp.int32(0))
    elif schedule["rule"] == "plateau":
        drops = jnp.minimum(plateau.drops, schedule["drops"])
    else:
        raise InputError(f"schedule.rule is {schedule['rule']!r}; expected 'epochs' or 'plateau'")
    return config["learning_rate"] * jnp.float32(schedule["factor"]) ** drops


def rates(
    config: Mapping[str, Any], images: int, step: Array | int, rate: Array, params: Any
) -> Any:
    """The rate of each parameter at a step: the net's rate times its factors.

    `schedule.multipliers` lists (name, epoch, factor): from the start of that epoch on, counted
    from 1 and not necessarily whole, until the next entry of the same name. A name is "conv1" for
    a layer, "bias" or "kernel" for those of all layers, or "conv1/kernel"; where several names
    fit a parameter, their factors multiply.

    Args:
        config: the whole config.
        images: in the training split.
        step: number of updates done.
        rate: of the net, as `learning_rate` gives it.
        params: {"conv1": {"kernel": …, "bias": …}, …}, of which only the structure is used.

    Returns:
        Scalars, with the structure of params.
    """

    def one(path: tuple[jax.tree_util.DictKey, ...], _: Any) -> Array:
        layer, kind = (key.key for key in path)
        own = rate
        for name in (layer, kind, f"{layer}/{kind}"):
            factor: Array | float = 1.0
            for listed, epoch, value in sorted(
                config["schedule"]["multipliers"], key=lambda entry: entry[1]
            ):
                if listed == name:
                    start = _first_step(epoch, images, config)
                    factor = jnp.where(step >= start, jnp.float32(value), factor)
            own = own * factor
        return own

    return jax.tree_util.tree_map_with_path(one, params)


def check_multipliers(config: Mapping[str, Any]) -> None:
    """Raise InputError for a `schedule.multipliers` that is no list of (name, epoch, factor)."""
    layers, kinds = config["model"]["layers"], ("kernel", "bias")
    names = [*layers, *kinds, *(f"{layer}/{kind}" for layer in layers for kind in kinds)]
    for entry in config["schedule"]["multipliers"]:
        triple = isinstance(entry, tuple | list) and len(entry) == 3
        numbers = triple and all(isinstance(value, int | float) for value in entry[1:])
        if not (numbers and entry[0] in names and entry[1] >= 1 and entry[2] >= 0):
            raise InputError(
                f"schedule.multipliers has {entry!r}; expected (name, epoch, factor) with a name "
                f"of {', '.join([*layers, *kinds])} or a pair as {names[-1]}, an epoch of 1 or "
                'more, and a factor of 0 (which stops it) or more, as in (("conv1", 67, 0.1),)'
            )


def _first_step(epoch: float, images: int, config: Mapping[str, Any]) -> int:
    """The first step that begins at or after the start of an epoch, counted from 1."""
    return math.ceil((epoch - 1) * images / config["batch_size"])


def make_optimizer(config: Mapping[str, Any]) -> optax.GradientTransformationExtraArgs:
    """The update rule of section 5, with the learning rate ε inside the velocity:

        v ← momentum · v − weight_decay · ε · w − ε · ∂L/∂w
        w ← w + v

    `optax.sgd` keeps ε outside v instead: the same at a constant rate, another step after
    every drop.

    Where ε is 0, w stays as it is from that step on, whatever v still holds: so the 2012 program
    freezes a layer (src/weights.cu).

    Args:
        config: the whole config; momentum and weight_decay are read, and decay_biases, which the
            paper does not spare and its program does.

    The result's `update` takes ε as `learning_rate=`, a scalar or one for each parameter; its
    state is v.
    """

    def by_rate(updates, state, params=None, *, learning_rate, **_):
        return _each(lambda rate, u: -rate * u, learning_rate, updates), state

    mask = None if config["decay_biases"] else _not_biases
    rule = optax.chain(
        optax.add_decayed_weights(config["weight_decay"], mask),
        optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), by_rate),
        optax.trace(decay=config["momentum"]),
    )

    def update(updates, state, params=None, *, learning_rate, **_):
        updates, state = rule.update(updates, state, params, learning_rate=learning_rate)
        frozen = _each(lambda rate, u: jnp.where(rate > 0, u, 0), learning_rate, updates)
        return frozen, state

    return optax.GradientTransformationExtraArgs(rule.init, update)


def _each(function: Callable[[Any, Array], Array], rates: Any, updates: Any) -> Any:
    """The function of each update and its rate, or the one rate of all."""
    return jax.tree.map(
        lambda rate, under: jax.tree.map(lambda u: function(rate, u), under), rates, updates
    )


def _not_biases(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key != "bias", params)
