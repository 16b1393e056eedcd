"""Commands on a model whose outputs are not finite, since its parameters are far too large."""

from pathlib import Path

import pytest
from helpers.image_sets import write_idx_set
from helpers.in_process import run_here, train_here
from helpers.tiny_model import tiny_config

from alexnet_jax.errors import DivergedError
from alexnet_jax.trained import load_trained
from experiments.explore import page
from experiments.figures import predictions
from experiments.figures.workdir_figures import Figures, make_figures
from experiments.tables.formatting import format_paper
from experiments.tables.measuring import measure_errors

pytestmark = pytest.mark.usefixtures("quick_to_compile")

MESSAGE = "the probabilities are not finite, so the parameters are not finite or far too large"


@pytest.fixture(scope="module")
def diverged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that diverged at step 2, with the checkpoint of step 1."""
    path = tmp_path_factory.mktemp("diverged")
    write_idx_set(path / "data", train=40, test=16)
    changes = dict(learning_rate=1e22, max_steps=4, checkpoint_every=1, log_every=1)
    with pytest.raises(DivergedError, match="at step 2"):
        train_here(tiny_config(path / "data", **changes), path / "run")
    assert load_trained(path / "run").step == 1
    return path / "run"


@pytest.mark.parametrize("command", ["report", "figures", "explore"])
def test_commands_on_predictions(diverged: Path, command: str) -> None:
    """Catches: errors, mistakes and probabilities shown that no model made, and a page or a figure
    of them written: `predict_split` without its check."""
    before = {*diverged.iterdir()}
    ended = run_here(command, f"--workdir={diverged}", package="experiments")
    assert ended.returncode == 3, ended.stderr
    assert MESSAGE in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    assert {*diverged.iterdir()} == before


def test_activations_and_projections_that_are_not_finite(
    diverged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches: NaN of other images than those shown, which no prediction tests, on a page or in a
    figure: `make_strongest_fn` or `Projector.project` without its check."""
    monkeypatch.setattr(predictions, "check_outputs", lambda *_: None)
    with pytest.raises(DivergedError, match="the activations are not finite, so "):
        page.collect_content(load_trained(diverged), "test", 1, (3,))
    with pytest.raises(DivergedError, match="the projections are not finite, so "):
        list(make_figures(Figures(diverged, "test", (3,)), ["strongest"], needed=False))


def test_tables_leave_out_losses_that_are_not_finite(
    diverged: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches: 100.00 as a measured error of a model whose loss is not finite."""
    found = measure_errors([str(diverged)])
    assert found.errors == {}
    words = f"left out: ten views: {diverged}: the loss on test is nan, so the parameters"
    assert words in capsys.readouterr().err
    text = format_paper(found.plans[0], found)
    assert f"| {diverged} | idx data, test, 16 images | ten views | not run | not run |" in text
