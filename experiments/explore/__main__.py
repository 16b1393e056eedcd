"""Write a page to look inside a trained model: one HTML file that needs no network.

    python -m experiments.explore --workdir=DIR [--split=test] [--output=DIR/explore.html]

It shows a diagram of the model. For a layer and a channel it shows the kernel, the nine strongest
activations over the split, as patches of the images and projected to pixels, and for an image the
activations of every layer, the most probable classes, the effect of covering parts of it, and the
nearest training images. The images of the run are needed; they are prepared if they are not yet.

Of each layer --channels are shown, by default 16, and fewer in models of more than 12 layers, so
that the page stays below 10 MB.
"""

import sys
from pathlib import Path

from absl import flags

from alexnet_jax import cache, command
from alexnet_jax.errors import InputError
from alexnet_jax.files import MAKE_ROOM, write_atomically, write_errors_as_input_errors
from alexnet_jax.trained import load_trained
from experiments.explore.page import MAX_BYTES, collect_content, make_page
from experiments.outputs import check_output_path


def main(_: list[str]) -> None:
    """Run the command."""
    cache.keep_compiled()
    flag = flags.FLAGS
    if wrong := [image for image in flag.images if not image.isdecimal()]:
        raise InputError(f"--images={','.join(flag.images)}: {wrong[0]} is no number from 0 on")
    workdir, images = Path(flag.workdir), tuple(map(int, flag.images))
    output = Path(flag.output) if flag.output else workdir / "explore.html"
    model = load_trained(workdir)
    check_output_path(output)
    content = collect_content(model, flag.split, flag.channels, images)
    html = make_page(workdir, model, content, sys.argv[1:])
    size = len(html.encode())
    if size > MAX_BYTES:
        print(
            f"The page has {size / 1e6:.1f} MB and may load slowly; for a smaller one, set "
            "--channels=N to less than the number on the page.",
            file=sys.stderr,
        )
    with write_errors_as_input_errors(output, MAKE_ROOM):
        write_atomically(output, html)
    print(output)


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Define the command's flags."""
    flags.DEFINE_string("workdir", None, "Folder of the run.", required=True, flag_values=values)
    flags.DEFINE_string(
        "split", None, "Split; by default test, or validation without a test.", flag_values=values
    )
    flags.DEFINE_string(
        "output", None, "File to write; by default explore.html in the workdir.", flag_values=values
    )
    flags.DEFINE_integer(
        "channels",
        None,
        "Channels of each layer to show; by default 16, fewer in models of more than 12 layers.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_list(
        "images", [], "Indices in the split, from 0, of the images to show.", flag_values=values
    )


if __name__ == "__main__":
    define_flags()
    command.run(main)
