"""The cases of the benchmark on an accelerator, the most important first.

A case is run by `worker` in a process of its own. On CPUs the same cases are a rehearsal of the
benchmark, with small models and few images.
"""

from collections.abc import Callable
from dataclasses import dataclass

from alexnet_jax.config import Config, with_changes
from configs import alexnet, cifar, resnet, vgg
from experiments.benchmark.timing import OURS

PLATFORMS = ("cpu", "gpu", "tpu")
# What PyTorch's training step is compiled by, and how it normalizes: by nn.LocalResponseNorm, or
# by sums of shifted squares as in this program, which its compiler fuses.
PEERS = ("torch_eager", "torch_compile", "torch_compile_shifted_lrn")


@dataclass(frozen=True)
class Case:
    """A case of the benchmark.

    Attributes:
        kind: "device" for the device itself, "profile", OURS, "resident" for the same with the
            images on the device and several steps in a dispatch, "seeds" for the same with several
            seeds in one program, or one of PEERS.
        model: name of the model in MODELS, "" for the device.
        dtype: type of the arithmetic.
        batch: images in a step.
        seconds: estimate of the time for the whole case, its process and compilation included.
        devices: number of devices, over which the columns are split.
        form: op and form of `forms.FORMS` that the layers use in place of their own, such as
            max_pool=by_axis; "" for their own.
    """

    kind: str
    model: str
    dtype: str
    batch: int
    seconds: float
    devices: int = 1
    form: str = ""

    @property
    def name(self) -> str:
        """The name of the case, such as alexnet/bfloat16/128/torch_eager."""
        if self.kind == "device":
            return self.kind
        columns = "" if self.devices == 1 else f"/{self.devices}_devices"
        kind = "" if self.kind == OURS else f"/{self.kind}"
        form = f"/{self.form}" if self.form else ""
        return f"{self.model}/{self.dtype}/{self.batch}{columns}{kind}{form}"

    @property
    def compared_with(self) -> str:
        """The name of the case of this program, as it is, that does the same work."""
        return f"{self.model}/{self.dtype}/{self.batch}"


# The models by name, at their size and small for the rehearsal, without a number of classes.
MODELS: dict[str, tuple[Callable[[], Config], Callable[[], Config]]] = {
    "alexnet": (alexnet.get_config, lambda: alexnet.get_config("sample")),
    "cifar_alexnet": (
        lambda: alexnet.get_config("cifar10"),
        lambda: alexnet.get_config("sample,one_column"),
    ),
    "cifar_13pct": (lambda: cifar.get_config("13pct"), lambda: cifar.get_config("13pct,sample")),
    "cifar_11pct": (lambda: cifar.get_config("11pct"), lambda: cifar.get_config("11pct,sample")),
    "resnet20": (
        lambda: resnet.get_config("cifar20"),
        lambda: with_changes(resnet.get_config("cifar20,sample"), {"model.width": 4}),
    ),
    "resnet50": (
        lambda: resnet.get_config("50"),
        lambda: with_changes(
            resnet.get_config("50,sample"), {"model.width": 4, "model.stage_sizes": (1, 1)}
        ),
    ),
    "vgg16": (vgg.get_config, lambda: vgg.get_config("sample")),
}
CLASSES = {"alexnet": 1000, "resnet50": 1000, "vgg16": 1000}  # 10 for the others
REHEARSAL_BATCH = 8


def make_config(case: Case, *, rehearsal: bool) -> Config:
    """Return the config of a case, with its number of classes.

    Args:
        rehearsal: the small model, with few images.
    """
    full, small = MODELS[case.model]
    changes = {
        "model.num_classes": 10 if rehearsal else CLASSES.get(case.model, 10),
        "batch_size": REHEARSAL_BATCH if rehearsal else case.batch,
        "compute_dtype": case.dtype,
    }
    if case.devices > 1:
        changes["parallel.columns"] = case.devices
    return with_changes(small() if rehearsal else full(), changes)


def _form(form: str) -> Case:
    """Return the case of the paper's model with a form in place of the layers' own."""
    return Case(OURS, "alexnet", "bfloat16", 128, 60, form=form)


# In order of importance. The estimates are for an H100; none of them has been measured.
CASES = (
    Case("device", "", "", 0, 25),
    Case(OURS, "alexnet", "bfloat16", 128, 60),
    Case("torch_compile_shifted_lrn", "alexnet", "bfloat16", 128, 60),
    Case(OURS, "alexnet", "bfloat16", 1024, 70),
    Case("torch_compile_shifted_lrn", "alexnet", "bfloat16", 1024, 70),
    Case("profile", "alexnet", "bfloat16", 128, 60),
    *map(_form, ("conv1=folded", "conv1=8_channels", "max_pool=by_axis")),
    Case("torch_compile", "alexnet", "bfloat16", 128, 60),
    Case("torch_eager", "alexnet", "bfloat16", 128, 25),
    Case(OURS, "alexnet", "float32", 128, 60),
    Case(OURS, "resnet20", "bfloat16", 128, 50),
    Case("resident", "resnet20", "bfloat16", 128, 50),
    Case("torch_compile", "resnet20", "bfloat16", 128, 60),
    Case(OURS, "cifar_13pct", "bfloat16", 128, 40),
    Case("resident", "cifar_13pct", "bfloat16", 128, 40),
    Case("seeds", "cifar_13pct", "bfloat16", 128, 60),
    Case("torch_compile", "cifar_13pct", "bfloat16", 128, 45),
    Case(OURS, "cifar_alexnet", "bfloat16", 128, 45),
    Case("torch_compile_shifted_lrn", "cifar_alexnet", "bfloat16", 128, 45),
    Case(OURS, "alexnet", "bfloat16", 256, 60),
    Case("torch_compile_shifted_lrn", "alexnet", "bfloat16", 256, 60),
    Case(OURS, "resnet50", "bfloat16", 128, 110),
    Case("torch_compile", "resnet50", "bfloat16", 128, 90),
    Case(OURS, "vgg16", "bfloat16", 64, 60),
    Case("torch_compile", "vgg16", "bfloat16", 64, 60),
    Case("torch_compile", "alexnet", "bfloat16", 1024, 70),
    Case("torch_eager", "alexnet", "bfloat16", 1024, 25),
    Case("profile", "alexnet", "bfloat16", 1024, 70),
    Case("torch_compile_shifted_lrn", "alexnet", "float32", 128, 60),
    Case("profile", "resnet20", "bfloat16", 128, 50),
    Case(OURS, "cifar_11pct", "bfloat16", 128, 40),
    Case("resident", "cifar_11pct", "bfloat16", 128, 40),
    Case("torch_compile_shifted_lrn", "cifar_11pct", "bfloat16", 128, 45),
    Case(OURS, "alexnet", "float32", 256, 60),
    Case(OURS, "alexnet", "float32", 1024, 70),
    Case("torch_compile_shifted_lrn", "alexnet", "float32", 1024, 70),
    *map(_form, ("conv1=4_channels", "grouped_conv=feature_groups", "max_pool=reduce_window")),
    *map(_form, ("lrn=reduce_window", "lrn=product", "kernel_gradient=offsets")),
    Case(OURS, "alexnet", "bfloat16", 128, 60, devices=2),
)
BY_NAME = {case.name: case for case in CASES}
