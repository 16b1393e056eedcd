"""What experiments.figures shows of an imported model."""

from pathlib import Path

import numpy as np
from helpers import foreign_files
from helpers.weight_files import TINY
from matplotlib.figure import Figure

from alexnet_jax import convert
from experiments.figures import workdir_figures
from experiments.figures.predictions import first_conv_kernels


def test_kernels_of_an_imported_model(tmp_path: Path) -> None:
    """Catches a workdir that figures does not take, and kernels shown in BGR."""
    arrays = foreign_files.weights(TINY)
    content = foreign_files.caffemodel(TINY, arrays, generation="layers", shaped=False)
    (tmp_path / "net.caffemodel").write_bytes(content)
    model = convert.read_model(tmp_path / "net.caffemodel")
    convert.write_workdir(tmp_path / "run", model)
    kernel = first_conv_kernels(model)
    np.testing.assert_array_equal(kernel[..., ::-1, :], model.params["conv1"]["kernel"])
    assert isinstance(workdir_figures.Figures(tmp_path / "run").make("kernels"), Figure)
