"""IDX files, and the sample, which consists of them."""

import gzip

import numpy as np
import pytest
from helpers import ROOT
from helpers.image_sets import (
    data_config,
    random_pixels,
    write_idx,
    write_idx_set,
)

from alexnet_jax.data.sources import open_source
from alexnet_jax.errors import InputError


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_pixels_and_labels(tmp_path, zipped):
    """Mutation: the header's bytes read as pixels, labels off by one, .gz not unpacked."""
    sets = write_idx_set(tmp_path)
    if zipped:
        for path in list(tmp_path.iterdir()):
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    source = open_source(data_config("idx", tmp_path))
    assert (source.shape, source.channels) == ((28, 28), 1)
    assert source.class_names == ("0", "1", "2", "3", "4")
    for split, (pixels, labels) in sets.items():
        examples = list(source.read(split, np.array([1, 7])))
        assert [e.label for e in examples] == labels[[1, 7]].tolist()
        for example, expected in zip(examples, pixels[[1, 7]], strict=True):
            np.testing.assert_array_equal(example.image, expected[:, :, None])


def test_idx_in_color_with_dots_and_names(tmp_path):
    """Mutation: four dimensions refused; classes.txt ignored."""
    write_idx(tmp_path / "train-images.idx4-ubyte", random_pixels(4, 5, 6, 3))
    write_idx(tmp_path / "train-labels.idx1-ubyte", np.array([0, 1, 1, 0]))
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    source = open_source(data_config("idx", tmp_path))
    assert (source.shape, source.channels, source.class_names) == ((5, 6), 3, ("cat", "dog"))
    assert source.counts == {"train": 4}


@pytest.mark.parametrize("text", ["\ufeffa\nb\nc\nd\ne\n", "a\nb\nc\nd\ne\n\n \n"])
def test_class_names_as_editors_save_them(tmp_path, text):
    """Catches: the byte-order mark of Windows' editors in the name of the first class; a class
    without a name, and without images, for an empty line at the end."""
    write_idx_set(tmp_path)
    (tmp_path / "classes.txt").write_text(text, encoding="utf-8")
    assert open_source(data_config("idx", tmp_path)).class_names == tuple("abcde")


def break_idx(directory, how):
    images_path = directory / "train-images-idx3-ubyte"
    if how == "truncated":
        images_path.write_bytes(images_path.read_bytes()[:-1])
    elif how == "header":
        images_path.write_bytes(images_path.read_bytes()[:6])
    elif how == "text":
        images_path.write_text("not IDX at all")
    elif how == "missing":
        images_path.unlink()
    elif how == "labels":
        write_idx(directory / "train-labels-idx1-ubyte", np.zeros(49))
    elif how == "shapes":
        write_idx(directory / "t10k-images-idx3-ubyte", random_pixels(10, 27, 28))
    elif how == "names":
        (directory / "classes.txt").write_text("one\ntwo\n")
    elif how == "repeated":
        (directory / "classes.txt").write_text("a\nb\nc\nd\na\n")
    elif how == "latin-1":
        (directory / "classes.txt").write_bytes("a\nb\nc\nd\ncaf\u00e9\n".encode("latin-1"))
    elif how == "gzip":
        images_path.with_name(images_path.name + ".gz").write_bytes(b"\x1f\x8bnonsense")
        images_path.unlink()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", r"its header announces 39216"),
        ("header", r"is not an IDX file of bytes in 3 or 4 dimensions"),
        ("text", r"is not an IDX file"),
        ("missing", r"lacks the IDX file of the train images"),
        ("labels", r"has 50 images and .* has 49 labels"),
        ("shapes", r"one shape is expected"),
        ("names", r"classes\.txt has 2 different names in 2 lines; expected 5 or more"),
        ("repeated", r"classes\.txt has 4 different names in 5 lines; expected 5 or more"),
        ("latin-1", r"^\S+classes\.txt is not UTF-8 text"),
        ("gzip", r"cannot read"),
    ],
)
def test_idx_mistakes(tmp_path, how, message):
    """Mutation: a check removed, so that NumPy's error or wrong labels come out instead."""
    write_idx_set(tmp_path)
    break_idx(tmp_path, how)
    with pytest.raises(InputError, match=message):
        open_source(data_config("idx", tmp_path))


def test_sample_is_intact():
    """Mutation: other counts, names out of order, a file damaged by a text conversion."""
    source = open_source(data_config("sample"))
    assert source.counts == {"train": 10_000, "test": 2_000}
    assert source.class_names[0] == "T-shirt/top"
    assert source.class_names[9] == "Ankle boot"
    assert len(source.class_names) == 10
    assert source.digest == "cb4e2182de0a6eb7"
    first = next(source.read("train", np.arange(1)))
    assert first.label == 9
    assert isinstance(first.image, np.ndarray)
    assert first.image.shape == (28, 28, 1)


@pytest.mark.parametrize(
    ("split", "labels"),
    [("train", [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]), ("test", [9, 2, 1, 1, 6, 1, 4, 6, 5, 7])],
)
def test_sample_images_match_their_labels(split, labels):
    """Mutation: images and labels cut at different places, or another split's.

    `labels` are those at the beginning of Fashion-MNIST. The nearest class mean is right for two
    images in three, and for one in ten if labels and images do not belong together.
    """
    source = open_source(data_config("sample"))
    records = list(source.read(split, np.arange(2000)))
    assert [record.label for record in records[:10]] == labels
    pixels = (
        np.stack([np.asarray(record.image) for record in records]).reshape(len(records), -1) / 255
    )
    classes = np.array([record.label for record in records])
    means = np.stack([pixels[classes == c].mean(0) for c in range(10)])
    nearest = ((pixels[:, None] - means) ** 2).sum(-1).argmin(1)
    assert (nearest == classes).mean() > 0.6


FASHION_MNIST = ROOT / "data" / "fashion-mnist"


def test_sample_is_the_beginning_of_fashion_mnist():
    """Mutation: an image or a label of the sample altered."""
    if not FASHION_MNIST.is_dir():
        pytest.skip(
            "put the four files *-ubyte.gz of github.com/zalandoresearch/fashion-mnist into "
            "data/fashion-mnist to compare the sample with them"
        )
    full = open_source(data_config("idx", FASHION_MNIST))
    sample = open_source(data_config("sample"))
    for split in ("train", "test"):
        index = np.arange(0, sample.counts[split], 97)
        for ours, theirs in zip(sample.read(split, index), full.read(split, index), strict=True):
            assert ours.label == theirs.label
            np.testing.assert_array_equal(ours.image, theirs.image)
