"""Training: a pure step, the one place where it is compiled, and the loop around it."""

import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from alexnet_jax import distributed, evaluate, finetune, metrics, network, parallel
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.data.augment import check_draws, margin
from alexnet_jax.data.pack import Pack
from alexnet_jax.data.pipeline import evaluation_batches, train_batches
from alexnet_jax.diagnostics import ConstantLossDetector
from alexnet_jax.errors import DivergedError, InputError
from alexnet_jax.inputs import check_mean, check_units, mean_of, normalise
from alexnet_jax.optimizer import (
    Plateau,
    check_multipliers,
    learning_rate,
    make_optimizer,
    rates,
)
from alexnet_jax.preemption import PreemptionSignal
from alexnet_jax.workdir import write_config
from alexnet_jax.writers import NullWriter, RunWriter

Batch = dict[str, Array]

COUNTS = (  # fields that are at least 1
    *("batch_size", "epochs", "log_every", "checkpoint_every", "evaluate_every"),
    "keep_checkpoints",
)


class TrainState(flax.struct.PyTreeNode):
    """All that changes while training.

    Attributes:
        step: number of updates done, int32.
        params: {"conv1": {"kernel": …, "bias": …}, …}.
        velocity: the optimizer's state.
        plateau: the state of the learning-rate rule "plateau".
    """

    step: Array
    params: Any
    velocity: optax.OptState
    plateau: Plateau


def init_state(config: ConfigDict) -> TrainState:
    """The state before the first step, a function of config.seed."""
    return first_state(config, network.init_params(config))


def first_state(config: ConfigDict, params: Any) -> TrainState:
    """The state before the first step, from given parameters."""
    velocity = make_optimizer(config).init(params)
    return TrainState(jnp.int32(0), params, velocity, Plateau.start())


def make_train_step(config: ConfigDict, mesh: Mesh, images: int) -> jax.stages.Wrapped:
    """The jitted (state, mean, batch) → (state, sums of the batch and the learning rate).

    The state is donated. The gradient is that of the mean over the whole batch: the loss is
    averaged over the mesh axes that split the batch inside the differentiated function.

    Args:
        images: in the training split.
    """
    model = network.make_model(config, mesh, weird=parallel.is_weird(config))
    axes, whole = parallel.batch_axes(config), parallel.whole_layers(config)
    optimizer = make_optimizer(config)

    def gradients(params: Any, mean: Array, batch: Batch) -> tuple[Any, dict[str, Array]]:
        inputs = normalise(batch, mean, config.data)
        dropout = jax.random.fold_in(jax.random.key(config.seed), 1)

        def loss(params: Any) -> tuple[Array, dict[str, Array]]:
            logits = network.logits(
                model, params, inputs, train=True, examples=batch["example"], dropout=dropout
            )
            everyone = jnp.ones_like(batch["label"], bool)
            sums = metrics.sums(jax.nn.log_softmax(logits), batch["label"], everyone)
            with jax.named_scope("loss"):
                sums = lax.psum(sums, axes)
            return sums["loss"] / sums["count"], sums

        return jax.grad(loss, has_aux=True)(params)

    columns = parallel.specs(network.abstract_params(config), mesh, whole)
    sharded_gradients = jax.shard_map(
        gradients,
        mesh=mesh,
        in_specs=(columns, P(), P(axes)),
        out_specs=(columns, P()),
    )

    def train_step(
        state: TrainState, mean: Array, batch: Batch
    ) -> tuple[TrainState, dict[str, Array]]:
        grads, sums = sharded_gradients(state.params, mean, batch)
        rate = learning_rate(config, images, state.step, state.plateau)
        each = rates(config, images, state.step, rate, state.params)
        updates, velocity = optimizer.update(
            grads, state.velocity, state.params, learning_rate=each
        )
        params = optax.apply_updates(state.params, updates)
        new = state.replace(step=state.step + 1, params=params, velocity=velocity)
        return new, {**sums, "learning_rate": rate}

    layout = parallel.shardings(jax.eval_shape(lambda: init_state(config)), mesh, whole)
    return jax.jit(train_step, donate_argnums=0, out_shardings=(layout, None))


def total_steps(config: ConfigDict, images: int) -> int:
    """Steps of the whole run: its epochs, or config.max_steps if that is earlier."""
    steps = math.ceil(config.epochs * images / config.batch_size)
    return min(steps, config.max_steps) if config.max_steps else steps


def check(config: ConfigDict) -> None:
    """Raise InputError for what can be seen to be wrong without the data."""
    for name in COUNTS:
        if config[name] < 1:
            raise InputError(f"{name}={config[name]}; expected at least 1")
    for name, value, expected, right in (
        ("max_steps", config.max_steps, "0 for no limit, or more", config.max_steps >= 0),
        ("learning_rate", config.learning_rate, "more than 0", config.learning_rate > 0),
        ("momentum", config.momentum, "from 0 to below 1", 0 <= config.momentum < 1),
        ("schedule.factor", config.schedule.factor, "more than 0", config.schedule.factor > 0),
        ("schedule.patience", config.schedule.patience, "1 or more", config.schedule.patience >= 1),
        ("weight_decay", config.weight_decay, "0 or more", config.weight_decay >= 0),
    ):
        if not right:
            raise InputError(f"{name}={value}; expected {expected}")
    parallel.make_mesh(config)
    network.abstract_params(config)
    jax.eval_shape(lambda: learning_rate(config, 1, 0, Plateau.start()))
    check_multipliers(config)
    check_mean(config.data)
    check_units(config.data, config.model.channels)
    check_draws(config.data)


def complete(config: ConfigDict, pack: Pack) -> ConfigDict:
    """The config with the number of classes that the data has.

    Raises:
        InputError: the config has another number, or its crop, channels or rule for the
            learning rate do not fit the data.
    """
    margin(pack, config.data, config.model.channels)
    if config.schedule.rule == "plateau" and "validation" not in pack.splits:
        raise InputError(
            f"schedule.rule=plateau needs validation images, and {config.data.name} has none; "
            "hold some out with --config.data.validation_share, or use schedule.rule=epochs"
        )
    config, classes = config.copy_and_resolve_references(), len(pack.class_names)
    if config.model.classes not in (0, classes):
        raise InputError(
            f"model.classes={config.model.classes}, but {config.data.name} has {classes} "
            "classes; leave it at 0 to take the data's"
        )
    config.model.classes = classes
    return config


def train(config: ConfigDict, pack: Pack, workdir: Path) -> int:
    """Train, from the newest checkpoint in the workdir if there is one, to the last step.

    Args:
        config: complete.
        workdir: claimed by the caller.

    Returns:
        0 when the last step is done, 128 + the signal that stopped it before.

    Raises:
        InputError: a config that this machine, the data or the workdir do not fit.
        DivergedError: the loss or the parameters are not finite.
    """
    mesh = parallel.make_mesh(config)
    images = pack.splits["train"].count
    with Checkpoints(workdir, config.keep_checkpoints) as checkpoints:
        state, totals, began = _start(config, pack, mesh, checkpoints)
        step, steps = int(state.step), total_steps(config, images)
        if step >= steps:
            if distributed.is_first():
                print(
                    f"{workdir} already has {step} steps and the config asks for {steps}: "
                    "nothing to train.",
                    file=sys.stderr,
                )
            return 0
        log: RunWriter | NullWriter = NullWriter()
        if distributed.is_first():
            for change in write_config(workdir, config, step, began):
                print(f"config.{change}", file=sys.stderr)
            if step:
                print(f"Continuing {workdir} after step {step} of {steps}.", file=sys.stderr)
            log = RunWriter(workdir, step, steps)
        try:
            return _Run(config, pack, mesh, checkpoints, log, totals).go(state, step)
        finally:
            log.close()


def _rest(state: TrainState) -> dict[str, Any]:
    """All of a state but the parameters, which a checkpoint holds by themselves."""
    return {"step": state.step, "velocity": state.velocity, "plateau": state.plateau}


def _start(
    config: ConfigDict, pack: Pack, mesh: Mesh, checkpoints: Checkpoints
) -> tuple[TrainState, metrics.Totals, int | None]:
    """The newest state that can be read, or the initial one; what is not yet recorded; the step
    of init_from whose parameters the initial one has.

    Raises:
        InputError: the state comes from other images than the pack has, or the parameters of
            config.init_from do not fit.
    """
    abstract = jax.eval_shape(lambda: init_state(config))
    whole = parallel.whole_layers(config)
    template = parallel.template(abstract, mesh, whole)
    images = pack.splits["train"].count

    def read(step: int) -> tuple[TrainState, metrics.Totals]:
        params = checkpoints.params(step, template.params)
        state = TrainState(params=params, **checkpoints.optimizer(step, _rest(template)))
        metadata = checkpoints.metadata(step)
        seen = (metadata["images"], metadata["class_names"], checkpoints.mean(step).tobytes())
        if seen != (images, list(pack.class_names), pack.mean_image.tobytes()):
            raise InputError(
                f"the run in {checkpoints.directory.parent} was trained on other images than "
                f"{pack.directory} holds: their number, classes or mean differ. Give the data "
                "it was made with, or another --workdir"
            )
        return state, metrics.Totals(**metadata["totals"])

    found = checkpoints.newest(read)
    if found is not None:
        checkpoints.set_aside_after(found[0])
        return *found[1], None
    out_shardings = parallel.shardings(abstract, mesh, whole)
    # It runs once: on CPU, optimising the many loops of the random numbers takes far longer.
    quick = {"xla_backend_optimization_level": 0} if mesh.devices.flat[0].platform == "cpu" else {}
    init = jax.jit(lambda: init_state(config), out_shardings=out_shardings, compiler_options=quick)
    state = init()
    if not config.init_from:
        return state, metrics.Totals(), None
    began, params = finetune.take_over(config, state.params, mesh)
    return state.replace(params=params), metrics.Totals(), began


class _Run:
    """The loop and what it keeps between steps."""

    def __init__(
        self,
        config: ConfigDict,
        pack: Pack,
        mesh: Mesh,
        checkpoints: Checkpoints,
        log: RunWriter | NullWriter,
        totals: metrics.Totals,
    ) -> None:
        self.config, self.pack, self.mesh = config, pack, mesh
        self.checkpoints, self.log, self.totals = checkpoints, log, totals
        self.images = pack.splits["train"].count
        self.steps = total_steps(config, self.images)
        self.train_step = make_train_step(config, mesh, self.images)
        self.forward = network.make_forward(config, mesh)
        mean = mean_of(pack.mean_image, config.data, config.model.channels)
        self.mean = jax.device_put(mean, NamedSharding(mesh, P()))
        self.stuck = ConstantLossDetector(config.model.classes, self.images / config.batch_size)
        self.sharding = parallel.batch_sharding(config, mesh)
        self.timed, self.seconds = 0, 0.0  # images and time of training since the last record

    def go(self, state: TrainState, step: int) -> int:
        """Train on; returns as `train` does."""
        self.saved, first = step, step + 1
        with PreemptionSignal() as own:
            stop = distributed.SharedPreemptionSignal(own, self.mesh)
            pending: dict[str, Array] | None = None
            clock = time.perf_counter()
            for batch in self._batches(step):
                state, sums = self.train_step(state, self.mean, batch)
                # The sums of the step before are fetched now, while the device does this one.
                if pending is not None:
                    self._read(step, pending)
                step, pending, signal = step + 1, sums, stop.signal()
                if not self._due(step) and signal is None:
                    if step == first:  # it compiled; the clock starts after it
                        jax.block_until_ready(sums)
                        clock, self.timed = time.perf_counter(), -self.config.batch_size
                        self.log.compiled()
                    continue
                self._read(step, pending)
                pending = None
                self.seconds += time.perf_counter() - clock
                state = self._pause(state, step, stop=signal is not None)
                if signal is not None:
                    return self._stopped(step, signal)
                clock = time.perf_counter()
            signal = stop.last()
        return 0 if signal is None else self._stopped(step, signal)

    def _stopped(self, step: int, signal: int) -> int:
        """The exit status of a run that a signal has stopped, saved, after a step."""
        self.log.write_line(f"Stopped after step {step}; the same command continues from it.")
        return 128 + signal

    def _batches(self, step: int) -> Iterator[Batch]:
        """Batches on the devices, the next one placed while the current one is used."""
        host = train_batches(
            self.pack,
            self.config.data,
            seed=self.config.seed,
            batch_size=self.config.batch_size,
            first_step=step,
            last_step=self.steps,
            channels=self.config.model.channels,
            rows=parallel.local_rows(self.config.batch_size, self.sharding),
        )
        ahead: Batch | None = None
        for batch in host:
            placed = parallel.shard_batch(batch, self.sharding)
            if ahead is not None:
                yield ahead
            ahead = placed
        if ahead is not None:
            yield ahead

    def _due(self, step: int) -> bool:
        """Whether there is something to say, to measure or to save after a step."""
        return self._records(step) or self._saves(step)

    def _records(self, step: int) -> bool:
        return step % self.config.log_every == 0 or self._validates(step)

    def _validates(self, step: int) -> bool:
        return step == self.steps or self._ends_epochs(step)

    def _ends_epochs(self, step: int) -> bool:
        before, now = (s * self.config.batch_size // self.images for s in (step - 1, step))
        return now > before and now % self.config.evaluate_every == 0

    def _saves(self, step: int) -> bool:
        return step % self.config.checkpoint_every == 0 or step == self.steps

    def _read(self, step: int, sums: dict[str, Array]) -> None:
        """Take up the sums of one step, whose number this is."""
        values = jax.device_get(sums)
        self.rate = float(values["learning_rate"])
        if not np.isfinite(values["loss"]):
            raise self._not_finite(f"the loss is {values['loss']}, not", step)
        self.totals.add(values)
        self.timed += self.config.batch_size
        self.log.advance()

    def _pause(self, state: TrainState, step: int, stop: bool) -> TrainState:
        """Between two steps: say, measure and save what is due, or save in order to stop."""
        epoch = step * self.config.batch_size / self.images
        if self._records(step):
            means = self.totals.means()
            speed = self.timed / self.seconds
            values = dict(step=step, epoch=epoch, split="train", **means)
            values.update(learning_rate=self.rate, images_per_second=speed)
            self.log.write_record(values)
            if warning := self.stuck.observe(step, means["loss"]):
                self.log.write_line(warning)
            self.totals, self.timed, self.seconds = metrics.Totals(), 0, 0.0
        if self._validates(step) and "validation" in self.pack.splits:
            state = self._validate(state, step, epoch)
        if stop or self._saves(step):
            self._save(state, step)
        return state

    def _validate(self, state: TrainState, step: int, epoch: float) -> TrainState:
        batches = evaluation_batches(
            self.pack,
            "validation",
            self.config.data,
            batch_size=self.config.batch_size,
            channels=self.config.model.channels,
            views="center",
            rows=parallel.local_rows(self.config.batch_size, NamedSharding(self.mesh, P("data"))),
        )
        predict = lambda batch: self.forward(state.params, self.mean, batch)  # noqa: E731
        (result,) = evaluate.errors([predict], batches, self.mesh)
        self.log.write_record(dict(step=step, epoch=epoch, split="validation", **result))
        if not self._ends_epochs(step):  # the last step, which a longer run would pass by
            return state
        plateau = state.plateau.observe(result["top1_error"], self.config.schedule.patience)
        return state.replace(
            plateau=jax.device_put(plateau, parallel.shardings(plateau, self.mesh))
        )

    def _save(self, state: TrainState, step: int) -> None:
        if not metrics.finite(state.params):
            raise self._not_finite("the parameters are not", step)
        metadata = dict(
            config=self.config.to_dict(),
            class_names=list(self.pack.class_names),
            images=self.images,
            totals=dict(vars(self.totals)),  # of the steps since the last record
        )
        self.checkpoints.save(step, state.params, _rest(state), self.pack.mean_image, metadata)
        self.saved = step

    def _not_finite(self, what: str, step: int) -> DivergedError:
        kept = f"the checkpoint of step {self.saved} is kept" if self.saved else "nothing is saved"
        return DivergedError(
            f"{what} finite at step {step}, at learning rate {self.rate:g}; {kept}. "
            "Lower --config.learning_rate, and see that --config.data.scale and "
            "--config.model.init fit each other"
        )
