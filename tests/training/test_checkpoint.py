"""Checkpoints: what is saved and restored, and those that are refused."""

import errno
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.saved_checkpoints import (
    STEPS,
    Tree,
    is_same,
    make_content,
    make_reader,
    read_newest,
    save_content,
)
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax import checksums
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.errors import InputError


def test_the_newest_is_restored_bit_for_bit(saved_workdir: Path) -> None:
    """Catches: saving in another type, restoring the oldest, mixing the items up."""
    found = read_newest(saved_workdir)
    assert found is not None
    assert found[0] == STEPS[-1]
    assert is_same(found[1], make_content(STEPS[-1]))


def test_none_is_not_damage(tmp_path: Path) -> None:
    """Catches: a fresh run refused; reading that makes folders."""
    assert read_newest(tmp_path) is None
    assert not list(tmp_path.iterdir())


def with_version(content: Tree, version: int | None) -> Tree:
    changed = {name: value for name, value in content.items() if name != "format_version"}
    return changed if version is None else {**changed, "format_version": version}


@pytest.mark.parametrize(
    ("version", "which"), [(None, "an earlier"), (1, "an earlier"), (3, "a later")]
)
@pytest.mark.parametrize("item", ["variables", "train_state", "mean", "metadata"])
def test_another_version_is_refused(
    workdir_copy: Path,
    capfd: pytest.CaptureFixture[str],
    version: int | None,
    which: str,
    item: str,
) -> None:
    """Catches: a checkpoint of another version that is read, called damaged, or passed over; an
    item that can be read without looking at the version."""
    file = workdir_copy / "checkpoints" / f"step_{STEPS[-1]}" / "metadata" / "metadata"
    changed = with_version(json.loads(file.read_text())["content"], version)
    file.write_text(json.dumps({"content": changed, "crc32": checksums.compute_crc32(changed)}))
    checkpoints = Checkpoints(workdir_copy)
    templates = {"variables": (None,), "train_state": (None,)}
    with pytest.raises(InputError, match=f"step_20 was made by {which} version .*cannot read"):
        checkpoints.newest(lambda step: getattr(checkpoints, item)(step, *templates.get(item, ())))
    checkpoints.close()
    assert "damaged" not in capfd.readouterr().err


def test_the_layout_of_version_1_is_refused(workdir_copy: Path) -> None:
    """Catches: a checkpoint whose items have the names of version 1 called damaged."""
    folder = workdir_copy / "checkpoints" / f"step_{STEPS[-1]}"
    for now, before in (("metadata", "about"), ("train_state", "rest"), ("variables", "params")):
        (folder / now).rename(folder / before)
    with pytest.raises(InputError, match="step_20 was made by an earlier version of alexnet_jax"):
        read_newest(workdir_copy)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ({"conv1": {"kernel": (2, 3, 4)}, "fc8": {"bias": (7,)}}, r"has \[2, 3, 5\] for .*kernel"),
        ({"conv1": {"kernel": (2, 3, 5)}}, r"has \[7\] for .*bias.* needs nothing"),
        (
            {"conv1": {"kernel": (2, 3, 5), "bias": (5,)}, "fc8": {"bias": (7,)}},
            r"has nothing for .*bias.* needs \[5\]",
        ),
    ],
    ids=["shape", "missing", "more"],
)
def test_another_template_is_not_damage(saved_workdir: Path, template: Tree, message: str) -> None:
    """Catches: sound files called damaged, and so renamed, because the config needs others."""
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place),
        {"params": template},
        is_leaf=lambda node: isinstance(node, tuple),
    )
    checkpoints = Checkpoints(saved_workdir)
    with pytest.raises(InputError, match=message):
        checkpoints.newest(lambda step: checkpoints.variables(step, wanted))
    checkpoints.close()


@pytest.fixture
def mesh() -> jax.sharding.Mesh:
    axis_types = (AxisType.Auto,) * 2
    return jax.make_mesh((2, 2), ("data", "column"), axis_types=axis_types)


def test_another_mesh_restores_the_same_values(
    saved_workdir: Path, mesh: jax.sharding.Mesh
) -> None:
    """Catches: checksums that depend on the layout; restoring to the layout that saved."""
    checkpoints = Checkpoints(saved_workdir)
    place = NamedSharding(mesh, P())
    tree = make_reader(checkpoints, place)(STEPS[-1])
    split = jax.ShapeDtypeStruct((2, 3, 5), jnp.float32, sharding=NamedSharding(mesh, P("column")))
    bias = tree["variables"]["params"]["fc8"]["bias"]
    template = {"params": {"conv1": {"kernel": split}, "fc8": {"bias": bias}}}
    variables = checkpoints.variables(STEPS[-1], template)
    checkpoints.close()
    assert is_same(tree, make_content(STEPS[-1]))
    assert is_same({**tree, "variables": variables}, make_content(STEPS[-1]))
    assert variables["params"]["conv1"]["kernel"].sharding.spec == P("column")
    assert tree["train_state"]["step"].sharding == place


def test_keep_limits_how_many_stay(tmp_path: Path) -> None:
    """Catches: max_to_keep not passed on; the oldest kept instead of the newest."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        save_content(checkpoints, step)
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps() == [2, 3]
    checkpoints.close()


@pytest.mark.parametrize(
    "raised",
    [
        ValueError("RESOURCE_EXHAUSTED: No space left on device [os_error_code='28']"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
    ids=["TensorStore", "system"],
)
def test_a_full_disk_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    """Catches a traceback where the user has to make room; other errors keep theirs."""

    def fail(*_: object, **__: object) -> None:
        raise raised

    checkpoints = Checkpoints(tmp_path, 1)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints._manager, "wait_until_finished", fail)
        with pytest.raises(InputError, match=r"the disk is full: .*checkpoints; .* are kept"):
            checkpoints.close()
        raised = ValueError("something else")
        with pytest.raises(ValueError, match="something else"):
            checkpoints.close()
    checkpoints.close()


@pytest.mark.parametrize("shape", [(), (7,), (2, 5), (3, 4, 5), (2, 3, 3, 4, 6), (2, 256, 3)])
def test_sums_go_by_the_place_in_memory(shape: tuple[int, ...]) -> None:
    """Catches rows or columns of an array that are counted twice, left out or interchanged, and
    sums that are not those of the checkpoints that users have."""
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    words = array.reshape(-1).view(np.uint32)
    expected = np.sum(words * (2 * np.arange(words.size, dtype=np.uint32) + 1), dtype=np.uint32)
    assert checksums.compute_checksums({"a": jnp.asarray(array)}) == {"['a']": expected}


@pytest.mark.parametrize("columns", [1, 2])
def test_sums_copy_nothing(columns: int) -> None:
    """Catches sums that hold every array a second time, as words or as their products, or that
    bring the columns together on every device."""
    mesh = jax.make_mesh((columns,), ("column",), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, P("column"))
    array = jax.ShapeDtypeStruct((2, 4608, 256), jnp.float32, sharding=split)
    compiled = checksums._sums.lower([array]).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 4 * array.size / columns / 25
    assert "all-gather" not in (compiled.as_text() or "all-gather")
