"""The tables of docs/scaling.md about kernels: what long attention and scans take of a TPU chip.

    python docs/make_kernels.py attention|ssd|recurrences [--chip=v5e|v6e]

Needs scanmax[tpu-compile].

All is compiled for one chip, nothing is run. Temporaries are the compiler's. Its bytes count a
loop's body and a kernel's operands once, so that those of a table are made of the blocks: of
attention in XLA, one block of queries and keys compiled alone, times the blocks that causality
leaves; of the kernels, what each step of their grid fetches and writes.
"""

import argparse
import functools
import importlib.metadata

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from scanmax import ops
from scanmax.ops.attention.dot_product import chunks_of
from scanmax.ops.attention.pallas import _block
from scanmax.ops.scan import pallas as scan_kernel
from scanmax.ops.scan.kernel_chunks import channels_kernel, delta_rule_kernel, selective_kernel
from scanmax.train.pod import topology_devices

SHAPES = {"v5e": "v5e:2x2", "v6e": "v6e:2x2"}
# Attention of Llama-3.2-1B: query heads, key heads, width of a head.
HEADS = (32, 8, 64)
# Mamba-2's 780m: heads, groups, width of a head, of a state.
SSD = (48, 1, 64, 128)
CHUNK = 128
MIB, GIB = 2**20, 2**30


def compiled(mesh, function, shapes):
    """The compiled program of arrays of those (shape, dtype)."""
    whole = NamedSharding(mesh, PartitionSpec())
    arrays = [jax.ShapeDtypeStruct(*shape, sharding=whole) for shape in shapes]
    with jax.set_mesh(mesh):
        return jax.jit(function).lower(*arrays).compile()


def scratch(program) -> float:
    """MiB beside arguments and results."""
    return program.memory_analysis().temp_size_in_bytes / MIB


def pair(numbers) -> str:
    """Two figures of a cell."""
    return ", ".join(f"{x:,.2f}" if x < 10 else f"{x:,.0f}" for x in numbers)


def with_gradients(function):
    """function of arrays and its output's gradients -> outputs and gradients."""

    def both(arrays, gradients):
        y, pull = jax.vjp(function, *arrays)
        return y, pull(gradients)

    return both


def attention_programs(mesh, B, T, **options):
    """Forward pass, and forward and backward pass, of causal attention in bfloat16."""
    H, G, K = HEADS
    query, key = ((B, T, H, K), jnp.bfloat16), ((B, T, G, K), jnp.bfloat16)
    call = functools.partial(ops.dot_product_attention, is_causal=True, **options)
    both = with_gradients(call)
    arrays = (query, key, key)
    yield compiled(mesh, call, arrays)
    yield compiled(mesh, lambda q, k, v, d_y: both((q, k, v), d_y), (*arrays, query))


def kernel_bytes(B, T):
    """What the grid of the attention kernel moves: (forward, forward and backward)."""
    H, _, K = HEADS
    block = _block(T)
    blocks = T // block
    pairs = blocks * (blocks + 1) // 2
    width = K + -K % 128  # as arrays lie in memory
    rows, part = 2 * T * width, 2 * block * width  # bytes of a head's rows, of a block of them
    number = 4 * 128 * T  # statistics stand 128 wide
    forward = 2 * rows + pairs * 2 * part + number
    d_query = 3 * rows + pairs * 2 * part + 2 * 4 * T
    d_key = 4 * rows + pairs * (2 * part + 2 * 4 * 8 * block)
    return B * H * (forward - number), B * H * (forward + d_query + d_key)


def attention(mesh) -> None:
    """Prints the table of attention."""
    print(
        "| T | rows | kernel: MiB of scratch | GiB moved | blocks in XLA: MiB of scratch "
        "| GiB moved |\n" + "| --- " * 6 + "|"
    )
    for T in (2048, 8192, 32768):
        for B in (1, 4):
            H, G, K = HEADS
            shapes = (jax.ShapeDtypeStruct((B, T, n, K), jnp.bfloat16) for n in (H, G))
            with jax.set_mesh(mesh):
                chunks = chunks_of(None, *shapes)
            pairs = sum(
                (min(T, (i + 1) * chunks[0]) - 1) // chunks[1] + 1
                for i in range(-(-T // chunks[0]))
            )
            ours = attention_programs(mesh, B, T, implementation="pallas")
            theirs = attention_programs(mesh, B, T, form="chunked")
            one = attention_programs(mesh, B, chunks[0], form="chunked", chunk_size=chunks)
            cells = (
                map(scratch, ours),
                (count / GIB for count in kernel_bytes(B, T)),
                map(scratch, theirs),
                (pairs * p.cost_analysis()["bytes accessed"] / GIB for p in one),
            )
            print(f"| {T:,} | {B} | " + " | ".join(map(pair, cells)) + " |", flush=True)


def ssd_programs(mesh, B, T, **options):
    """Forward pass, and forward and backward pass, of the state-space duality in bfloat16."""
    H, G, P, N = SSD
    x, dt = ((B, T, H, P), jnp.bfloat16), ((B, T, H), jnp.float32)
    BC, A = ((B, T, G, N), jnp.bfloat16), ((H,), jnp.float32)
    call = functools.partial(ops.ssd, chunk_size=CHUNK, **options)
    both = with_gradients(call)
    arrays = (x, dt, A, BC, BC)
    yield compiled(mesh, call, arrays)
    yield compiled(mesh, lambda *a: both(a[:-1], a[-1]), (*arrays, x))


def ssd(mesh) -> None:
    """Prints the table of the state-space duality."""
    H, G, P, N = SSD
    print(
        "| T | rows | kernel: MiB of scratch | GiB moved | XLA: MiB of scratch | GiB moved |\n"
        + "| --- " * 6
        + "|"
    )
    # programs that share a group each fetch its B and C, and write gradients of their own
    again = H // G // scan_kernel.heads_per_program(H, G) - 1
    for T in (2048, 8192, 32768):
        for B in (1, 4):
            ours, theirs = (
                list(ssd_programs(mesh, B, T, implementation=name)) for name in ("pallas", "xla")
            )
            fetched = 2 * 2 * B * T * G * N * again
            moved = [
                (program.cost_analysis()["bytes accessed"] + passes * fetched) / GIB
                for program, passes in zip(ours, (1, 2))
            ]
            one = ssd_programs(mesh, B, CHUNK)
            chunks = [T / CHUNK * p.cost_analysis()["bytes accessed"] / GIB for p in one]
            cells = (map(scratch, ours), moved, map(scratch, theirs), chunks)
            print(f"| {T:,} | {B} | " + " | ".join(map(pair, cells)) + " |", flush=True)
    used = scan_kernel.vmem_bytes(H, G, N, P, CHUNK, jnp.bfloat16)
    print("\n" + ", ".join(f"{way}: {size / MIB:.1f} MiB of VMEM" for way, size in used.items()))


def recurrence_cases(T):
    """Name -> op of (kernel, arrays, state) and the arrays, at the sizes of published models."""
    half, single = jnp.bfloat16, jnp.float32
    # Gated DeltaNet 1.3B: 8 heads, keys of 256, values of 512
    H, K, V = 8, 256, 512
    pairs = [((1, T, H, K), half), ((1, T, H, K), half), ((1, T, H, V), half)]
    gates = [((1, T, H), single)] * 2
    yield (
        "delta_rule",
        lambda q, k, v, b, a, **o: ops.delta_rule(q, k, v, b, log_decay=a, **o),
        [*pairs, *gates],
    )
    # GLA 1.3B: 4 heads, keys of 256, values of 512
    H = 4
    pairs = [((1, T, H, K), half), ((1, T, H, K), half), ((1, T, H, V), half)]
    yield (
        "linear_attention, a decay per channel",
        lambda q, k, v, a, **o: ops.linear_attention(q, k, v, log_decay=a, **o),
        [*pairs, ((1, T, H, K), single)],
    )
    # RWKV-6 1.6B: 32 heads of 64
    heads = (1, T, 32, 64)
    yield "wkv6", ops.wkv6, [(heads, half)] * 3 + [(heads, single), ((32, 64), single)]
    # Mamba 790m: 3072 channels of 16 states
    x, state = (1, T, 3072), (1, T, 16)
    arrays = [(x, half), (x, half), ((3072, 16), single), (state, half), (state, half)]
    yield "selective_scan", ops.selective_scan, arrays


def recurrences(mesh) -> None:
    """Prints the table of recurrences whose kernels come of one chunk's equation."""
    print("| op | T | kernel: MiB of scratch | XLA, in chunks: MiB of scratch |")
    print("| --- | --- | --- | --- |")
    for T in (2048, 8192):
        for name, call, arrays in recurrence_cases(T):
            cells = []
            for options in ({"implementation": "pallas"}, {"form": "chunked"}):
                run = functools.partial(call, **options)
                both = with_gradients(run)
                y = jax.eval_shape(run, *(jax.ShapeDtypeStruct(*x) for x in arrays))
                programs = (
                    compiled(mesh, run, arrays),
                    compiled(
                        mesh, lambda *a, f=both: f(a[:-1], a[-1]), [*arrays, (y.shape, y.dtype)]
                    ),
                )
                cells.append(pair(map(scratch, programs)))
            print(f"| `{name}` | {T:,} | {cells[0]} | {cells[1]} |", flush=True)
    print()
    for kernel, arrays, state in (
        (delta_rule_kernel(None), [(8, 256), (8, 256), (8, 512), (8,), (8,)], (8, 256, 512)),
        (channels_kernel(True, None), [(4, 256), (4, 256), (4, 512), (4, 256)], (4, 256, 512)),
        (selective_kernel(), [(6, 512), (6, 512), (1, 16), (1, 16), (6,), None], (6, 16, 512)),
    ):
        shapes = [
            jax.ShapeDtypeStruct((1, *state), jnp.float32)
            if x is None
            else jax.ShapeDtypeStruct((1, x[0], kernel.chunk_size, *x[1:]), jnp.float32)
            for x in arrays
        ]
        held = jax.ShapeDtypeStruct((1, *state), jnp.float32)
        used = kernel.vmem_bytes(shapes, held, jnp.float32)
        told = ", ".join(f"{way} {size / MIB:.1f}" for way, size in used.items())
        print(f"{kernel.name}: MiB of VMEM {told}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", choices=("attention", "ssd", "recurrences"))
    parser.add_argument("--chip", choices=SHAPES, default="v5e")
    options = parser.parse_args()
    device = topology_devices(SHAPES[options.chip])[:1]
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=device)
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "libtpu")]
    print(f"{options.chip}, {', '.join(versions)}; forward, forward and backward\n")
    {"attention": attention, "ssd": ssd, "recurrences": recurrences}[options.table](mesh)


if __name__ == "__main__":
    main()
