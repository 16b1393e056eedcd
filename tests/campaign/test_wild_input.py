"""Mutated images and random overrides: pixels or one message, whatever is in them."""

import io
import random
import sys
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from absl import flags
from helpers.damage import mutate, summarize
from helpers.image_sets import smooth_pixels
from ml_collections import config_flags
from PIL import Image

from alexnet_jax import command, fields
from alexnet_jax.config import Config, config_to_json
from alexnet_jax.data import images
from alexnet_jax.errors import InputError

# Pillow can write these. What it cannot write, it can hardly be given by a user either.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "PPM", "ICO", "PCX", "TGA")
VALUES = (
    *("", "0", "-1", "1", "2", "3", "1.5", "1e999", "-1e999", "nan", "inf", "1e-400", "0x10"),
    *(str(10**30), "-" + "9" * 40, "9" * 5000, "1_000", "True", "False", "None", "none"),
    *("()", "(1,)", "(1,2)", "(1,2,3)", "((1,2),)", "[]", "{}", "'", '"', "\\", "\0", "ä", "🙂"),
    *("../..", "/dev/null", "sample", "float16", "__class__", "lambda: 0", "-", "--", "=", " "),
    *("(" * 200, "1" + ",1" * 3000),
)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.filterwarnings("ignore::RuntimeWarning:PIL")
@pytest.mark.parametrize("rounds", [25, pytest.param(4000, marks=pytest.mark.slow)])
def test_mutated_images(rounds: int, record_property: Callable[[str, object], None]) -> None:
    """Catches: an exception of a decoder that is not known to be raised for damaged content."""
    draw = random.Random(rounds)
    outcomes: Counter[str] = Counter()
    for name in FORMATS:
        file = io.BytesIO()
        Image.fromarray(smooth_pixels(40, 50)).save(file, name)
        for _ in range(rounds):
            content = mutate(file.getvalue(), draw) or b"\0"
            channels = draw.choice((1, 3))
            try:
                pixels = images.load(content, side=32, channels=channels)
            except images.UnreadableImageError:
                outcomes["refused"] += 1
                continue
            assert pixels.shape == (32, 32, channels)
            assert pixels.dtype == np.uint8
            outcomes["read"] += 1
    summarize(outcomes, record_property)


def leaves(content: fields.Json, prefix: str = "") -> list[str]:
    """Return the paths of all values in a config."""
    found = []
    for name, value in content.items():
        path = f"{prefix}{name}"
        found += leaves(value, f"{path}.") if isinstance(value, dict) else [path]
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of ml_collections, for each file
@pytest.mark.parametrize("rounds", [300, pytest.param(30000, marks=pytest.mark.slow)])
def test_random_overrides(
    rounds: int, monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    """Catches: a value that no check expects, which ends in a traceback of a library."""
    draw = random.Random(rounds)
    outcomes: Counter[str] = Counter()
    file = "configs/alexnet.py:sample"
    names = leaves(config_to_json(command.load_config(file)))
    for _ in range(rounds):
        chosen = [draw.choice(names) for _ in range(draw.choice((1, 1, 2, 5)))]
        if draw.random() < 0.1:
            chosen.append(chosen[0][:-1])
        overrides = [f"--config.{name}={draw.choice(VALUES)}" for name in chosen]
        try:
            parse([f"--config={file}", *overrides], monkeypatch)
        except InputError as error:
            lines = len(str(error).splitlines())
            outcomes["refused" if lines <= 2 else f"refused in {lines} lines"] += 1
        except BaseException as error:
            error.add_note(str(overrides)[:1000])
            raise
        else:
            outcomes["accepted"] += 1
    assert set(outcomes) <= {"refused", "accepted"}
    summarize(outcomes, record_property)


def parse(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Config:
    """Return the config of a command line, parsed as a command does."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=values)
    monkeypatch.setattr(command, "FLAGS", values)
    monkeypatch.setattr(sys, "argv", ["command", *arguments])  # read by ml_collections
    command._parse(sys.argv)
    return command.validated_config()
