"""Write a report on a run as one self-contained HTML page.

    python -m experiments.report --workdir=DIR [--split=test] [--output=DIR/report.html]

It shows the errors, the learning curves, predictions, the nearest training images, mistakes, the
confusion matrix, the kernels of the first convolution, activations, the layers and the config. The
page is made from the newest checkpoint, metrics.jsonl and the prepared images. Sections whose data
a workdir lacks are left out, with the reason on the page: nothing is prepared or downloaded for it.
"""

import sys
from pathlib import Path

from absl import flags

from alexnet_jax import cache, command
from alexnet_jax.files import MAKE_ROOM, write_atomically, write_errors_as_input_errors
from alexnet_jax.trained import load_trained
from experiments.outputs import check_output_path
from experiments.report.content import make_page


def main(_: list[str]) -> None:
    """Run the command."""
    cache.keep_compiled()
    flag = flags.FLAGS
    workdir = Path(flag.workdir)
    output = Path(flag.output) if flag.output else workdir / "report.html"
    model = load_trained(workdir)
    check_output_path(output)
    html = make_page(workdir, model, flag.split, sys.argv[1:])
    with write_errors_as_input_errors(output, MAKE_ROOM):
        write_atomically(output, html)
    print(output)


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
    flags.DEFINE_string("split", None, "Split; by default test, or validation without a test.")
    flags.DEFINE_string("output", None, "File to write; by default report.html in the workdir.")
    command.run(main)
