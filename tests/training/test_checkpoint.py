"""Checkpoints: what is restored is what was saved, or the damage is reported."""

import errno
import gc
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from alexnet_jax import checksums
from alexnet_jax.checkpoint import Checkpoints
from alexnet_jax.errors import InputError

Tree = dict[str, Any]
STEPS = (10, 20)
METADATA = {
    "config": {"seed": 3, "data": {"crop": 24, "mean": "image"}},
    "class_names": ["ant", "bee"],
}


def content(step: int) -> Tree:
    """What the tests save at a step: of every step other numbers, in every type of a state."""
    draw = np.random.default_rng(step).normal
    return dict(
        variables={
            "params": {
                "conv1": {"kernel": jnp.asarray(draw(size=(2, 3, 5)), jnp.float32)},
                "fc8": {"bias": jnp.asarray(draw(size=7), jnp.float32)},
            },
        },
        train_state={
            "step": jnp.int32(step),
            "opt_state": {"conv1": jnp.asarray(draw(size=(2, 3, 5)), jnp.float32)},
            "schedule_state": {"best": jnp.float32(jnp.inf)},
        },
        mean=draw(size=(6, 6, 1)).astype(np.float32),
        metadata={**METADATA, "step": step},
    )


def save(checkpoints: Checkpoints, step: int) -> None:
    tree = content(step)
    checkpoints.save(step, tree["variables"], tree["train_state"], tree["mean"], tree["metadata"])


def reader(checkpoints: Checkpoints, place: Any = None) -> Callable[[int], Tree]:
    """Reads all that a checkpoint holds, onto one device or to where `place` says."""
    place = place or jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def abstract(tree: Tree) -> Tree:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), tree)

    def read(step: int) -> Tree:
        expected = content(step)
        metadata = checkpoints.metadata(step)
        return dict(
            variables=checkpoints.variables(step, abstract(expected["variables"])),
            train_state=checkpoints.train_state(step, abstract(expected["train_state"])),
            mean=checkpoints.mean(step),
            metadata={name: metadata[name] for name in expected["metadata"]},
        )

    return read


def same(found: Tree, expected: Tree) -> bool:
    """Whether two contents agree to the last bit."""
    if found["metadata"] != expected["metadata"]:
        return False
    names = ("variables", "train_state", "mean")
    one, other = ({name: tree[name] for name in names} for tree in (found, expected))
    equal = jax.tree.map(
        lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(), one, other
    )
    return all(jax.tree.leaves(equal))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir with the checkpoints of STEPS."""
    workdir = tmp_path_factory.mktemp("saved")
    checkpoints = Checkpoints(workdir, keep=3)
    for step in STEPS:
        save(checkpoints, step)
    checkpoints.close()
    return workdir


@pytest.fixture
def failed_reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Orbax leaves coroutines behind when a read fails; their collection complains."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    yield
    gc.collect()


@pytest.fixture
def copy(saved: Path, tmp_path: Path, failed_reads: None) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(saved, tmp_path / "copy")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(content: bytes, place: int) -> bytes:
    """One bit changed: a digit or a letter becomes another one, so that text stays text."""
    changed = bytearray(content)
    changed[place] ^= 1
    return bytes(changed)


def newest(workdir: Path) -> tuple[int, Tree] | None:
    checkpoints = Checkpoints(workdir)
    try:
        return checkpoints.newest(reader(checkpoints))
    finally:
        checkpoints.close()


def test_the_newest_is_restored_bit_for_bit(saved: Path) -> None:
    """Catches: saving in another type, restoring the oldest, mixing the items up."""
    found = newest(saved)
    assert found is not None
    assert found[0] == STEPS[-1]
    assert same(found[1], content(STEPS[-1]))


def wrong_after(workdir: Path, file: Path, damaged: bytes | None, output: Callable[[], str]) -> str:
    """What is wrong with the answer to a damaged file of the newest checkpoint; "" if nothing.

    The file is restored afterwards; None for `damaged` removes it.
    """
    sound = file.read_bytes()
    file.unlink()
    if damaged is not None:
        file.write_bytes(damaged)
    output()
    found = newest(workdir)
    told = f"step_{STEPS[-1]} is damaged" in output()
    file.write_bytes(sound)
    assert found is not None
    step, tree = found
    if not same(tree, content(step)):
        return f"{file}: other values than were saved at step {step}"
    if step != STEPS[-1] and not told:
        return f"{file}: fell back to step {step} without a word"
    return ""


@pytest.mark.parametrize("kind", ["truncated", "flipped", "removed"])
def test_damage_to_any_file_is_harmless_or_reported(
    copy: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    """Catches: no checksums; checksums of some items only; an exception let through; silence."""
    folder = copy / "checkpoints" / f"step_{STEPS[-1]}"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert len(files) > 10
    wrong = []
    for file in files:
        sound = file.read_bytes()
        flipped = flip(sound, int(np.random.default_rng(len(sound)).integers(len(sound))))
        damaged = {"truncated": sound[: len(sound) // 2], "flipped": flipped, "removed": None}
        wrong.append(wrong_after(copy, file, damaged[kind], lambda: capfd.readouterr().err))
    assert not any(wrong), "\n".join(filter(None, wrong))


def test_a_changed_letter_of_config_or_names_is_reported(
    copy: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Catches: checksums of the arrays alone, without the JSON object beside them."""
    file = copy / "checkpoints" / f"step_{STEPS[-1]}" / "metadata" / "metadata"
    sound = file.read_bytes()
    places = (sound.index(part) for part in (b"3", b"24", b"image", b"ant", b"20", b"opt_state"))
    wrong = [
        wrong_after(copy, file, flip(sound, place), lambda: capfd.readouterr().err)
        for place in places
    ]
    assert not any(wrong), "\n".join(filter(None, wrong))


@pytest.mark.parametrize("item", ["variables", "train_state", "mean"])
def test_sound_files_of_another_step_are_damage(
    copy: Path, capfd: pytest.CaptureFixture[str], item: str
) -> None:
    """Catches: files that can be read taken for the right ones; checksums that skip an item."""
    old, new = (copy / "checkpoints" / f"step_{step}" / item for step in STEPS)
    shutil.rmtree(new)
    shutil.copytree(old, new)
    found = newest(copy)
    assert found is not None
    assert found[0] == STEPS[0]
    assert f"step_{STEPS[1]} is damaged" in capfd.readouterr().err


def test_all_damaged_is_an_input_error(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Catches: starting anew over checkpoints that cannot be read; naming only one of them."""
    for step in STEPS:
        for path in (copy / "checkpoints" / f"step_{step}" / "variables").rglob("*"):
            if path.is_file():
                truncate(path)
    with pytest.raises(InputError, match="move that folder away"):
        newest(copy)
    output = capfd.readouterr().err
    assert [f"step_{step} is damaged" in output for step in STEPS] == [True, True]


def test_none_is_not_damage(tmp_path: Path) -> None:
    """Catches: a fresh run refused; reading that makes folders."""
    assert newest(tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_damaged_ones_are_set_aside_and_their_steps_saved_anew(copy: Path) -> None:
    """Catches: a save that is skipped because its step is there; a second damage overwriting."""
    for expected in (["damaged_step_20"], ["damaged_step_20", "damaged_step_20.1"]):
        truncate(next((copy / "checkpoints" / "step_20" / "variables" / "d").iterdir()))
        checkpoints = Checkpoints(copy, keep=3)
        found = checkpoints.newest(reader(checkpoints))
        assert found is not None
        assert found[0] == 10
        checkpoints.set_aside_after(10)
        assert checkpoints.steps() == [10]
        save(checkpoints, 20)
        checkpoints.close()
        aside = sorted(path.name for path in (copy / "checkpoints").glob("damaged*"))
        assert aside == expected
        found = newest(copy)
        assert found is not None
        assert found[0] == 20
        assert same(found[1], content(20))


@pytest.mark.parametrize("kind", [TypeError, ValueError, KeyError, OSError])
def test_a_bug_of_the_caller_is_not_damage(
    copy: Path, capfd: pytest.CaptureFixture[str], kind: type[Exception]
) -> None:
    """Catches: an exception of the caller's own taken for damage, so that a sound checkpoint is
    passed over and renamed."""
    before = sorted(path.name for path in (copy / "checkpoints").iterdir())
    checkpoints = Checkpoints(copy, keep=3)
    raised = kind("a bug")

    def read(step: int) -> None:
        checkpoints.metadata(step)
        raise raised

    with pytest.raises(kind) as caught:
        checkpoints.newest(read)
    checkpoints.close()
    assert caught.value is raised
    assert sorted(path.name for path in (copy / "checkpoints").iterdir()) == before
    assert "damaged" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("raised", "expected", "message"),
    [
        (MemoryError("too little"), MemoryError, "too little"),
        (PermissionError(13, "Permission denied"), InputError, "step_20 cannot be read .*denied"),
        (ValueError("PERMISSION_DENIED: x"), InputError, "step_20 cannot be read .*DENIED"),
    ],
    ids=["memory", "system", "TensorStore"],
)
def test_a_machine_that_fails_is_not_damage(
    copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    raised: Exception,
    expected: type[Exception],
    message: str,
) -> None:
    """Catches: sound files passed over because of too little memory or of missing rights; a
    traceback where the user has to change the rights."""

    def fail(*_: object, **__: object) -> None:
        raise raised

    checkpoints = Checkpoints(copy)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints._reader, "restore", fail)
        with pytest.raises(expected, match=message):
            checkpoints.newest(reader(checkpoints))
    checkpoints.close()


def with_version(content: Tree, version: int | None) -> Tree:
    changed = {name: value for name, value in content.items() if name != "format_version"}
    return changed if version is None else {**changed, "format_version": version}


@pytest.mark.parametrize(
    ("version", "which"), [(None, "an earlier"), (1, "an earlier"), (3, "a later")]
)
@pytest.mark.parametrize("item", ["variables", "train_state", "mean", "metadata"])
def test_another_version_is_refused(
    copy: Path, capfd: pytest.CaptureFixture[str], version: int | None, which: str, item: str
) -> None:
    """Catches: a checkpoint of another version that is read, called damaged, or passed over; an
    item that can be read without looking at the version."""
    file = copy / "checkpoints" / f"step_{STEPS[-1]}" / "metadata" / "metadata"
    changed = with_version(json.loads(file.read_text())["content"], version)
    file.write_text(json.dumps({"content": changed, "crc32": checksums.compute_crc32(changed)}))
    checkpoints = Checkpoints(copy)
    templates = {"variables": (None,), "train_state": (None,)}
    with pytest.raises(InputError, match=f"step_20 was made by {which} version .*cannot read"):
        checkpoints.newest(lambda step: getattr(checkpoints, item)(step, *templates.get(item, ())))
    checkpoints.close()
    assert "damaged" not in capfd.readouterr().err


def test_the_layout_of_version_1_is_refused(copy: Path) -> None:
    """Catches: a checkpoint whose items have the names of version 1 called damaged."""
    folder = copy / "checkpoints" / f"step_{STEPS[-1]}"
    for now, before in (("metadata", "about"), ("train_state", "rest"), ("variables", "params")):
        (folder / now).rename(folder / before)
    with pytest.raises(InputError, match="step_20 was made by an earlier version of alexnet_jax"):
        newest(copy)


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
def test_another_template_is_not_damage(saved: Path, template: Tree, message: str) -> None:
    """Catches: sound files called damaged, and so renamed, because the config needs others."""
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place),
        {"params": template},
        is_leaf=lambda node: isinstance(node, tuple),
    )
    checkpoints = Checkpoints(saved)
    with pytest.raises(InputError, match=message):
        checkpoints.newest(lambda step: checkpoints.variables(step, wanted))
    checkpoints.close()


@pytest.fixture
def mesh() -> jax.sharding.Mesh:
    axis_types = (AxisType.Auto,) * 2
    return jax.make_mesh((2, 2), ("data", "column"), axis_types=axis_types)


def test_another_mesh_restores_the_same_values(saved: Path, mesh: jax.sharding.Mesh) -> None:
    """Catches: checksums that depend on the layout; restoring to the layout that saved."""
    checkpoints = Checkpoints(saved)
    place = NamedSharding(mesh, P())
    tree = reader(checkpoints, place)(STEPS[-1])
    split = jax.ShapeDtypeStruct((2, 3, 5), jnp.float32, sharding=NamedSharding(mesh, P("column")))
    bias = tree["variables"]["params"]["fc8"]["bias"]
    template = {"params": {"conv1": {"kernel": split}, "fc8": {"bias": bias}}}
    variables = checkpoints.variables(STEPS[-1], template)
    checkpoints.close()
    assert same(tree, content(STEPS[-1]))
    assert same({**tree, "variables": variables}, content(STEPS[-1]))
    assert variables["params"]["conv1"]["kernel"].sharding.spec == P("column")
    assert tree["train_state"]["step"].sharding == place


def test_keep_limits_how_many_stay(tmp_path: Path) -> None:
    """Catches: max_to_keep not passed on; the oldest kept instead of the newest."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        save(checkpoints, step)
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps() == [2, 3]
    checkpoints.close()


@pytest.mark.parametrize(
    "raised",
    [
        ValueError("RESOURCE_EXHAUSTED: Failed writing: No space left on device"),
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
