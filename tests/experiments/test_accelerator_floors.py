"""The floors of training steps on accelerators, and the rates from which they are computed."""

import pytest

from alexnet_jax.config import Config, with_changes
from configs import alexnet, resnet
from experiments.benchmark.accelerator import floors
from experiments.benchmark.accelerator.rates import Rates, find_peak_tflops, find_rates


def paper(batch: int = 128, dtype: str = "bfloat16") -> Config:
    """The paper's config."""
    changes = {"model.num_classes": 1000, "batch_size": batch, "compute_dtype": dtype}
    return with_changes(alexnet.get_config(), changes)


def test_operations_are_counted_as_the_formula_says() -> None:
    """Catches: multiply-adds counted once, or a gradient for the images, in the count from the
    layers' sizes or in that from the traced model."""
    conv1 = 55 * 55 * 34_848  # pixels of its output × weights, and so on
    convolutions = conv1 + 27 * 27 * 307_200 + 13 * 13 * (884_736 + 663_552 + 442_368)
    dense = 37_748_736 + 16_777_216 + 4_096_000
    expected = 6 * (convolutions + dense) - 2 * conv1
    assert floors.count_step_operations(paper()) == expected
    products = floors.list_products(paper())
    assert [product.takes_images for product in products].count(True) == 1
    assert expected == sum(p.operations * (2 if p.takes_images else 3) for p in products)


@pytest.mark.parametrize(("batch", "milliseconds"), [(128, 1.661), (1024, 9.33)])
def test_the_floor_of_the_papers_model(batch: int, milliseconds: float) -> None:
    """Catches: a pass left out or counted twice. The expected times were added up by hand, part by
    part, for 800 TFLOP/s and 3.0 TB/s, with padded images and the draws of dropout, 1 to 2 %."""
    seconds = floors.compute_floor(paper(batch), Rates(800e12, 3.0e12))
    assert seconds * 1000 == pytest.approx(milliseconds, rel=0.02)
    assert seconds * 1000 < milliseconds


def test_the_floor_of_a_product() -> None:
    """Catches: operations and bytes added rather than compared, weights counted for each image, a
    third pass for the images, and numbers of another width."""
    product = floors.Product(operations=10, inputs=2, outputs=3, weights=4, takes_images=False)
    fast = Rates(operations=1e9, bytes=1)
    assert floors._product_seconds(product, 8, 2, fast) == 3 * (8 * 5 + 4) * 2
    slow = Rates(operations=1, bytes=1e9)
    assert floors._product_seconds(product, 8, 2, slow) == 3 * 80
    first = floors.Product(operations=10, inputs=2, outputs=3, weights=4, takes_images=True)
    assert floors._product_seconds(first, 8, 2, slow) == 2 * 80


def test_floors_of_other_models_and_types() -> None:
    """Catches: a floor that ignores the type of the arithmetic, or batch normalization."""
    only_bytes = Rates(1e30, 3.0e12)
    wide, narrow = (
        floors.compute_floor(paper(dtype=t), only_bytes) for t in ("float32", "bfloat16")
    )
    assert 1.5 * narrow < wide < 2 * narrow
    config = with_changes(
        resnet.get_config("cifar_plain20"), {"model.num_classes": 10, "compute_dtype": "bfloat16"}
    )
    floor = floors.compute_floor(config, Rates(800e12, 3.0e12))
    assert floor == pytest.approx(244e-6, rel=0.1)  # ResNet-20's, added up by hand


def test_peaks_and_rates() -> None:
    """Catches: a peak "with sparsity", one of another card, and float32 taken for bfloat16."""
    assert find_peak_tflops("NVIDIA H100 80GB HBM3", "bfloat16") == 989
    assert find_peak_tflops("NVIDIA H100 PCIe", "bfloat16") == 756
    assert find_peak_tflops("NVIDIA H100 NVL", "bfloat16") == 835.5
    assert find_peak_tflops("NVIDIA A100-SXM4-80GB", "float32") == 156
    assert find_peak_tflops("TPU v5 lite", "bfloat16") == 197
    assert find_peak_tflops("TPU v5", "bfloat16") == 459
    assert find_peak_tflops("cpu", "float32") is None
    assert find_rates("NVIDIA H100 80GB HBM3", "bfloat16") == Rates(800e12, 3.0e12)
    assert find_rates("NVIDIA H200", "float32") == Rates(395e12, 4.3e12)
    assert find_rates("NVIDIA H100 PCIe", "bfloat16") is None
    assert find_rates("NVIDIA H100 NVL", "bfloat16") is None
    assert find_rates("cpu", "float32") is None
