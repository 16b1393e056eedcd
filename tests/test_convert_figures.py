"""What experiments.figures shows of an imported model."""

from pathlib import Path

import foreign
import numpy as np
from matplotlib.figure import Figure
from test_convert import TINY

from alexnet_jax import convert
from experiments import figures, looking


def test_kernels_of_an_imported_model(tmp_path: Path) -> None:
    """Catches a workdir that figures does not take, and kernels shown in BGR."""
    arrays = foreign.weights(TINY)
    content = foreign.caffemodel(TINY, arrays, generation="layers", shaped=False)
    (tmp_path / "net.caffemodel").write_bytes(content)
    model = convert.read(tmp_path / "net.caffemodel")
    convert.write_workdir(tmp_path / "run", model)
    kernel = looking.conv1(model)
    np.testing.assert_array_equal(kernel[..., ::-1, :], model.params["conv1"]["kernel"])
    assert isinstance(figures.Figures(tmp_path / "run").make("kernels"), Figure)
