"""Read the errors of the families' samples, models for small images that were trained here."""

from dataclasses import dataclass
from pathlib import Path

from experiments.sweeps.rows import read_rows

RESULTS = Path(__file__).parents[1] / "results" / "samples.csv"


@dataclass(frozen=True)
class SampleRun:
    """A row of samples.csv: a model trained by one command on the embedded images.

    Attributes:
        command: the command, without its --workdir.
        model: name of the model.
        parameters: number of weights and biases at test time.
        center: top-1 error in percent on the test images, in the center view.
        ten: the same in ten views.
        machine: processor.
        date: of the run, as YYYY-MM-DD.
    """

    command: str
    model: str
    parameters: int
    center: float
    ten: float
    machine: str
    date: str

    @property
    def config(self) -> str:
        """Return the config file with its words, such as "configs/vgg.py:sample"."""
        return self.command.rpartition("--config=")[2]


def read_samples() -> list[SampleRun]:
    """Return the rows of samples.csv, in the order of the papers."""
    return read_rows(RESULTS, SampleRun)
