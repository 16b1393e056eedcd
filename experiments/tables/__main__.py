"""Print the error tables of the papers beside the errors of trained models.

    python -m experiments.tables [--workdir=A,B,…] [--paper=alexnet|zfnet|vgg|googlenet|resnet]
        [--folder=ILSVRC-2010|ILSVRC-2012|CIFAR-10] [--json]

The tables are 1 and 2 of AlexNet's paper, 2 and 3 of ZFNet's, 3 of VGG's, 3 of GoogLeNet's, and 2,
3 and 6 of ResNet's. Without --paper they are those of the given models' families, or AlexNet's.

A model belongs to the rows of its network, which is recognized by the layers in its config: AlexNet
(pretrained, with the asterisk, if its config's init_from is set), the models of VGG with S, depth
and shortcuts of residual networks, and so on. Rows of several models average the softmax of the
first given ones. A row is evaluated as the paper did it: center view, ten views, 144 views, or
densely; on all images of the labeled test split, or else of validation. What was not evaluated, or
has a loss that is not finite (stderr names it), is "not run".

Errors on images other than a table's own are in separate columns, whose headings name the images
and their number; models with fewer filters, as those of the samples, count there only.
ILSVRC-2012 and CIFAR-10 are recognized by their names in TensorFlow Datasets; --folder declares
that a folder of images holds one of them, or ILSVRC-2010. What has no row in the paper, such as the
average of two models or a model of your own, is in a last table.

Prints Markdown, errors in percent; or with --json an object a row, errors as fractions: "paper",
null where the paper has none; "measured", on the table's images, null where not run; "other", a
list of errors on other images. Objects of the last table have null as "table".
"""

import json

from absl import flags

from alexnet_jax import cache, command
from alexnet_jax.errors import InputError
from experiments.tables.formatting import format_paper, to_json
from experiments.tables.measuring import TABLES, measure_errors
from experiments.tables.published import PAPERS


def main(_: list[str]) -> None:
    """Run the command."""
    cache.keep_compiled()
    flag = flags.FLAGS
    if flag.folder and not flag.workdir:
        raise InputError(f"--folder={flag.folder} without models; expected --workdir")
    papers = [paper for paper in PAPERS if paper.name == flag.paper] or None
    measurements = measure_errors(flag.workdir, papers, flag.folder)
    if flag.json:
        for plan in measurements.plans:
            for one in to_json(plan, measurements):
                print(json.dumps(one, ensure_ascii=False))
        return
    print("\n\n".join(format_paper(plan, measurements) for plan in measurements.plans))
    if measurements.models:
        print("\nModels:\n")
        for described in measurements.models:
            print(f"- {described}")


if __name__ == "__main__":
    flags.DEFINE_list("workdir", [], "Folders of runs, in the order in which rows take them.")
    flags.DEFINE_enum("paper", None, [paper.name for paper in PAPERS], "The paper of the tables.")
    flags.DEFINE_enum(
        "folder",
        None,
        list(dict.fromkeys(table.images for table in TABLES)),
        "The data set in a folder of images (data.name=folder).",
    )
    flags.DEFINE_bool("json", False, "One JSON object a row instead of Markdown.")
    command.run(main)
