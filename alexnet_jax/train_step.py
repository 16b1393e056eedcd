"""The training state, and the pure function that computes a training step."""

from collections.abc import Callable, Sequence

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.core import meta
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax import sharding
from alexnet_jax.config import Config
from alexnet_jax.data.batch import Batch, ResidentCrops
from alexnet_jax.inputs import normalize
from alexnet_jax.losses import log_probabilities, sum_aux_losses, total_loss
from alexnet_jax.metrics import MetricSums, compute_metrics
from alexnet_jax.models import registry
from alexnet_jax.optimizer import limit_filters, make_optimizer, update_average
from alexnet_jax.pytree import PyTree, Variables
from alexnet_jax.schedules import (
    PlateauState,
    init_schedule_state,
    learning_rate,
    learning_rates,
)


class TrainState(flax.struct.PyTreeNode):
    """The state that changes while training; parts that a model does not use are empty.

    Attributes:
        step: number of completed updates, int32.
        params: parameters, {"conv1": {"kernel": …, "bias": …}, …}, nested to any depth.
        batch_stats: running statistics of batch normalization.
        opt_state: state of the optimizer.
        schedule_state: state of the learning rate schedule.
        ema_params: averaged parameters.
    """

    step: Array
    params: PyTree
    batch_stats: PyTree
    opt_state: optax.OptState
    schedule_state: PlateauState | None
    ema_params: PyTree

    def variables(self) -> Variables:
        """Return the variables for evaluation, with averaged parameters if there are any."""
        variables = {"params": self.ema_params or self.params}
        return variables | ({"batch_stats": self.batch_stats} if self.batch_stats else {})

    def saved_variables(self) -> dict[str, PyTree]:
        """Return the part of a checkpoint that evaluation needs, without empty collections."""
        return _without_empty(
            params=self.params, batch_stats=self.batch_stats, ema_params=self.ema_params
        )

    def saved_train_state(self) -> dict[str, PyTree]:
        """Return the part of a checkpoint that only training needs, without empty entries."""
        return _without_empty(
            step=self.step, opt_state=self.opt_state, schedule_state=self.schedule_state
        )


def _without_empty(**parts: PyTree) -> dict[str, PyTree]:
    """Return the trees that have leaves."""
    return {name: part for name, part in parts.items() if jax.tree.leaves(part)}


class StepMetrics(flax.struct.PyTreeNode):
    """The metrics of a training step.

    Attributes:
        sums: metric sums over the batch.
        learning_rate: learning rate of the step, before multipliers.
    """

    sums: MetricSums
    learning_rate: Array


TrainStep = Callable[[TrainState, Array, Batch], tuple[TrainState, StepMetrics]]
GradientsFn = Callable[
    [PyTree, PyTree, Array, Batch, Array], tuple[PyTree, tuple[MetricSums, PyTree]]
]


def init_state(config: Config) -> TrainState:
    """Return the state before the first step, a function of config.seed."""
    state: TrainState = meta.unbox(make_state(config, registry.init_boxed_variables(config)))
    return state


def make_state(config: Config, variables: Variables) -> TrainState:
    """Return the state before the first step, with the given variables."""
    params = variables["params"]
    return TrainState(
        step=jnp.int32(0),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=make_optimizer(config.optimizer).init(params),
        schedule_state=init_schedule_state(config.schedule),
        # A copy, since a step donates each array of the state.
        ema_params=jax.tree.map(jnp.copy, params) if config.optimizer.ema_decay else {},
    )


def abstract_state(config: Config, mesh: Mesh) -> TrainState:
    """Return the shapes, types and shardings of the training state."""
    variables = registry.abstract_boxed_variables(config)
    boxed = jax.eval_shape(lambda variables: make_state(config, variables), variables)
    state: TrainState = sharding.with_shardings(boxed, mesh, sharding.rules(config))
    return state


def make_train_step(
    config: Config, mesh: Mesh, num_images: int, seeds: Sequence[int] = ()
) -> jax.stages.Wrapped:
    """Return the jitted `TrainStep`, (state, mean, batch) → (state, metrics).

    The state is donated.

    Args:
        config: config with the number of classes.
        mesh: the mesh of devices.
        num_images: number of images in the training split.
        seeds: seeds to train side by side, in place of config.seed: the arrays of state, batch and
            metrics then have an axis of seeds before their own axes, except for resident images.
            () trains config.seed, without such an axis.
    """
    train_step = _make_train_step_fn(config, mesh, num_images, seeds)
    out_shardings = (state_shardings(config, mesh, seeds), None)
    return jax.jit(train_step, donate_argnums=0, out_shardings=out_shardings)


def make_train_steps(
    config: Config, mesh: Mesh, num_images: int, seeds: Sequence[int] = ()
) -> jax.stages.Wrapped:
    """Return the jitted (state, mean, batches, count) → (state, metrics) that takes several steps.

    It takes the first `count` steps in a loop, which is compiled once for all counts, so that the
    state after a step does not depend on how steps are grouped. The batches and the metrics have
    an axis of steps before their other axes; metrics after `count` are zeros. The state is donated.

    Args:
        config, mesh, num_images, seeds: see `make_train_step`.
    """
    train_step = _make_train_step_fn(config, mesh, num_images, seeds)

    def train_steps(
        state: TrainState, mean: Array, batches: Batch, count: Array
    ) -> tuple[TrainState, StepMetrics]:
        def body(
            number: Array, carry: tuple[TrainState, StepMetrics]
        ) -> tuple[TrainState, StepMetrics]:
            state, of_steps = carry
            state, metrics = train_step(state, mean, batches.step(number))
            return state, jax.tree.map(
                lambda rows, row: rows.at[number].set(row), of_steps, metrics
            )

        _, shapes = jax.eval_shape(train_step, state, mean, batches.step(0))
        length = len(batches.offset)
        zeros = jax.tree.map(lambda one: jnp.zeros((length, *one.shape), one.dtype), shapes)
        result: tuple[TrainState, StepMetrics] = lax.fori_loop(0, count, body, (state, zeros))
        return result

    out_shardings = (state_shardings(config, mesh, seeds), None)
    return jax.jit(train_steps, donate_argnums=0, out_shardings=out_shardings)


def state_shardings(config: Config, mesh: Mesh, seeds: Sequence[int] = ()) -> PyTree:
    """Return the shardings of the training state; `seeds` is that of `make_train_step`."""

    def sharding_of(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        spec = leaf.sharding.spec
        return NamedSharding(mesh, P(None, *spec) if seeds else spec)

    return jax.tree.map(sharding_of, abstract_state(config, mesh))


def stack_states(config: Config, mesh: Mesh, states: Sequence[TrainState]) -> TrainState:
    """Return the states of several seeds as one, whose arrays have an axis of seeds first."""
    stack = jax.jit(
        lambda states: jax.tree.map(lambda *arrays: jnp.stack(arrays), *states),
        out_shardings=state_shardings(config, mesh, range(len(states))),
    )
    stacked: TrainState = stack(states)
    return stacked


@jax.jit
def state_of_seed(states: TrainState, number: Array) -> TrainState:
    """Return one of the states that `stack_states` has stacked, a copy."""
    state: TrainState = jax.tree.map(lambda array: array[number], states)
    return state


def _make_train_step_fn(
    config: Config, mesh: Mesh, num_images: int, seeds: Sequence[int]
) -> TrainStep:
    """Return the `TrainStep` that is to be compiled; see `make_train_step`."""
    compute_gradients = _make_gradients_fn(config, mesh, abstract_state(config, mesh))
    optimizer = make_optimizer(config.optimizer)

    def update(
        state: TrainState, mean: Array, batch: Batch, dropout_key: Array
    ) -> tuple[TrainState, StepMetrics]:
        grads, (sums, batch_stats) = compute_gradients(
            state.params, state.batch_stats, mean, batch, dropout_key
        )
        rate = learning_rate(config, num_images, state.step, state.schedule_state)
        rates = learning_rates(config, num_images, state.step, rate, state.params)
        updates, opt_state = optimizer.update(
            grads, state.opt_state, state.params, learning_rate=rates
        )
        params = optax.apply_updates(state.params, updates)
        if config.optimizer.max_filter_rms:
            params = limit_filters(params, config.optimizer.max_filter_rms, rates)
        new_state = state.replace(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            ema_params=update_average(config.optimizer, state.ema_params, params, state.step),
        )
        return new_state, StepMetrics(sums, rate)

    def train_step(state: TrainState, mean: Array, batch: Batch) -> tuple[TrainState, StepMetrics]:
        return update(state, mean, batch, _make_dropout_key(config.seed))

    def train_step_of_seeds(
        state: TrainState, mean: Array, batch: Batch
    ) -> tuple[TrainState, StepMetrics]:
        axes: Batch = jax.tree.map(lambda _: 0, batch)
        if isinstance(axes.image, ResidentCrops):
            axes = axes.replace(image=axes.image.replace(pixels=None))
        keys = jnp.stack([_make_dropout_key(seed) for seed in seeds])
        mapped = jax.vmap(update, in_axes=(0, None, axes, 0))
        result: tuple[TrainState, StepMetrics] = mapped(state, mean, batch, keys)
        return result

    return train_step_of_seeds if seeds else train_step


def _make_dropout_key(seed: int) -> Array:
    """Return the key of the dropout masks of a run."""
    return jax.random.fold_in(jax.random.key(seed), 1)


def _make_gradients_fn(config: Config, mesh: Mesh, state: TrainState) -> GradientsFn:
    """Return the function that computes gradients, metric sums and new batch_stats.

    It takes (params, batch_stats, mean, batch, key of the dropout masks).

    Args:
        config: config with the number of classes.
        mesh: the mesh of devices.
        state: abstract training state with its shardings.
    """
    compute_on_device = _make_device_gradients_fn(config, mesh)
    axes = sharding.batch_axes(config)
    params_specs, stats_specs = (
        jax.tree.map(lambda leaf: leaf.sharding.spec, tree)
        for tree in (state.params, state.batch_stats)
    )

    def gradients(
        params: PyTree, batch_stats: PyTree, mean: Array, batch: Batch, dropout_key: Array
    ) -> PyTree:
        compute_sharded = jax.shard_map(
            compute_on_device,
            mesh=mesh,
            in_specs=(params_specs, stats_specs, P(), sharding.batch_specs(batch, axes), P()),
            out_specs=(params_specs, (P(), stats_specs)),
        )
        return compute_sharded(params, batch_stats, mean, batch, dropout_key)

    return gradients


def _make_device_gradients_fn(config: Config, mesh: Mesh) -> GradientsFn:
    """Return the function of `_make_gradients_fn` for one device, inside `jax.shard_map`.

    The gradient is that of the mean loss over the batch of all devices. The sums over the mesh axes
    that split the batch are inside the differentiated function.

    Args:
        config, mesh: see `_make_gradients_fn`.
    """
    model = registry.make_model(config, sharding.make_layout(config, mesh, training=True))
    aux_weights = registry.family_of(config.model).aux_weights(config.model)
    axes = sharding.batch_axes(config)

    def gradients(
        params: PyTree, batch_stats: PyTree, mean: Array, batch: Batch, dropout_key: Array
    ) -> PyTree:
        assert batch.label is not None
        assert batch.example is not None
        assert batch.shift is not None
        images = normalize(batch, mean, config.data)
        label, examples = jnp.asarray(batch.label), jnp.asarray(batch.example)
        mask = jnp.ones_like(label, bool) if batch.mask is None else jnp.asarray(batch.mask)

        def loss(params: PyTree) -> tuple[Array, tuple[MetricSums, PyTree]]:
            outputs, new_stats = registry.apply_model(
                model,
                {"params": params, "batch_stats": batch_stats},
                images,
                train=True,
                examples=examples,
                dropout_key=dropout_key,
            )
            sums = compute_metrics(log_probabilities(outputs.logits), label, mask)
            aux_sums = sum_aux_losses(outputs.aux_logits, label, mask)
            with jax.named_scope("loss"):
                sums, aux_sums = lax.psum((sums, aux_sums), axes)
            total = total_loss(sums.loss, aux_sums, sums.count, aux_weights)
            return total, (sums, new_stats)

        return jax.grad(loss, has_aux=True)(params)

    return gradients
