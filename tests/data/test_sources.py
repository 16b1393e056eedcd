"""Sources: folders, held-out images, names of classes, and the errors they report."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from helpers.image_sets import (
    data_config,
    read_all,
    write_folder,
    write_idx_set,
)

from alexnet_jax.config import validated
from alexnet_jax.data.names import readable_name
from alexnet_jax.data.sources import hold_out, open_source
from alexnet_jax.errors import InputError
from configs.alexnet import get_config

# Folders


def test_folder_classes_are_sorted_as_text(tmp_path):
    """Mutation: classes sorted as numbers or left in the file system's order."""
    write_folder(tmp_path, {"2": 1, "10": 2, "1": 3})
    source = open_source(data_config("folder", tmp_path))
    assert source.class_names == ("1", "10", "2")
    examples = read_all(source, "train")
    assert [(e.label, e.name) for e in examples] == [
        (0, "1/0.png"),
        (0, "1/1.png"),
        (0, "1/2.png"),
        (1, "10/0.png"),
        (1, "10/1.png"),
        (2, "2/0.png"),
    ]
    assert all(e.image == tmp_path / e.name for e in examples)


def test_folder_with_splits_keeps_the_training_labels(tmp_path):
    """Mutation: labels numbered in each split by itself; an empty class folder dropped."""
    write_folder(tmp_path / "train", {"a": 1, "b": 0, "c": 2})
    write_folder(tmp_path / "validation", {"b": 1, "c": 1})
    write_folder(tmp_path / "test", {"a": 0, "c": 1})
    source = open_source(data_config("folder", tmp_path))
    assert source.class_names == ("a", "b", "c")
    assert source.counts == {"train": 3, "validation": 2, "test": 1}
    assert [e.label for e in read_all(source, "validation")] == [1, 2]
    assert [e.label for e in read_all(source, "test")] == [2]
    splits = hold_out(source, data_config("folder", tmp_path))
    assert {name: len(indices) for name, (_, indices) in splits.items()} == source.counts


def test_folder_takes_nested_and_ignores_hidden_and_stray_files(tmp_path):
    """Mutation: .DS_Store counted as an image; images below a class folder missed."""
    write_folder(tmp_path, {"a": 1, "a/more": 1, "b": 1, ".git": 1})
    (tmp_path / "a" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "labels.txt").write_text("a\nb\n")
    source = open_source(data_config("folder", tmp_path))
    assert source.class_names == ("a", "b")
    names = [e.name for e in read_all(source, "train")]
    assert names == ["a/0.png", "a/more/0.png", "b/0.png"]


def test_a_class_may_be_called_train(tmp_path):
    """Mutation: any folder called train taken for a split."""
    write_folder(tmp_path, {"car": 1, "train": 1})
    assert open_source(data_config("folder", tmp_path)).class_names == ("car", "train")


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({"train/a": 1, "train/c": 1, "validation/b": 1}, r"validation has the class folders b"),
        ({"train/a": 1, "train/b": 1, "more/a": 1}, r"also more; rename"),
        (
            {"train/a": 1, "train/b": 1, "validation/a": 0},
            r"validation has class folders without any file",
        ),
        ({"a": 0}, r"without any file"),
        ({}, r"no class folders"),
    ],
)
def test_folder_mistakes(tmp_path, folders, message):
    """Mutation: an unknown class numbered on, or val/ silently unused."""
    write_folder(tmp_path, folders)
    with pytest.raises(InputError, match=message):
        open_source(data_config("folder", tmp_path))


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("folder", "images are$"),
        ("idx", "images are$"),
        ("cifar10_binary", r"images are: cifar-10-batches-bin, unpacked from .* of https://"),
    ],
)
@pytest.mark.parametrize("directory", ["", "/nowhere/at/all"])
def test_missing_directory(name, end, directory):
    """Catches: the current folder read for an empty dir; a traceback for a missing one; no word on
    where CIFAR-10 is to be had."""
    problem = rf"={directory} is not a folder" if directory else " is missing"
    with pytest.raises(InputError, match=rf"^--config\.data\.dir{problem}; .*{end}"):
        open_source(data_config(name, directory))


def test_digest_follows_the_listing(tmp_path):
    """Mutation: a digest that does not see a file replaced between interruption and resuming."""
    write_folder(tmp_path, {"a": 2, "b": 2})
    digests = {open_source(data_config("folder", tmp_path)).digest for _ in range(2)}
    (tmp_path / "a" / "0.png").write_bytes(b"other")
    digests.add(open_source(data_config("folder", tmp_path)).digest)
    (tmp_path / "a" / "0.png").unlink()
    digests.add(open_source(data_config("folder", tmp_path)).digest)
    assert len(digests) == 3


# Holding out


def test_hold_out_is_a_partition_by_seed(tmp_path):
    """Mutation: overlapping splits, a test split where only validation is missing, no seed."""
    write_folder(tmp_path, {"a": 30, "b": 70}, side=2)
    source = open_source(data_config("folder", tmp_path))
    shares = dict(validation_share=0.2, test_share=0.1)
    splits = hold_out(source, data_config("folder", tmp_path, **shares))
    assert [(n, s, len(i)) for n, (s, i) in splits.items()] == [
        ("train", "train", 70),
        ("validation", "train", 20),
        ("test", "train", 10),
    ]
    everything = np.concatenate([indices for _, indices in splits.values()])
    assert sorted(everything) == list(range(100))
    assert all((np.diff(indices) > 0).all() for _, indices in splits.values())
    other = hold_out(source, data_config("folder", tmp_path, split_seed=1, **shares))
    assert (other["validation"][1] != splits["validation"][1]).any()
    # Not the end of the list: that would be one class.
    assert (splits["validation"][1] < 30).any()


def test_hold_out_where_a_test_split_exists(tmp_path):
    """Mutation: test images held out of the training split although the source has some."""
    write_idx_set(tmp_path, train=50, test=10)
    source = open_source(data_config("idx", tmp_path))
    splits = hold_out(source, data_config("idx", tmp_path))
    assert {n: (s, len(i)) for n, (s, i) in splits.items()} == {
        "train": ("train", 45),
        "validation": ("train", 5),
        "test": ("test", 10),
    }
    none = hold_out(source, data_config("idx", tmp_path, validation_share=0.0))
    assert "validation" not in none
    with pytest.raises(InputError, match="none left"):
        hold_out(source, data_config("idx", tmp_path, validation_share=0.999))


@pytest.mark.parametrize("field", ["validation_share", "test_share"])
@pytest.mark.parametrize("share", [1.0, -0.1])
def test_shares_out_of_range(field, share):
    """Mutation: a share of all images, or of fewer than none, that is held out."""
    config = get_config("sample")
    setattr(config.data, field, share)
    with pytest.raises(InputError, match=rf"^data\.{field}={share}; expected in \[0, 1\)"):
        validated(config)


def test_unknown_name_suggests():
    """Mutation: TFDS's list of a thousand names as the message."""
    with pytest.raises(InputError, match=r"name=fashion_mnis .*did you mean .*fashion_mnist") as e:
        open_source(data_config("fashion_mnis"))
    assert len(str(e.value)) < 300


def test_other_kinds_of_sets_are_refused(tmp_path):
    """Mutation: a text set opened, to fail later."""
    with pytest.raises(InputError, match="not a set of images with one label each"):
        open_source(data_config("imdb_reviews", tmp_path))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("n01440764", "tench, Tinca tinca (n01440764)"),
        ("n15075141", "toilet tissue, toilet paper, bathroom tissue (n15075141)"),
        ("n00000000", "n00000000"),
        ("Ankle boot", "Ankle boot"),
    ],
)
def test_readable_names(name, expected):
    """Mutation: names of the wrong line; the synset, which is the unique part, dropped."""
    assert readable_name(name) == expected


def test_readable_names_cover_imagenet():
    """Mutation: a line lost in the table."""
    labels = Path(tfds.core.tfds_path("datasets/imagenet2012/labels.txt")).read_text().split()
    assert len(labels) == 1000
    assert all(readable_name(label) != label for label in labels)
