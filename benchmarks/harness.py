"""Measures an operation against its peers, alternately, in one process, after checking it.

A benchmark is a generator of rows; each row names our contender and its peers. To add one, write
it into any module of this folder:

    import jax, jax.numpy as jnp
    from benchmarks.harness import Row, benchmark, jax_contender, torch_contender
    from scanmax import ops

    @benchmark("softmax")
    def softmax(quick):
        \"\"\"ops.softmax against jax.nn and torch.\"\"\"
        import torch                                    # peers are imported when the case runs
        for width in (256,) if quick else (256, 4096):
            x = jax.random.normal(jax.random.key(0), (64, width))
            x_torch = to_torch(x)
            yield Row(
                f"64 x {width}, forward",
                ours=jax_contender("scanmax", ops.softmax, x),
                peers=[
                    jax_contender("jax.nn", jax.nn.softmax, x),
                    torch_contender("torch", lambda: torch.softmax(x_torch, -1)),
                ],
                tolerance=1e-5,                         # relative RMS against the first peer
            )

The first peer is the reference unless `reference=` gives arrays (or None where there is nothing to
compare). Contenders whose layout differs give `result=`, which maps their output to ours. A row
whose result is wrong is reported as wrong, without a speed, and the run fails.

Figures: `median` and `spread` (half the interquartile range) of the iterations, each timed behind
a call of its own; `speedup` is the
median over iterations of (time of the peer / time of ours); `compile` is trace, lowering and XLA
without caches; `memory` is the peak beyond the inputs. For JAX it is what XLA says of temporaries
and outputs, or, on a CPU, how far the process grew in a call, the least of three, where that is
more: fused products keep scratch memory that XLA's figure leaves out (the matrix of plain
attention, for one). For torch it is the peak of its allocator.
"""

import contextlib
import csv
import ctypes
import dataclasses
import datetime
import functools
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

REGISTRY: dict[str, Callable[[bool], Iterator["Row"]]] = {}
# Names for several cases, each of which has its own too.
GROUPS: dict[str, list[str]] = {}
COLUMNS = (
    *("case", "row", "contender", "median_ms", "spread_ms", "iterations", "speedup", "error"),
    *("compile_s", "memory_mib", "device", "threads", "versions", "commit", "date"),
)


@dataclasses.dataclass
class Contender:
    """One way to do a row's work.

    Args:
      name: shown in the table.
      prepare: compiles; returns a function that does the work once and blocks until it is done.
      result: maps that function's output to a tree of arrays comparable with the others'.
      memory: peak bytes beyond the inputs of one call, or None; called after `prepare`.
    """

    name: str
    prepare: Callable[[], Callable[[], Any]]
    result: Callable[[Any], Any] = lambda output: output
    memory: Callable[[], int | None] = lambda: None
    compiles: bool = False


@dataclasses.dataclass
class Row:
    """One line of a benchmark: our contender against its peers on one shape.

    Args:
      label: names the shape and pass.
      ours: our contender.
      peers: the others.
      tolerance: relative RMS that every leaf of every contender must keep to the reference.
      reference: tree of arrays; by default the first peer's result. None checks nothing but
        finiteness: for peers that compute something else at the same cost.
      clock: what times a call; time.process_time for work of one core that waits for nothing.
    """

    label: str
    ours: Contender
    peers: Sequence[Contender] = ()
    tolerance: float = 1e-4
    reference: Any = "first peer"
    clock: Callable[[], float] = time.perf_counter


def benchmark(name: str, *, group: str = "") -> Callable:
    """Registers a generator function `rows(quick: bool)` as the case `name`, one of a group."""

    def register(rows):
        REGISTRY[name] = rows
        if group:
            GROUPS.setdefault(group, []).append(name)
        return rows

    return register


def jax_contender(
    name: str, function: Callable, *args, result: Callable = lambda output: output
) -> Contender:
    """A function of arrays, compiled ahead for `args`, which are on the device before it runs."""
    compiled = None

    def run():
        return jax.block_until_ready(compiled(*args))

    def prepare():
        nonlocal args, compiled
        args = jax.device_put(args)
        # A fresh function object: neither the trace cache nor the disk cache may serve it.
        compiled = jax.jit(lambda *a: function(*a)).lower(*args).compile()
        return run

    def memory():
        analysis = compiled.memory_analysis()
        known = analysis and analysis.temp_size_in_bytes + analysis.output_size_in_bytes
        if jax.devices()[0].platform != "cpu":
            return known
        return max((x for x in (known, least_growth(run)) if x is not None), default=None)

    return Contender(name, prepare, result, memory, compiles=True)


def resident_growth(call: Callable[[], Any]) -> int | None:
    """How far the resident memory of the process rises above its start; None but on Linux."""
    status, reset = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")

    def kibibytes(field):
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field))

    try:
        # pages that the allocator still holds would be used again without showing
        ctypes.CDLL(None).malloc_trim(0)
        reset.write_text("5")  # the high-water mark starts anew
        before = kibibytes("VmRSS:")
        call()
        return 1024 * max(kibibytes("VmHWM:") - before, 0)
    except (OSError, AttributeError, StopIteration):
        return None


def least_growth(call: Callable[[], Any]) -> int | None:
    """The least of three growths (one where a call takes more than a second).

    What others left to the allocator may fall due in any one call: plain equations of 6 MiB were
    seen to grow by 10 in their first call and by less than one in each further one.
    """
    start = time.perf_counter()
    growths = [resident_growth(call)]
    if time.perf_counter() - start < 1 and growths[0] is not None:
        growths += [resident_growth(call) for _ in range(2)]
        return min(growths)
    return growths[0]


def torch_contender(
    name: str, function: Callable[[], Any], *, result: Callable = lambda output: output
) -> Contender:
    """A function without arguments, run eagerly by torch on the CPU."""

    def memory():
        import torch

        with (
            _quiet_stderr(),
            torch.profiler.profile(
                activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
            ) as profile,
        ):
            function()
        held = peak = 0
        for event in profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                peak = max(peak, held)
        return peak

    return Contender(name, lambda: function, result, memory)


@contextlib.contextmanager
def _quiet_stderr():
    """Keeps what C++ libraries write to stderr off the table."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def to_torch(array):
    """A torch copy of an array."""
    import torch

    return torch.from_numpy(np.array(array))


def _leaves(tree) -> list[np.ndarray]:
    def as_numpy(leaf):
        if hasattr(leaf, "detach"):
            leaf = leaf.detach().float().cpu().numpy()
        return np.asarray(leaf, np.float64)

    return [as_numpy(leaf) for leaf in jax.tree.leaves(tree)]


def relative_error(actual, expected) -> float:
    """The largest relative RMS difference over the leaves of two trees; inf where shapes differ."""
    pairs = list(zip(_leaves(actual), _leaves(expected)))
    if len(pairs) != len(_leaves(actual)) or any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    errors = [
        np.linalg.norm((a - b).ravel()) / max(np.linalg.norm(b.ravel()), 1e-30) for a, b in pairs
    ]
    return float(np.max(errors)) if np.all(np.isfinite(errors)) else float("inf")


def _reference(row: Row, outputs: dict[str, Any]):
    if not isinstance(row.reference, str):
        return row.reference
    return outputs[row.peers[0].name] if row.peers else None


def measure(row: Row, *, seconds: float, quick: bool) -> list[dict[str, Any]]:
    """Checks a row, then times its contenders in turn; one record per contender.

    A contender that misses the tolerance gets a record with its error and no speed, and ends the
    row: nothing of it is timed.
    """
    contenders = [row.ours, *row.peers]
    calls, outputs, records = {}, {}, {}
    for contender in contenders:
        start = time.perf_counter()
        calls[contender.name] = contender.prepare()
        took = time.perf_counter() - start
        outputs[contender.name] = contender.result(calls[contender.name]())
        records[contender.name] = {
            "row": row.label,
            "contender": contender.name,
            "compile_s": took if contender.compiles else None,
        }
    expected = _reference(row, outputs)
    wrong = False
    for name, output in outputs.items():
        if expected is None:
            finite = all(np.all(np.isfinite(leaf)) for leaf in _leaves(output))
            error = None if finite else float("inf")
        else:
            error = relative_error(output, expected)
        records[name]["error"] = error
        wrong |= error is not None and not error <= row.tolerance
    if wrong:
        return [record | {"wrong": True} for record in records.values()]
    del outputs, expected
    times = _alternate(calls, seconds, quick, row.clock)
    ours = times[row.ours.name]
    for contender in contenders:
        own = times[contender.name]
        quartiles = statistics.quantiles(own, n=4) if len(own) > 1 else [own[0]] * 3
        memory = contender.memory()
        records[contender.name] |= {
            "median_ms": 1e3 * statistics.median(own),
            "spread_ms": 1e3 * (quartiles[2] - quartiles[0]) / 2,
            "iterations": len(own),
            "speedup": None
            if contender is row.ours
            else statistics.median(theirs / mine for theirs, mine in zip(own, ours)),
            "memory_mib": None if memory is None else memory / 2**20,
        }
    return list(records.values())


def _alternate(
    calls, seconds: float, quick: bool, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Times the calls in turn until the budget is spent.

    At most 100 rounds, at least 5, or 2 where a round takes more than ten seconds.

    A call of up to a second is made twice, and timed the second time: what the contender before it
    has done to caches and to the allocator is not its own cost. (Behind one that had freed a
    gigabyte, a convolution of 3 ms took 30.)
    """

    def timed(call):
        start = clock()
        call()
        return clock() - start

    # The first round tells how many fit.
    once = {name: timed(call) for name, call in calls.items()}
    whole = sum(once.values())
    rounds = 2 if quick else int(min(max(seconds / 2 / whole, 5 if whole < 10 else 2), 100))
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            if once[name] < 1:
                call()
            times[name].append(timed(call))
    return times


@functools.cache
def provenance() -> dict[str, Any]:
    """Device, threads, versions, commit and date, as they go into every record."""
    root = pathlib.Path(__file__).resolve().parent.parent

    def git(*arguments):
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    versions = [f"python {platform.python_version()}"]
    for package in ("jax", "flax", "torch", "timm", "transformers"):
        if importlib.util.find_spec(package):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    changed = "+" if git("status", "--porcelain", "--untracked-files=no") else ""
    return {
        "device": _device(),
        "threads": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "versions": "; ".join(versions),
        "commit": (git("rev-parse", "--short", "HEAD") or "unknown") + changed,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    }


def _device() -> str:
    device = jax.devices()[0]
    if device.platform != "cpu":
        return device.device_kind
    info = pathlib.Path("/proc/cpuinfo")
    names = [
        line.split(":", 1)[1].strip()
        for line in (info.read_text().splitlines() if info.exists() else ())
        if line.startswith("model name")
    ]
    return f"CPU {names[0] if names else platform.processor()}"


def print_row(records: Sequence[dict[str, Any]], file=sys.stdout) -> None:
    """One line per contender; a wrong row says so instead of a speed."""
    print(f"  {records[0]['row']}", file=file)
    for record in records:
        if record.get("wrong"):
            print(f"    {record['contender']:<28} WRONG ROW, error {record['error']}", file=file)
            continue
        speedup = "" if record["speedup"] is None else f"{record['speedup']:.2f}x"
        compiled = "" if record["compile_s"] is None else f"{record['compile_s']:.2f} s compile"
        memory = "" if record["memory_mib"] is None else f"{record['memory_mib']:.1f} MiB"
        print(
            f"    {record['contender']:<28}{record['median_ms']:>10.2f} ms"
            f" ±{record['spread_ms']:<8.2f}{speedup:>9}{memory:>14}{compiled:>18}",
            file=file,
        )
    file.flush()


def run(cases: Sequence[str], *, seconds: float, quick: bool, path: pathlib.Path) -> bool:
    """Runs cases, prints and writes CSV row by row; True when every row was right."""
    jax.config.update("jax_enable_compilation_cache", False)
    right = True
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for case in cases:
            print(f"{case}: {(REGISTRY[case].__doc__ or '').strip().splitlines()[0]}", flush=True)
            for row in REGISTRY[case](quick):
                records = measure(row, seconds=seconds, quick=quick)
                right &= not any(record.get("wrong") for record in records)
                print_row(records)
                for record in records:
                    writer.writerow({"case": case} | record | provenance())
                file.flush()
    print("  ".join(f"{key}: {value}" for key, value in provenance().items()))
    print(f"written: {path}")
    return right
