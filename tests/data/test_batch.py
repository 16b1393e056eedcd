"""The arrays of a batch, and which examples a training step takes."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from helpers.image_sets import data_config, smooth_pixels, write_folder, write_idx_set
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet_jax import fields
from alexnet_jax.config import Config
from alexnet_jax.data.batch import consecutive_examples, training_batch_spec
from alexnet_jax.data.pipeline import train_batches
from alexnet_jax.models.sequential_config import SequentialConfig
from alexnet_jax.prepare import prepare


@settings(deadline=None)
@given(
    batch_size=st.integers(1, 1000),
    num_images=st.integers(1, 2_000_000),
    step=st.integers(0, 10**12),
    data=st.data(),
)
def test_consecutive_examples(
    batch_size: int, num_images: int, step: int, data: st.DataObject
) -> None:
    """Catches epochs that begin with a batch, examples numbered within the rows of a process, and
    numbers of 32 bits. The formula of the docstring, in Python's integers."""
    rows = sorted(data.draw(st.sets(st.integers(0, batch_size - 1), min_size=1, max_size=20)))
    examples = consecutive_examples(batch_size, num_images)(step, np.array(rows))
    numbers = [step * batch_size + i for i in rows]
    assert examples.number.tolist() == numbers
    assert examples.epoch.tolist() == [g // num_images for g in numbers]
    assert examples.position.tolist() == [g % num_images for g in numbers]
    assert examples.mask is None
    kinds = {a.dtype for a in (examples.number, examples.epoch, examples.position)}
    assert kinds == {np.dtype(np.int64)}


@settings(deadline=None)
@given(batch_size=st.integers(1, 20), num_images=st.integers(1, 50))
def test_every_image_comes_once_an_epoch(batch_size: int, num_images: int) -> None:
    """Catches an image left out, or taken twice, where a batch straddles two epochs."""
    of_step = consecutive_examples(batch_size, num_images)
    steps = [of_step(step, np.arange(batch_size)) for step in range(3 * num_images)]
    places = [(e, p) for x in steps for e, p in zip(x.epoch, x.position, strict=True)]
    expected = [(g // num_images, g % num_images) for g in range(3 * num_images * batch_size)]
    assert places == expected
    assert {p for e, p in places if e == 0} == set(range(num_images))


def write_photos(folder: Path) -> None:
    for index in range(8):
        path = folder / f"class{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(smooth_pixels(80, 100, seed=index)).save(path)


@pytest.mark.parametrize("lighting", ["none", "paper", "source2012"])
@pytest.mark.parametrize(
    ("kind", "channels", "encoding"),
    [("gray", 1, "raw"), ("gray", 3, "raw"), ("color", 3, "raw"), ("photos", 3, "jpeg")],
)
def test_spec_of_a_training_batch(
    tmp_path: Path, kind: str, channels: int, encoding: str, lighting: str
) -> None:
    """Catches an array that the pipeline yields in another shape or type than the compiled step
    is told, and one that only one of the two has."""
    if kind == "gray":
        write_idx_set(tmp_path / "data", train=10, test=2)
        changes: dict[str, Any] = dict(name="idx", image_size=28, crop=24)
    elif kind == "color":
        write_folder(tmp_path / "data", {"a": 8, "b": 8})
        changes = dict(name="folder", image_size=32, crop=20)
    else:
        write_photos(tmp_path / "data")
        changes = dict(name="folder", image_size=80, crop=64)
    changes |= dict(pack_dir=str(tmp_path / "pack"), lighting=lighting)
    data = fields.replace(data_config("", tmp_path / "data"), changes)
    pack = prepare(data, progress=False)
    assert pack.encoding == encoding
    config = Config(batch_size=3, data=data, model=SequentialConfig(channels=channels))
    examples = consecutive_examples(3, pack.splits["train"].count)
    yielded = list(train_batches(pack, config, examples, first_step=0, last_step=2))
    assert len(yielded) == 2
    spec = training_batch_spec(config)
    for batch in yielded:
        assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(batch))
        found, expected = (
            {
                name: (leaf.shape, np.dtype(leaf.dtype))
                for name, leaf in vars(tree).items()
                if leaf is not None
            }
            for tree in (batch, spec)
        )
        assert found == expected
