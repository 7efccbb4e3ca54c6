"""How fast a run is, and what a step costs beside its computation."""

import contextlib
import functools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from scanmax.train.build import Run

# bfloat16 operations per second of one device, dense, from the vendors' documentation; the first
# name that a device's kind starts with counts.
PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def step_flops(run: Run, multiply_adds: int) -> float:
    """Operations of a training step over all devices: forward, and twice that backward.

    The model alone counts, once for each view of an example.

    Args:
      run: the run.
      multiply_adds: of its model, for one example.
    """
    return 6.0 * multiply_adds * run.config.batch_size * run.objective.views


def peak_flops(devices: list[jax.Device]) -> float | None:
    """Operations per second of all devices together; None where the kind is not known.

    A CPU has no such figure: a float32 matrix product is timed, with all cores, whatever number of
    devices they are cut into.
    """
    kind = devices[0].device_kind
    if devices[0].platform == "cpu":
        return _matmul_rate(devices[0]) if jax.process_count() == 1 else None
    for name, peak in PEAKS.items():
        if kind.startswith(name):
            return peak * len(devices)
    return None


def peak_memory(devices: Sequence[Any]) -> float | None:
    """GiB that the fullest device has held at most; None where devices do not say, as CPUs."""
    stats = [device.memory_stats() or {} for device in devices]
    peaks = [each["peak_bytes_in_use"] for each in stats if "peak_bytes_in_use" in each]
    return max(peaks) / 2**30 if peaks else None


@functools.cache
def _matmul_rate(device: jax.Device, size: int = 1024) -> float:
    """Timed once by a process, however many runs it trains."""
    product = jax.jit(lambda x: x @ x)
    x = jax.device_put(jnp.full((size, size), 1e-3, jnp.float32), device)
    product(x).block_until_ready()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        product(x).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2.0 * size**3 / min(seconds)


def step_memory(step: Any, *arguments: Any) -> float:
    """GiB that each device holds at the peak of a step, by the compiler's own account.

    Args:
      step: the compiled training step, after its first call: nothing is compiled again.
      arguments: what it was called with, or their shapes and shardings.
    """
    found = step.lower(*arguments).compile().memory_analysis()
    held = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return (held + found.temp_size_in_bytes) / 2**30


class HostClock:
    """Time that the loop's own thread works per step, beside the call of the compiled step.

    Waiting for data or devices is no work: the thread's own clock stands still meanwhile.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forgets what has passed."""
        self._since, self._inside = time.thread_time(), 0.0

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Around the call of the compiled step, which does not count."""
        start = time.thread_time()
        yield
        self._inside += time.thread_time() - start

    def seconds(self) -> float:
        """Since the restart."""
        return time.thread_time() - self._since - self._inside


class Profile:
    """Traces the steps first to last into a folder, for TensorBoard or Perfetto."""

    def __init__(self, folder: Any, first: int, last: int):
        self._folder, self._first, self._last = folder, first, last
        self._is_on = False

    def before(self, step: int) -> None:
        """Starts at the first step."""
        if self._first <= step <= self._last and not self._is_on:
            # Tracing every Python call slows the reading threads several times, and starves steps
            # that do not wait for data otherwise.
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0
            jax.profiler.start_trace(
                str(self._folder), create_perfetto_trace=True, profiler_options=options
            )
            self._is_on = True

    def after(self, step: int, metrics: Any) -> bool:
        """Stops after the last one, whose computation is waited for; says whether it did."""
        if not self._is_on or step < self._last:
            return False
        jax.block_until_ready(metrics)
        self.close()
        return True

    def close(self) -> None:
        """Stops where it has not."""
        if self._is_on:
            jax.profiler.stop_trace()
            self._is_on = False
