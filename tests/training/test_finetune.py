"""Starting from another run's parameters, with real runs of a tiny model."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers import processes
from helpers.image_sets import write_idx, write_idx_set
from helpers.in_process import train_here
from helpers.torch_branched import small_resnet

from alexnet_jax import command, fields, finetune, sharding
from alexnet_jax.config import Config, sequential_model, validated, with_changes
from alexnet_jax.errors import InputError
from alexnet_jax.models import registry
from alexnet_jax.models.ops import Conv, Dense, Tanh
from alexnet_jax.pytree import leaves_by_path
from alexnet_jax.trained import load_trained
from configs import from_workdir


def tiny(data: Path, **changes: Any) -> Config:
    """Return the tiny model's config for the images in a folder, neither checked nor sealed."""
    config = command.load_config(str(processes.write_config(data, data)))
    return fields.replace(config, dict(max_steps=3, checkpoint_every=3) | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make `base`, a run on images of five classes, and `three`, images of three."""
    path = tmp_path_factory.mktemp("finetune")
    write_idx_set(path / "five", train=60, test=20)
    assert train_here(tiny(path / "five"), path / "base") == 0
    write_idx_set(path / "three", train=60, test=20, seed=9)
    for prefix, count in (("train", 60), ("t10k", 20)):
        write_idx(path / "three" / f"{prefix}-labels-idx1-ubyte", np.arange(count) % 3)
    return path


def test_new_classes(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches: a start from random numbers, or from the wrong layer; a rate of 0 that lets a
    layer move; a step that is not recorded, or lost when the run goes on; silence about what
    was taken; a resume that starts over from the other run."""
    source = shutil.copytree(folder / "base", tmp_path / "base")
    config = tiny(folder / "three", init_from=str(source))
    config.schedule.multipliers = (("conv1/.*", 1, 0.0), ("fc8/.*", 1, 10.0))
    assert train_here(config, tmp_path / "run") == 0
    output = capsys.readouterr().err
    assert (
        "step 3: took conv1, conv2, fc6; initialized anew: fc8 (kernel (2, 4, 5) there, " in output
    )
    old, new = load_trained(source).params, load_trained(tmp_path / "run").params
    np.testing.assert_array_equal(new["conv1"]["kernel"], old["conv1"]["kernel"])
    np.testing.assert_array_equal(new["conv1"]["bias"], old["conv1"]["bias"])
    assert np.any(new["fc6"]["kernel"] != old["fc6"]["kernel"])
    assert new["fc8"]["kernel"].shape == (2, 4, 3)

    assert json.loads((tmp_path / "run" / "config.json").read_text())["init_step"] == 3

    shutil.rmtree(source)  # its own checkpoint is enough now
    config.max_steps = 5
    assert train_here(config, tmp_path / "run") == 0
    output = capsys.readouterr().err
    assert "Continuing" in output
    assert json.loads((tmp_path / "run" / "config.json").read_text())["init_step"] == 3
    assert "took" not in output
    config.init_from = ""
    with pytest.raises(InputError, match=r"another config: init_from was '.*base', is ''"):
        train_here(config, tmp_path / "run")


@pytest.mark.parametrize(("data", "columns", "layers"), [(1, 1, ()), (2, 2, ("conv1", "fc6"))])
def test_values_and_places(folder: Path, data: int, columns: int, layers: tuple[str, ...]) -> None:
    """Catches: parameters of another layer, layers that were not asked for, and parameters that
    leave their places on the mesh, after which the training step compiles again."""
    config = tiny(folder / "three", init_from=str(folder / "base"), init_layers=layers)
    layout = {"model.num_classes": 3, "parallel.data": data, "parallel.columns": columns}
    config = with_changes(config, layout)
    mesh = sharding.make_mesh(config.parallel)
    shapes = registry.abstract_variables(config)["params"]
    initial = jax.tree.map(lambda leaf: np.full(leaf.shape, 7, leaf.dtype), shapes)
    boxed = jax.eval_shape(lambda: registry.init_boxed_variables(config))
    placed = jax.device_put(initial, sharding.shardings(boxed, mesh)["params"])
    step, variables = finetune.load_pretrained(config, {"params": placed}, mesh)
    got = variables["params"]
    assert step == 3
    old = load_trained(folder / "base").params
    for name, layer in got.items():
        expected = old if name in (layers or ("conv1", "conv2", "fc6")) else initial
        for kind, value in layer.items():
            np.testing.assert_array_equal(value, expected[name][kind])
            assert value.sharding == placed[name][kind].sharding


def wider(config: Config) -> None:
    for op in sequential_model(config).ops.values():
        if isinstance(op, Conv | Dense):
            op.features *= 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(init_from="nowhere"), "init_from=nowhere has no checkpoint of a run; expected"),
        (dict(init_from="n" * 300), r"cannot read the folder n+/checkpoints: File name too long"),
        (dict(init_layers=("conv1",)), r"init_layers=\('conv1',\) without init_from"),
        (dict(init_from="BASE", init_layers=("conv9",)), "init_layers names conv9; expected"),
        (dict(init_from="BASE", init_layers=("fc8",)), r"does not fit: fc8 \(kernel \(2, 4, 5\)"),
        (wider, r"does not fit: conv1 \(kernel .* there, .* here\); conv2 .*init_layers"),
    ],
)
def test_wrong_start(
    folder: Path, tmp_path: Path, change: dict[str, Any] | Callable[..., None], message: str
) -> None:
    """Catches: a start from nothing in silence, where a name or a shape is wrong; a traceback for
    a folder that the system refuses to open."""
    config = tiny(folder / "three", init_from=str(folder / "base"))
    if isinstance(change, dict):
        config = fields.replace(config, dict(init_from="") | change)
        config.init_from = config.init_from.replace("BASE", str(folder / "base"))
    else:
        change(config)
    with pytest.raises(InputError, match=message):
        train_here(config, tmp_path / "run")


def test_a_start_from_the_home_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: a folder named "~", which shells do not replace after an equals sign."""
    monkeypatch.setenv("HOME", str(folder))
    assert train_here(tiny(folder / "three", init_from="~/base"), tmp_path / "run") == 0


OPS_AFTER_CONV1 = "'relu1 (ReLU), norm1 (LRN), pool1 (MaxPool)' there, "


@pytest.mark.parametrize(
    ("changes", "printed"),
    [
        ({"learning_rate": 0.5, "batch_size": 4}, []),
        (
            {"data.crop": 25, "data.std": (2.0,)},
            ["data.std differs: [1.0] there, [2.0] here", "data.crop differs: 26 there, 25 here"],
        ),
        ({"data.mean": "channel"}, ["data.mean differs: 'image' there, 'channel' here"]),
        (
            {"model.ops.norm1.k": 1.0, "model.ops.drop6.rate": 0.1},
            ["model.ops.norm1.k differs: 2.0 there, 1.0 here"],  # fc6 is not taken
        ),
        (
            {"model.ops.drop6.rate": 0.1, "init_layers": ("fc6",)},
            ["model.ops.drop6.rate differs: 0.5 there, 0.1 here"],
        ),
        ({"model.ops.pool1.stride": 3}, ["model.ops.pool1.stride differs: 2 there, 3 here"]),
        (
            {"model.ops.relu1": Tanh()},
            [
                f"the ops after conv1 differs: {OPS_AFTER_CONV1}"
                "'relu1 (Tanh), norm1 (LRN), pool1 (MaxPool)' here"
            ],
        ),
        ({"model.ops.fc8.bias": 0.5, "model.ops.conv1.bias": 0.5, "model.ops.conv1.std": 1.0}, []),
    ],
)
def test_differences_are_printed(
    folder: Path,
    changes: dict[str, Any],
    printed: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Catches: parameters that are taken in silence where their inputs or the ops after them
    differ, and lines about what does not concern them; a model refused that may differ."""
    config = tiny(folder / "three", init_from=str(folder / "base"), init_layers=("conv1", "conv2"))
    finetune.check_init_from(with_changes(config, changes), folder / "none")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"init_from={folder / 'base'}: {line}." for line in printed]


def test_an_op_less_is_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches: a comparison of the ops that both models have, alone."""
    config = tiny(folder / "three", init_from=str(folder / "base"), init_layers=("conv1", "conv2"))
    del sequential_model(config).ops["norm1"]
    finetune.check_init_from(validated(config), folder / "none")
    here = "'relu1 (ReLU), pool1 (MaxPool)' here."
    assert f"the ops after conv1 differs: {OPS_AFTER_CONV1}{here}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.channel_order": "bgr"}, "data.channel_order differs: 'rgb' there, 'bgr' here"),
        (
            {"model.ops.conv1.stride": 2, "init_layers": ("conv1",)},
            r"model\.ops\.conv1\.stride differs: 3",
        ),
        # Twice the channels of conv1 give conv2 as many in its own column as in both before.
        (
            {"model.ops.conv2.groups": 2, "model.ops.conv1.features": 8},
            r"model\.ops\.conv2\.groups differs: 1 there, 2 here",
        ),
        ({"model.num_columns": 1}, r"does not fit: conv2 \(kernel \(2, 2, 2, 4, 2\) there, \(2,"),
    ],
)
def test_what_makes_parameters_meaningless(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    """Catches: kernels applied to other channels, columns or places than they were trained for, or
    shapes that are found not to fit after the images have been prepared."""
    config = tiny(folder / "three", init_from=str(folder / "base"), init_layers=("conv2",))
    with pytest.raises(InputError, match=message):
        finetune.check_init_from(with_changes(config, changes), folder / "none")


def test_a_damaged_config_of_the_other_run(folder: Path, tmp_path: Path) -> None:
    """Catches: a damaged config of the other run that is blamed on --workdir."""
    source = shutil.copytree(folder / "base", tmp_path / "base")
    config = validated(tiny(folder / "three", init_from=str(source)))
    recorded = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"is not the config of a run; give another --config\.ini"):
        finetune.check_init_from(config, tmp_path / "none")
    del recorded["model"]["ops"]["conv1"]["kernel"]
    (source / "config.json").write_text(json.dumps(recorded))
    message = f"{source}/config.json cannot be used: model.ops.conv1 lacks the fields kernel"
    with pytest.raises(InputError, match=message):
        finetune.check_init_from(config, tmp_path / "none")


def test_a_config_like_that_of_a_run(folder: Path) -> None:
    """Catches: a field that comes back as another type, on which flags fail, or another value; and
    classes that stay those of the other images."""
    made, found = tiny(folder / "five"), from_workdir.get_config(str(folder / "base"))
    assert (found.init_from, found.model.num_classes) == (str(folder / "base"), 0)
    found.init_from = ""
    assert found == made
    conv1 = sequential_model(found).ops["conv1"]
    assert isinstance(conv1, Conv)
    assert isinstance(conv1.padding, tuple)
    with pytest.raises(
        InputError, match=r"configs/from_workdir\.py: WORKDIR=nowhere has no config\.json"
    ):
        from_workdir.get_config("nowhere")


@pytest.mark.usefixtures("quick_to_compile")
def test_running_statistics_are_taken(tmp_path: Path) -> None:
    """Catches: layers taken without the statistics that normalize them, or the statistics of
    layers that are new; an average that begins with the initial parameters."""
    write_idx_set(tmp_path / "data", train=24, test=8)
    config = small_resnet(n=1)
    config.model.num_classes = 0
    config.data.name, config.data.dir = "idx", str(tmp_path / "data")
    config.data.image_size, config.data.crop, config.max_steps = 28, 16, 2
    config = with_changes(config, {})
    assert train_here(config, tmp_path / "base") == 0
    base = load_trained(tmp_path / "base")
    new = fields.replace(base.config, {"init_from": str(tmp_path / "base"), "max_steps": 1})
    new.optimizer.ema_decay, new.learning_rate = 0.5, 1e-9
    mesh = sharding.make_mesh(new.parallel)
    initial = jax.tree.map(lambda leaf: np.full(leaf.shape, 7, leaf.dtype), dict(base.variables))
    _, found = finetune.load_pretrained(new, jax.device_put(initial), mesh)
    for path, leaf in leaves_by_path(found).items():
        np.testing.assert_array_equal(leaf, leaves_by_path(base.variables)[path], err_msg=path)
    assert train_here(new, tmp_path / "new") == 0
    averaged = leaves_by_path(load_trained(tmp_path / "new").params)
    for path, leaf in leaves_by_path(base.params).items():
        np.testing.assert_allclose(averaged[path], leaf, atol=1e-6, err_msg=path)
