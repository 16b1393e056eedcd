"""Compare AlexNet, ZFNet, VGG, GoogLeNet and residual networks on ImageNet.

    python -m experiments.families [--output=DIR]

Prints a Markdown table of the networks: depth, parameters, multiply-adds, receptive field, and the
published errors of single models; and one of the errors of the samples, small models that were
trained here. --output writes families.html, a page with the tables and the figure, and
families.png, the figure alone, there. Sizes are computed from the configs, without data; nothing
is trained.
"""

import sys

from absl import flags

from alexnet_jax import cache, command
from alexnet_jax.files import MAKE_ROOM, write_atomically, write_errors_as_input_errors
from experiments.families.content import NETWORKS, summarize_networks
from experiments.families.page import format_markdown, make_page
from experiments.families.plots import plot_families
from experiments.families.samples import read_samples
from experiments.outputs import write_figure


def main(_: list[str]) -> None:
    """Run the command."""
    cache.keep_compiled()
    flag = flags.FLAGS
    folder = command.make_folder(flag.output) if flag.output else None
    summaries = summarize_networks(NETWORKS)
    samples = read_samples()
    print(format_markdown(summaries, samples))
    if folder is not None:
        page = folder / "families.html"
        with write_errors_as_input_errors(page, MAKE_ROOM):
            write_atomically(page, make_page(summaries, samples))
        write_figure(plot_families(summaries), folder / "families.png")
        for name in ("families.html", "families.png"):
            print(f"wrote {folder / name}", file=sys.stderr)


if __name__ == "__main__":
    flags.DEFINE_string("output", None, "Folder for families.html and families.png.")
    command.run(main)
