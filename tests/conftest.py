"""What all tests share: four simulated devices, no stray GPU, warnings as errors."""

import os

# Before JAX starts: the layouts 1×1 … 2×2 on one CPU.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

from hypothesis import settings

settings.register_profile("same every time", derandomize=True)
settings.load_profile("same every time")
