"""Images that are held out of the training images, class by class."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.image_sets import data_config, write_folder, write_idx_set

from alexnet_jax.data.sources import Example, Source, hold_out, open_source
from alexnet_jax.prepare import prepare


class Labeled(Source):
    """A source of which only the labels exist."""

    shape, channels, digest, stamp = None, 1, "", ""

    def __init__(self, *counts: int) -> None:
        """Make so many images of each class."""
        self.train_labels = np.random.default_rng(0).permutation(
            np.repeat(np.arange(len(counts)), counts)
        )
        self.counts = {"train": sum(counts)}
        self.class_names = tuple(map(str, range(len(counts))))

    def read(self, split: str, indices: np.ndarray) -> Iterator[Example]:
        """Fail, since images are selected without reading them."""
        raise NotImplementedError

    def count(self, **changes: Any) -> dict[str, list[int]]:
        """Return the number of images of each class in each split."""
        splits = hold_out(self, data_config("folder", **changes))
        assert self.train_labels is not None
        counts = {
            split: np.bincount(self.train_labels[index], minlength=1 + self.train_labels.max())
            for split, (_, index) in splits.items()
        }
        everything = np.concatenate([index for _, index in splits.values()])
        assert sorted(everything) == list(range(self.counts["train"]))
        return {split: count.tolist() for split, count in counts.items()}


@pytest.mark.parametrize(
    ("counts", "train", "validation", "test"),
    [
        ((30, 70), [24, 56], [3, 7], [3, 7]),
        ((1000, 5), [802, 3], [99, 1], [99, 1]),
        ((990, 5, 5), [794, 3, 3], [98, 1, 1], [98, 1, 1]),
        ((12, 8, 2), [10, 6, 2], [1, 1, 0], [1, 1, 0]),
        ((40, 1), [32, 1], [4, 0], [4, 0]),
    ],
)
def test_each_class_gives_its_share(
    counts: tuple[int, ...],
    train: list[int],
    validation: list[int],
    test: list[int],
) -> None:
    """Catches: a rare class that is missing from a split by chance, or held out as a whole."""
    changes = dict(validation_share=0.1, test_share=0.1)
    found = Labeled(*counts).count(**changes)
    assert found == {"train": train, "validation": validation, "test": test}
    assert sum(found["validation"]) == sum(found["test"]) == round(0.1 * sum(counts))


def test_more_classes_than_held_out_images() -> None:
    """Catches: half of a set of a few images per class held out to have one of each."""
    found = Labeled(*[4] * 50).count(validation_share=0.1, test_share=0.1)
    assert sum(found["validation"]) == sum(found["test"]) == 20
    assert max(found["validation"]) == max(found["test"]) == 1


def test_a_class_is_never_held_out_as_a_whole() -> None:
    """Catches: a class without training images, where others have enough."""
    found = Labeled(2, 2, 1, 1, 1, 1).count(validation_share=0.4, test_share=0.3)
    assert min(found["train"]) == 1


def test_the_seed_selects() -> None:
    """Catches: the first images of each class held out, whatever the seed."""
    source = Labeled(30, 70)
    splits = [hold_out(source, data_config("folder", split_seed=seed)) for seed in (0, 0, 1)]
    first, again, other = (split["validation"][1].tolist() for split in splits)
    assert first == again
    assert first != other


def test_the_sample_is_selected_as_before() -> None:
    """Catches: other validation images for the sample, whose documented errors depend on them."""
    data = data_config("sample")
    source = open_source(data)
    index = hold_out(source, data)["validation"][1]
    assert len(index) == 1000
    assert index[:8].tolist() == [0, 21, 38, 43, 54, 66, 69, 85]
    assert int(index.sum()) == 4976009


def test_idx_sets_are_selected_by_class(tmp_path: Path) -> None:
    """Catches: only folders selected by class."""
    write_idx_set(tmp_path, train=50, test=10)
    data = data_config("idx", tmp_path)
    source = open_source(data)
    index = hold_out(source, data)["validation"][1]
    assert source.train_labels is not None
    assert sorted(source.train_labels[index].tolist()) == [0, 1, 2, 3, 4]


def test_classes_without_images_of_a_split_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches: an error over classes that the split does not have, without a word."""
    write_folder(tmp_path / "train", {"a": 3, "b": 0, "c": 3}, side=8)
    write_folder(tmp_path / "val", {"a": 1, "b": 1}, side=8)
    write_folder(tmp_path / "test", {"a": 1, "b": 1, "c": 1}, side=8)
    prepare(data_config("folder", tmp_path, image_size=8), progress=False)
    assert capsys.readouterr().err.splitlines() == [
        "prepare: train: no images of 1 of the classes: b",
        "prepare: validation: no images of 1 of the classes: c",
    ]
