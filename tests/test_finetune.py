"""Starting from another run's parameters, with real runs of the tiny net."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import processes
import pytest
from data_fixtures import write_idx, write_idx_set
from ml_collections import ConfigDict

from alexnet_jax import finetune, network, parallel, train
from alexnet_jax.errors import InputError
from alexnet_jax.evaluate import load_net
from alexnet_jax.prepare import prepare
from alexnet_jax.workdir import check_config, claim
from configs import like


def tiny(data: Path, **fields: Any) -> ConfigDict:
    """The tiny net's config, for the images in a folder."""
    space: dict[str, Any] = {}
    exec(processes.write_config(data, data).read_text(), space)
    config: ConfigDict = space["get_config"]()
    config.update(dict(max_steps=3, checkpoint_every=3) | fields)
    return config


def run(config: ConfigDict, workdir: Path) -> int:
    """Train in this process, by the calls that main makes."""
    train.check(config)
    with claim(workdir):
        check_config(workdir, config)
        finetune.check(config, workdir)
        pack = prepare(config.data, progress=False)
        return train.train(train.complete(config, pack), pack, workdir)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, a run on images of five classes, and `three`, images of three."""
    path = tmp_path_factory.mktemp("finetune")
    write_idx_set(path / "five", train=60, test=20)
    assert run(tiny(path / "five"), path / "base") == 0
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
    config.schedule.multipliers = (("conv1", 1, 0.0), ("fc8", 1, 10.0))
    assert run(config, tmp_path / "run") == 0
    said = capsys.readouterr().err
    assert "step 3: took conv1, conv2, fc6; initialised anew: fc8 (kernel (2, 4, 5) there, " in said
    old, new = load_net(source).params, load_net(tmp_path / "run").params
    np.testing.assert_array_equal(new["conv1"]["kernel"], old["conv1"]["kernel"])
    np.testing.assert_array_equal(new["conv1"]["bias"], old["conv1"]["bias"])
    assert np.any(new["fc6"]["kernel"] != old["fc6"]["kernel"])
    assert new["fc8"]["kernel"].shape == (2, 4, 3)

    assert json.loads((tmp_path / "run" / "config.json").read_text())["init_step"] == 3

    shutil.rmtree(source)  # its own checkpoint is enough now
    config.max_steps = 5
    assert run(config, tmp_path / "run") == 0
    said = capsys.readouterr().err
    assert "Continuing" in said
    assert json.loads((tmp_path / "run" / "config.json").read_text())["init_step"] == 3
    assert "took" not in said
    config.init_from = ""
    with pytest.raises(InputError, match=r"another config: init_from was '.*base', is ''"):
        run(config, tmp_path / "run")


@pytest.mark.parametrize(("data", "columns", "layers"), [(1, 1, ()), (2, 2, ("conv1", "fc6"))])
def test_values_and_places(folder: Path, data: int, columns: int, layers: tuple[str, ...]) -> None:
    """Catches: parameters of another layer, layers that were not asked for, and parameters that
    leave their places on the mesh, after which the training step compiles again."""
    config = tiny(folder / "three", init_from=str(folder / "base"), init_layers=layers)
    config.model.classes = 3
    config.parallel.update(data=data, columns=columns)
    mesh = parallel.make_mesh(config)
    shapes = network.abstract_params(config)
    initial = jax.tree.map(lambda leaf: np.full(leaf.shape, 7, leaf.dtype), shapes)
    placed = jax.device_put(initial, parallel.shardings(initial, mesh))
    step, got = finetune.take_over(config, placed, mesh)
    assert step == 3
    old = load_net(folder / "base").params
    for name, layer in got.items():
        expected = old if name in (layers or ("conv1", "conv2", "fc6")) else initial
        for kind, value in layer.items():
            np.testing.assert_array_equal(value, expected[name][kind])
            assert value.sharding == placed[name][kind].sharding


def wider(config: ConfigDict) -> None:
    for layer in config.model.layers.values():
        layer.features *= 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(init_from="nowhere"), "init_from=nowhere has no checkpoint of a run; expected"),
        (dict(init_layers=("conv1",)), r"init_layers=\('conv1',\) without init_from"),
        (dict(init_from="BASE", init_layers=("conv9",)), "init_layers names conv9; expected"),
        (dict(init_from="BASE", init_layers=("fc8",)), r"does not fit: fc8 \(kernel \(2, 4, 5\)"),
        (wider, r"does not fit: conv1 \(kernel .* there, .* here\); conv2 .*init_layers"),
    ],
)
def test_wrong_start(
    folder: Path, tmp_path: Path, change: dict[str, Any] | Callable[..., None], message: str
) -> None:
    """Catches: a start from nothing in silence, where a name or a shape is wrong."""
    config = tiny(folder / "three", init_from=str(folder / "base"))
    if isinstance(change, dict):
        config.update(dict(init_from="") | change)
        config.init_from = config.init_from.replace("BASE", str(folder / "base"))
    else:
        change(config)
    with pytest.raises(InputError, match=message):
        run(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dict(learning_rate=0.5, batch_size=4), []),
        ({"data.crop": 25, "data.std": (2.0,)}, ["data.crop", "data.std"]),
        ({"data.mean": "channel"}, ["data.mean"]),
        ({"model.lrn.k": 1.0, "model.dropout": 0.1}, ["model.dropout", "model.lrn.k"]),
        ({"model.map_norm.k": 3.0}, []),  # no layer has this step
        ({"model.layers.conv1.after": ("relu", "pool")}, ["model.layers.conv1.after"]),
        ({"model.layers.fc8.bias": 0.5}, []),
    ],
)
def test_what_differs_is_said(
    folder: Path, change: dict[str, Any], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches: parameters that are taken in silence where their inputs or their steps differ, and
    lines about what does not concern them."""
    config = tiny(folder / "three", init_from=str(folder / "base"), init_layers=("conv1", "conv2"))
    config.update_from_flattened_dict(change)
    finetune.check(config, folder / "none")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == said
    assert all(" there, " in line and line.endswith(" here.") for line in lines)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data.channel_order": "bgr"}, "data.channel_order differs: 'rgb' there, 'bgr' here"),
        ({"model.layers.conv1.stride": 2, "init_layers": ("conv1",)}, r"conv1\.stride differs: 3"),
        # twice the maps in conv1 give conv2 as many to see in its own column as in both before
        (
            {"model.layers.conv2.sees": "own", "model.layers.conv1.features": 8},
            r"conv2\.sees differs: 'both' there, 'own' here",
        ),
        ({"model.columns": 1}, r"does not fit: conv2 \(kernel \(2, 2, 2, 4, 2\) there, \(1,"),
    ],
)
def test_what_makes_parameters_meaningless(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    """Catches: kernels laid on other channels, columns or places than they were trained for, or
    shapes that are found not to fit after the images have been prepared."""
    config = tiny(folder / "three", init_from=str(folder / "base"), init_layers=("conv2",))
    config.update_from_flattened_dict(change)
    with pytest.raises(InputError, match=message):
        finetune.check(config, folder / "none")


def test_what_the_other_run_does_not_say(folder: Path, tmp_path: Path) -> None:
    """Catches: a damaged config of the other run that is blamed on --workdir."""
    source = shutil.copytree(folder / "base", tmp_path / "base")
    config = tiny(folder / "three", init_from=str(source))
    (source / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"is not the config of a run; give another --config\.ini"):
        finetune.check(config, tmp_path / "none")
    (source / "config.json").write_text('{"changes": [], "model": {"layers": {}, "classes": 3}}')
    with pytest.raises(InputError, match=f"init_from={source}: its config.json cannot be used"):
        finetune.check(config, tmp_path / "none")


def test_a_config_like_that_of_a_run(folder: Path) -> None:
    """Catches: a field that comes back as another type, on which flags fail, or another value; and
    classes that stay those of the other images."""
    made, found = tiny(folder / "five"), like.get_config(str(folder / "base"))
    assert (found.init_from, found.model.classes) == (str(folder / "base"), 0)
    found.init_from = ""
    assert found == made
    assert isinstance(found.model.layers.conv1.padding, tuple)
    with pytest.raises(InputError, match=r"configs/like\.py: WORKDIR=nowhere has no config\.json"):
        like.get_config("nowhere")
