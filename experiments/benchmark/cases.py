"""The cases of the benchmark by the names of their results: run them, format and plot them."""

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from alexnet_jax.config import Config
from experiments.benchmark import (
    input_benchmarks,
    sample_benchmarks,
    scaling_benchmarks,
    train_step_benchmarks,
)
from experiments.benchmark.timing import Result, format_ratio

# (names of the results asked for, repeats) → these results, in that order.
Case = Callable[[tuple[str, ...], int], list[Result]]


def single_result(case: Callable[[int], Result]) -> Case:
    """Return a case with one result."""
    return lambda _, repeats: [case(repeats)]


def _train_step(make_config: Callable[[], Config], times: int = 1) -> Case:
    """Return a case that times a config's step against PyTorch, eager or compiled by the name."""
    return lambda wanted, repeats: train_step_benchmarks.time_train_step(
        make_config(), times * repeats, tuple(name.rpartition("_")[2] for name in wanted)
    )


def _step_memory(make_config: Callable[[], Config]) -> Case:
    """Return a case that measures the memory of a config's step."""
    return single_result(lambda _: train_step_benchmarks.measure_step_memory(make_config))


# The models whose training step is timed and measured, by what precedes "train_step".
MODELS: dict[str, Callable[[], Config]] = {
    "": train_step_benchmarks.paper_config,
    "vgg_": train_step_benchmarks.vgg_config,
    "googlenet_": train_step_benchmarks.googlenet_config,
    "resnet18_": train_step_benchmarks.resnet18_config,
    "resnet50_": train_step_benchmarks.resnet50_config,
    "resnet20_": train_step_benchmarks.resnet20_config,
    "18pct_": train_step_benchmarks.cifar_18pct_config,
    "13pct_": train_step_benchmarks.cifar_13pct_config,
}

# The cases by the names of their results.
CASES: dict[tuple[str, ...], Case] = {
    **{
        (f"{model}train_step/torch_eager", f"{model}train_step/torch_compile"): _train_step(config)
        for model, config in MODELS.items()
    },
    ("sample_train_step/torch_eager",): _train_step(train_step_benchmarks.sample_config, times=5),
    **{(f"{model}train_step_memory",): _step_memory(config) for model, config in MODELS.items()},
    ("restore_memory",): single_result(train_step_benchmarks.measure_restore_memory),
    ("train_step_scaling",): single_result(train_step_benchmarks.time_scaling),
    ("input_pipeline/decoder",): single_result(input_benchmarks.time_decoder),
    ("input_pipeline/torch_dataloader",): single_result(input_benchmarks.time_torch_dataloader),
    ("input_pipeline/raw_pack",): single_result(input_benchmarks.time_raw_pack),
    ("prepare/decode_resize",): single_result(input_benchmarks.time_preparation),
    ("prepare_memory",): single_result(scaling_benchmarks.measure_memory),
    ("evaluate_scaling",): single_result(scaling_benchmarks.time_evaluation),
    ("startup",): single_result(sample_benchmarks.time_startup),
    ("startup/resident",): single_result(
        lambda repeats: sample_benchmarks.time_startup(repeats, "--config.data.resident=on")
    ),
    ("sample/resident",): single_result(sample_benchmarks.time_resident),
    ("sample",): single_result(sample_benchmarks.time_sample),
}


# Results with a scaling plot, and its title.
SCALING = {
    "train_step_scaling": "A training step, the paper's model",
    "evaluate_scaling": "Evaluation, center view, the sample's model",
}


def format_result(result: Result) -> str:
    """Return a result as a line of text."""
    parts = []
    if "images_per_second" in result:
        parts = [
            f"{_format_rate(result['images_per_second'])} images/s",
            f"reference ({result['reference']}) "
            f"{_format_rate(result['reference_images_per_second'])}",
            f"ratio {format_ratio(result)}",
        ]
    elif "summary" not in result:
        parts = [f"{result['seconds']:.3g} s"]
    if "second_start_seconds" in result:
        parts.append(f"user time {result['user_seconds']:.3g} s")
        parts.append(f"second start {result['second_start_seconds']:.3g} s")
    if "top1_error" in result:
        parts.append(
            f"top-1 test error {result['top1_error']:.2%}, ten views "
            f"{result['top1_error_ten_views']:.2%}, {result['count']} images"
        )
    if "summary" in result:
        parts.append(result["summary"])
    return f"{result['name']}: {', '.join(parts)}"


def _format_rate(rate: float) -> str:
    """Return a rate with three digits or more, such as 1.16 or 1,661."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def result_names(cases: Iterable[tuple[str, ...]]) -> list[str]:
    """Return the names of all results, in order."""
    return [name for names in cases for name in names]


def run_cases(
    cases: dict[tuple[str, ...], Case], chosen: Iterable[str], repeats: int
) -> Iterator[Result]:
    """Yield the results with the chosen names, each as soon as its case has run."""
    for names, case in cases.items():
        wanted = tuple(name for name in names if name in chosen)
        if wanted:
            print(f"{', '.join(wanted)} …", file=sys.stderr)
            for name, result in zip(wanted, case(wanted, repeats), strict=True):
                yield {"name": name, **result}


def write_scaling_plot(results: Iterable[Result], folder: Path) -> Path:
    """Plot the results named in SCALING; return the path of scaling.png in the folder."""
    # With --output alone: they load matplotlib.
    from experiments.benchmark import scaling
    from experiments.outputs import write_figure

    titled = {SCALING[r["name"]]: r for r in results if r["name"] in SCALING}
    path = folder / "scaling.png"
    write_figure(scaling.plot_scaling(titled), path)
    return path
