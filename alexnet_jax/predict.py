"""The five most probable classes of pictures.

    python -m alexnet_jax.predict --workdir=DIR [--json] IMAGE…

Each picture is prepared as the training images were (section 2) and seen in its centre view.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from absl import flags

from alexnet_jax import cache, command, parallel
from alexnet_jax.data import images
from alexnet_jax.data.names import readable_name
from alexnet_jax.errors import InputError
from alexnet_jax.evaluate import Net, load_net

BATCH = 32  # pictures looked at together


def predict(net: Net, pictures: Iterable[np.ndarray]) -> Iterator[list[tuple[str, float]]]:
    """For each picture up to five pairs (class name, probability), the most probable first.

    Args:
        pictures: (side, side, channels) uint8, as `data.images.load` makes them.
    """
    crop, channels = net.config.data.crop, net.config.model.channels
    look = net.predict(parallel.data_mesh(1))
    remaining = iter(pictures)
    while group := list(islice(remaining, BATCH)):
        start = (group[0].shape[0] - crop) // 2
        views = np.stack([p[start : start + crop, start : start + crop] for p in group])
        rows = len(group)
        batch = {
            "image": jnp.asarray(np.broadcast_to(views, (*views.shape[:3], channels))),
            "offset": jnp.full((rows, 2), start),
            "flip": jnp.zeros(rows, bool),
        }
        for probabilities in np.exp(np.asarray(look(batch))):
            best = np.argsort(-probabilities, kind="stable")[:5]
            yield [(net.class_names[c], float(probabilities[c])) for c in best]


def main(arguments: list[str]) -> int:
    """The command; 2 when a picture could not be read, after looking at the others."""
    if not arguments:
        raise InputError("no pictures given; expected files after --workdir=DIR")
    cache.keep_compiled()
    net = load_net(flags.FLAGS.workdir)
    side, _, channels = net.mean_image.shape
    read: list[str] = []

    def pictures() -> Iterator[np.ndarray]:
        for name in arguments:
            try:
                yield images.load(
                    Path(name), side=side, channels=channels, resize=net.config.data.resize
                )
            except (images.UnreadableImageError, OSError) as error:
                print(f"{name}: not a picture that can be read: {error}", file=sys.stderr)
            else:
                read.append(name)

    for number, best in enumerate(predict(net, pictures())):
        if flags.FLAGS.json:
            classes = [{"class": name, "probability": share} for name, share in best]
            print(json.dumps({"image": read[number], "top5": classes}))
        else:
            print(read[number])
            for name, share in best:
                print(f"  {share:7.2%}  {readable_name(name)}")
    return 0 if len(read) == len(arguments) else 2


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
    flags.DEFINE_bool("json", False, "One JSON object a line instead of text.")
    command.run(main)
