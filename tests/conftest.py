"""Eight host devices for every test process; set before jax is first imported."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in flag]
os.environ["XLA_FLAGS"] = " ".join([*flags, "--xla_force_host_platform_device_count=8"])
