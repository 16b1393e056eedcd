"""Batches for evaluation: every image once, in all its views, in any number of processes."""

from typing import Any

import numpy as np
import pytest
from helpers.batches import (
    assert_equal_batches,
    batch_config,
    cut_crop,
    join_batches,
    read_stored,
)

from alexnet_jax.data.pipeline import evaluation_batches


@pytest.mark.parametrize("which", ["numbered", "photos", "gray"])
@pytest.mark.parametrize("views", ["center", "ten"])
def test_evaluation_sees_every_image_once(request, which, views):
    """Mutation: the last batch dropped, its filling counted, views in another order."""
    data, pack, *_ = request.getfixturevalue(which)
    channels = pack.channels
    count, margin = pack.splits["train"].count, pack.side - data.crop
    config = batch_config(data, channels=channels)
    found: list[Any] = list(evaluation_batches(pack, "train", config, views=views, workers=2))
    assert len(found) == -(-count // 8)
    corners = [(0, 0), (0, margin), (margin, 0), (margin, margin), (margin // 2, margin // 2)]
    places = [(c, False) for c in corners] + [(c, True) for c in corners]
    if views == "center":
        places = [(corners[4], False)]
    for number, batch in enumerate(found):
        assert batch.image.shape == (8, len(places), data.crop, data.crop, channels)
        for row in range(8):
            index = number * 8 + row
            assert batch.mask[row] == (index < count)
            if index >= count:
                continue
            assert batch.label[row] == pack.splits["train"].labels[index]
            pixels = read_stored(pack, "train", index)
            for view, (offset, flip) in enumerate(places):
                assert tuple(batch.offset[row, view]) == offset
                assert batch.flip[row, view] == flip
                expected = cut_crop(pixels, offset, flip, data.crop)
                np.testing.assert_array_equal(batch.image[row, view], expected)
    assert sum(int(batch.mask.sum()) for batch in found) == count


def test_evaluation_is_the_same_for_any_number_of_processes(numbered):
    """Mutation: processes with different numbers of batches, which would wait for ever."""
    data, pack, _ = numbered
    config = batch_config(data)
    all_batches = list(evaluation_batches(pack, "validation", config))
    parts = [
        list(evaluation_batches(pack, "validation", config, rows=share))
        for share in np.arange(8).reshape(4, 2)
    ]
    assert {len(part) for part in parts} == {len(all_batches)}
    for step, expected in enumerate(all_batches):
        assert_equal_batches(join_batches([part[step] for part in parts]), expected)
