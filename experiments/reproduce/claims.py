"""The claims that CIFAR-10 can test: their runs, published numbers, costs and criteria."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from alexnet_jax.errors import InputError
from experiments import ablations, relu_tanh_results
from experiments.reproduce.claim import (
    SEEDS,
    Claim,
    Fields,
    ReadRuns,
    SweepCommand,
    SweptGroup,
    SweptRuns,
    TrainedGroup,
    Training,
)
from experiments.reproduce.verdicts import DIVERGED, NOT_REACHED, Close, Contrast
from experiments.sweeps.rows import Row, read_rows, to_percents
from experiments.sweeps.sweep import has_failed

CUDA_CONVNET = "cuda-convnet (2012)"
ALEXNET = "Krizhevsky et al. (2012)"
RESNET = "He et al. (2015)"
RATES = {"relu": (0.002, 0.004, 0.001), "tanh": (0.008, 0.016, 0.004)}  # of relu_tanh
THRESHOLD = 0.25  # of the training error in relu_tanh
BINARY_FILES: Fields = (("data.name", "cifar10_binary"),)


def _cuda_convnet(name: str, error: int, value: str, training: Training, file: str = "") -> Claim:
    """Return the claim about one of the authors' models for CIFAR-10.

    Args:
        name: name of the model, and of the claim.
        error: its published test error in percent.
        value: see `TrainedGroup`.
        training: its training.
        file: file that defines it; "" for layers-NAME.cfg.
    """
    return Claim(
        name,
        f"{CUDA_CONVNET}, {file or f'layers-{name}.cfg'}",
        f"test error{', ten views' if value == 'ten_error' else ''}",
        f"{error} %",
        Close(error, tolerance=1.0),  # published as a whole number
        (TrainedGroup("", training, value),),
    )


def _shortened(name: str, schedule: str, value: str, training: Training) -> Claim:
    """Return the claim of a schedule that nobody has published.

    Args:
        name: name of the claim.
        schedule: the schedule, in words.
        value: see `TrainedGroup`.
        training: its training.
    """
    return Claim(
        name,
        f"{CUDA_CONVNET if 'pct' in name else RESNET}, shortened",
        f"test error after {schedule}",
        "",
        Close(None),
        (TrainedGroup("", training, value),),
    )


def _bias_multipliers(*drops: int) -> tuple[tuple[str, int, float], ...]:
    """Return `schedule.multipliers` for drops that lower the rates of weights only."""
    later = ((".*/bias", epoch, 2.0 * 10**n) for n, epoch in enumerate(drops, start=1))
    return ((".*/bias", 1, 2.0), *later)


def _stages(epochs: int, first_stage: int, *drops: int) -> Fields:
    """Return the fields of a shorter schedule of 13pct and 11pct.

    Args:
        epochs: number of epochs.
        first_stage: number of epochs on four of the five files, before those on all.
        drops: epochs that begin at a tenth of the rate.
    """
    return (
        ("epochs", epochs),
        ("data.stages", ((1, 40_000), (first_stage + 1, 50_000))),
        ("schedule.drop_epochs", drops),
        ("schedule.multipliers", _bias_multipliers(*drops)),
    )


def _resnet(layers: int, hours: float, *, plain: bool = False) -> Training:
    """Return the training of a network of section 4.2."""
    name = f"{'plain' if plain else 'resnet'}{layers}"
    config = f"configs/resnet.py:cifar{'_plain' * plain}{layers}"
    return Training(name, config, hours, BINARY_FILES)


def _by_depth(trainings: Mapping[int, Training], depths: Sequence[int]) -> tuple[TrainedGroup, ...]:
    """Return a group for each depth: several seeds of the first and last, which are compared."""
    compared = (depths[0], depths[-1])
    return tuple(
        TrainedGroup(f"{n}", trainings[n], "train_error", SEEDS if n in compared else 1)
        for n in depths
    )


def _epoch_of(step: float) -> float:
    """Return the epoch, counted from 1, of a step of 128 of 50,000 images."""
    return 1 + (step - 0.5) * 128 / 50_000


EIGHTY = Training("80sec", "configs/cifar.py:80sec", 0.4, measured=True)
EIGHTEEN = Training("18pct", "configs/cifar.py:18pct", 2.2, measured=True)
THIRTEEN = Training("13pct", "configs/cifar.py:13pct", 2.9, measured=True)
ELEVEN = Training("11pct", "configs/cifar.py:11pct", 21)
ELEVEN_NO_LRN = Training("11pct_no_lrn", "configs/cifar.py:11pct,no_lrn", 20)
TENTH = _stages(52, 35, 51, 52)
ELEVEN_TENTH = Training("11pct_tenth", "configs/cifar.py:11pct", 2.1, TENTH)
ELEVEN_NO_LRN_TENTH = Training("11pct_no_lrn_tenth", "configs/cifar.py:11pct,no_lrn", 2, TENTH)
RESNETS = {n: _resnet(n, h) for n, h in ((20, 16), (32, 27), (44, 38), (56, 49), (110, 99))}
PLAIN = {n: _resnet(n, h, plain=True) for n, h in ((20, 16), (32, 27), (44, 38), (56, 49))}
RESNET_ERRORS = {20: 8.75, 32: 7.51, 44: 7.17, 56: 6.97, 110: 6.61}

LRN_STATEMENT = "test error, ten views, without response normalization, less that with it"
SHORTENED = (
    _shortened(
        "18pct_quarter", "35 epochs in place of 140", "center_error",
        Training(
            "18pct_quarter", "configs/cifar.py:18pct", 1,
            (("epochs", 35), ("schedule.drop_epochs", (31, 34))),
        ),
    ),
    _shortened(
        "13pct_quarter", "40 epochs in place of 160, ten views", "ten_error",
        Training("13pct_quarter", "configs/cifar.py:13pct", 1.5, _stages(40, 25, 36, 39)),
    ),
    Claim(
        "lrn_tenth", f"{ALEXNET}, section 3.3, shortened",
        f"{LRN_STATEMENT}; 52 epochs in place of 520", "",
        Contrast(None, shortened=True),
        (
            TrainedGroup("with", ELEVEN_TENTH, "ten_error", SEEDS),
            TrainedGroup("without", ELEVEN_NO_LRN_TENTH, "ten_error", SEEDS),
        ),
    ),
    _shortened(
        "resnet20_tenth", "6,400 steps in place of 64,000", "center_error",
        Training(
            "resnet20_tenth", "configs/resnet.py:cifar20", 1.6,
            (
                *BINARY_FILES,
                ("max_steps", 6_400),
                ("schedule.drop_epochs", (_epoch_of(3_200), _epoch_of(4_800))),
            ),
        ),
    ),
)  # fmt: skip


def _make_read_ablation(name: str, field: str) -> ReadRuns:
    """Return the function that reads an ablation's errors, in percent, of the first SEEDS seeds."""

    def read_runs(folder: Path) -> SweptRuns:
        rows = read_rows(folder / "ablations.csv", ablations.Result)
        ended = [
            row for row in rows if row.ablation == name and row.seed < SEEDS and not has_failed(row)
        ]
        errors = to_percents(getattr(row, field) for row in ended)
        return SweptRuns(_names_of_finished(ended), errors, DIVERGED if len(ended) == SEEDS else "")

    return read_runs


def _names_of_finished(rows: Iterable[Row]) -> list[str]:
    """Return the names of the runs that have finished."""
    return [row.name for row in rows if row.status == "done"]


def _ablation(name: str, section: str, further: str = "") -> Claim:
    """Return the claim that a part of the paper's model, or of its recipe, lowers the error.

    Args:
        name: name of the ablation.
        section: section of the paper.
        further: another source, which has the number.
    """
    (ablation,) = (one for one in ablations.ABLATIONS if one.name == name)
    # A model that was never trained on corners is worse in ten views for that reason alone.
    field = "top1_center" if name == "no_crops" else "top1_ten"
    change = (ablation.paper or ablation.program).rstrip(" /")  # of top-1 / top-5 error
    return Claim(
        f"alexnet_{name}",
        f"{ALEXNET}, section {section}{further}",
        f"test error, {ablation.description}, less the base's",
        f"{change} on ImageNet",
        Contrast(None),
        (
            SweptGroup("base", _make_read_ablation("base", field)),
            SweptGroup(name, _make_read_ablation(name, field)),
        ),
        SweepCommand(
            "ablations",
            ("--config=configs/alexnet.py:cifar10", f"--only=base,{name}", f"--seeds={SEEDS}"),
            runs=2 * SEEDS,
            hours=2,
        ),
    )


def _ten_views() -> Claim:
    """Return the claim that ten views of an image have a lower error than its center."""
    return Claim(
        "alexnet_ten_views",
        f"{ALEXNET}, section 4.1",
        "test error, center view, less that in ten views",
        "+1.5 / +1.3 on ImageNet",
        Contrast(None),
        (
            SweptGroup("ten", _make_read_ablation("base", "top1_ten")),
            SweptGroup("center", _make_read_ablation("base", "top1_center")),
        ),
        SweepCommand(
            "ablations",
            ("--config=configs/alexnet.py:cifar10", "--only=base", f"--seeds={SEEDS}"),
            runs=SEEDS,
            hours=1,
        ),
    )


def _make_read_epochs(units: str) -> ReadRuns:
    """Return the function that reads the epochs to THRESHOLD at the fastest of RATES."""

    def read_runs(folder: Path) -> SweptRuns:
        rows = [
            row
            for row in read_rows(folder / "relu_tanh.csv", relu_tanh_results.Result)
            if row.units == units
            and row.rate in RATES[units]
            and row.seed < SEEDS
            and row.threshold == THRESHOLD
        ]
        names = _names_of_finished(rows)
        rate = relu_tanh_results.fastest_rate(rows, units)
        has_rates = not relu_tanh_results.unknown_rates(rows, units, RATES[units])
        if rate is None:
            return SweptRuns(names, [], NOT_REACHED if has_rates else "")
        seeds = [r for r in relu_tanh_results.select_seeds(rows, units, rate) if not has_failed(r)]
        has_ended = has_rates and len(seeds) == SEEDS
        epochs = relu_tanh_results.reached_epochs(seeds)
        return SweptRuns(names, epochs, NOT_REACHED if has_ended else "")

    return read_runs


CLAIMS = (
    _cuda_convnet("80sec", 26, "center_error", EIGHTY),
    _cuda_convnet("18pct", 18, "center_error", EIGHTEEN),
    _cuda_convnet("13pct", 13, "ten_error", THIRTEEN, "layers-conv-local-13pct.cfg"),
    _cuda_convnet("11pct", 11, "ten_error", ELEVEN, "layers-conv-local-11pct.cfg"),
    Claim(
        "lrn", f"{ALEXNET}, section 3.3", LRN_STATEMENT, "13 % to 11 %",
        Contrast(least=1.0),  # half of the published difference
        (
            TrainedGroup("with", ELEVEN, "ten_error", SEEDS),
            TrainedGroup("without", ELEVEN_NO_LRN, "ten_error", SEEDS),
        ),
    ),
    Claim(
        "relu_tanh", f"{ALEXNET}, section 3.1, figure 1",
        f"epochs to {100 * THRESHOLD:g} % training error, tanh over ReLU", "6 times",
        # Half: "the magnitude of the effect … varies with network architecture".
        Contrast(least=3.0, is_factor=True),
        (
            SweptGroup("ReLU", _make_read_epochs("relu")),
            SweptGroup("tanh", _make_read_epochs("tanh")),
        ),
        SweepCommand(
            "relu_tanh",
            (
                *("--config=configs/cifar.py:18pct", "--own_model", "--config.epochs=60"),
                *(f"--{units}_rates={','.join(map(str, rates))}" for units, rates in RATES.items()),
                *(f"--threshold={THRESHOLD}", f"--seeds={SEEDS}"),
            ),
            runs=10,
            hours=4,
        ),
    ),
    *(
        Claim(
            f"resnet{layers}", f"{RESNET}, table 6", "test error",
            "6.61 ± 0.16 %, five runs; 6.43 % the best" if layers == 110 else f"{error} %",
            Close(error, tolerance=0.5),
            (TrainedGroup("", RESNETS[layers], "center_error"),),
        )
        for layers, error in RESNET_ERRORS.items()
    ),
    Claim(
        "degradation", f"{RESNET}, figure 6, left",
        "training error of plain networks, 56 layers less 20", "above 0, without a number",
        Contrast(least=0.0),
        _by_depth(PLAIN, (20, 32, 44, 56)),
    ),
    Claim(
        "residual_depth", f"{RESNET}, figure 6, middle",
        "training error of residual networks, 20 layers less 56", "above 0, without a number",
        Contrast(least=0.0),
        _by_depth(RESNETS, (56, 44, 32, 20)),
    ),
    *(
        _ablation(*arguments)
        for arguments in (
            ("no_lrn", "3.3"), ("no_overlap", "3.4"), ("one_column", "3.2"),
            ("no_communication", "3.5", "; the 2012 program, run #150"), ("no_lighting", "4.1"),
            ("no_crops", "4.1"), ("no_dropout", "4.2"),
            *((f"no_conv{n}", "7") for n in (2, 3, 4, 5)),
        )
    ),
    _ten_views(),
    *SHORTENED,
)  # fmt: skip
BY_NAME = {claim.name: claim for claim in CLAIMS}


def choose_claims(names: Sequence[str]) -> list[Claim]:
    """Return the claims of --claims in the order of the registry; all without names.

    Raises:
        InputError: an unknown name.
    """
    if unknown := [name for name in names if name not in BY_NAME]:
        raise InputError(
            f"--claims={','.join(names)}: {unknown[0]} is none of {', '.join(BY_NAME)}"
        )
    return [claim for claim in CLAIMS if claim.name in names or not names]
