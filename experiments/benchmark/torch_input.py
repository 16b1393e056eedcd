"""PyTorch's DataLoader with the transforms of torchvision, to compare the input pipeline with.

The transforms are written with Pillow and PyTorch as in torchvision, because torchvision pins its
own version of PyTorch. Each is torchvision's function of that name, or the Lighting of PyTorch's
ImageNet examples.
"""

import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, RandomSampler

# Per channel in [0, 1] units, as in every ImageNet recipe for PyTorch.
_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
_STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
_EIGENVALUES = torch.tensor([0.2175, 0.0188, 0.0045])
_EIGENVECTORS = torch.tensor(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)


class JpegImages(Dataset[tuple[torch.Tensor, int]]):
    """The JPEGs in a folder, augmented: (3, crop, crop) float32, normalized, and a label."""

    def __init__(self, folder: Path, crop: int) -> None:
        """List the folder."""
        self._paths = sorted(map(str, folder.glob("*.jpg")))
        self._crop = crop

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Return a file, decoded and augmented, and its label."""
        with open(self._paths[index], "rb") as file:
            pixels = Image.open(file).convert("RGB")
        left = random.randint(0, pixels.width - self._crop)  # RandomCrop
        top = random.randint(0, pixels.height - self._crop)
        pixels = pixels.crop((left, top, left + self._crop, top + self._crop))
        if random.random() < 0.5:  # RandomHorizontalFlip
            pixels = pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image = torch.from_numpy(np.array(pixels)).permute(2, 0, 1).contiguous()  # ToTensor
        image = image.to(torch.float32).div(255)
        alpha = torch.normal(0.0, 0.1, (3,))  # Lighting
        image = image.add((_EIGENVECTORS * alpha * _EIGENVALUES).sum(1).view(3, 1, 1))
        return image.sub_(_MEAN).div_(_STD), index % 2  # Normalize


class BatchReader:
    """A callable that reads shuffled batches and keeps its workers between calls."""

    def __init__(
        self, folder: Path, *, crop: int, batch_size: int, batches: int, workers: int
    ) -> None:
        """Make the loader; its workers start at the first call.

        Workers are spawned, since forked ones would inherit the threads of this process.
        """
        images = JpegImages(folder, crop)
        self._loader = DataLoader(
            images,
            batch_size=batch_size,
            sampler=RandomSampler(images, replacement=True, num_samples=batches * batch_size),
            num_workers=workers,
            persistent_workers=workers > 0,
            multiprocessing_context="spawn" if workers else None,
        )

    def __call__(self) -> None:
        """Read all batches once."""
        for _ in self._loader:
            pass
