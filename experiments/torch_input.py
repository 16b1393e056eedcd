"""The peer of the input pipeline: PyTorch's DataLoader with the transforms of torchvision.

Written with Pillow and PyTorch as torchvision has them, because torchvision pins a PyTorch of its
own. Each transform is the function of its name there, or the Lighting of PyTorch's ImageNet
examples.
"""

import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, RandomSampler

# Per channel in [0, 1] units, as every ImageNet recipe for PyTorch has them.
_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
_STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
_EIGENVALUES = torch.tensor([0.2175, 0.0188, 0.0045])
_EIGENVECTORS = torch.tensor(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """The JPEGs in a folder, augmented: (3, crop, crop) float32, normalised, and a label."""

    def __init__(self, folder: Path, crop: int) -> None:
        """List the folder."""
        self._paths = sorted(map(str, folder.glob("*.jpg")))
        self._crop = crop

    def __len__(self) -> int:
        """How many files."""
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """A file decoded and augmented, and its label."""
        with open(self._paths[index], "rb") as file:
            picture = Image.open(file).convert("RGB")
        left = random.randint(0, picture.width - self._crop)  # RandomCrop
        top = random.randint(0, picture.height - self._crop)
        picture = picture.crop((left, top, left + self._crop, top + self._crop))
        if random.random() < 0.5:  # RandomHorizontalFlip
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()  # ToTensor
        image = pixels.to(torch.float32).div(255)
        alpha = torch.normal(0.0, 0.1, (3,))  # Lighting
        image = image.add((_EIGENVECTORS * alpha * _EIGENVALUES).sum(1).view(3, 1, 1))
        return image.sub_(_MEAN).div_(_STD), index % 2  # Normalize


class Loader:
    """Takes so many shuffled batches and throws them away; its workers live on between calls."""

    def __init__(
        self, folder: Path, *, crop: int, batch_size: int, batches: int, workers: int
    ) -> None:
        """Workers start with the first call; forked ones would inherit the threads of others."""
        pictures = Pictures(folder, crop)
        self._loader = DataLoader(
            pictures,
            batch_size=batch_size,
            sampler=RandomSampler(pictures, replacement=True, num_samples=batches * batch_size),
            num_workers=workers,
            persistent_workers=workers > 0,
            multiprocessing_context="spawn" if workers else None,
        )

    def __call__(self) -> None:
        """All batches once."""
        for _ in self._loader:
            pass
