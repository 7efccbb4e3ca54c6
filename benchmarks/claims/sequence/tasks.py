"""Small tasks of sequences: who copies what is asked, who remembers across a pause, who adds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.claims import Finding, claim
from benchmarks.claims.conv import accuracy, digits, trained
from benchmarks.claims.language.recall import train
from scanmax.configs.digits_sequential import NETWORKS
from scanmax.data import sequence_tasks
from scanmax.models import create_model


def _finding(what: str, paper: str, share: float, holds: bool) -> Finding:
    return Finding(what, paper, f"{share:.3f}", holds)


@claim("selective-copying", paper="hidden-mamba-attention", by_hand=True)
def selective_copying(quick):
    """To copy items from among blanks takes selection: Mamba has it, a fixed filter does not."""
    steps = 10 if quick else 2000

    def draw(rng, count):
        return sequence_tasks.selective_copying(rng, count, 64, 6, 10)

    options = {"draw": draw, "vocab_size": 10, "width": 32, "learning_rate": 1e-2}
    mamba = train("mamba", {"d_state": 16}, steps, **options)(draw)
    fixed = train("long_conv", {"max_length": 128}, steps, **options)(draw)
    task = f"6 items of 8 kinds among 64 tokens, {steps} steps, width 32"
    return [
        _finding(f"items named by Mamba ({task})", "1", mamba, mamba > 0.95),
        _finding("by long convolutions", "well below", fixed, fixed < mamba - 0.2),
    ]


@claim("induction-heads", paper="zoology-mqar", by_hand=True)
def induction_heads(quick):
    """Two layers learn to look up what followed a token before, also further back than trained."""

    def draw(rng, count, length=32):
        return sequence_tasks.induction_heads(rng, count, length, 16)

    options = {"draw": draw, "vocab_size": 16, "width": 32}
    findings = []
    # with one answer a sequence, attention takes longer to find out
    attention = ("attention", {"rotary_base": 10000.0}, 2000)
    for name, fields, steps in (("mamba", {}, 500), attention):
        steps = 10 if quick else steps
        share = train(name, fields, steps, **options)
        right = share(draw)
        what = f"{name}, 32 tokens of 16 kinds, {steps} steps, width 32"
        findings.append(_finding(what, "1", right, right > 0.95))
        if name == "mamba":
            right = share(lambda rng, count: draw(rng, count, 128))
            what = "the same Mamba on 128 tokens"
            findings.append(_finding(what, "1 (up to a million)", right, right > 0.9))
    return findings


@claim("copy-memory", paper="ckconv", by_hand=True)
def copy_memory(quick):
    """Kernels as long as the sequence remember across a pause, stacks of short ones do not."""
    steps, pause = (10, 20) if quick else (500, 40)

    def draw(rng, count):
        return sequence_tasks.copy_memory(rng, count, pause, 5, 10)

    options = {"draw": draw, "vocab_size": 10, "width": 32}
    fields = {"max_length": 64, "generator_options": {"omega": 10.0, "hidden": 16}}
    long = train("ckconv", fields, steps, **options)(draw)
    short = train("base_conv", {"kernel_size": 3}, steps, **options)(draw)
    task = f"5 items of 8 kinds, {pause} blanks, {steps} steps"
    return [
        _finding(f"items named by CKConv ({task})", "1", long, long > 0.95),
        _finding("by kernels of 3 taps (chance: 0.125)", "chance", short, short < 0.2),
    ]


@claim("adding-problem", paper="ckconv", by_hand=True)
def adding_problem(quick):
    """A CKCNN adds two marked numbers of a sequence, a network of short kernels cannot."""
    steps, length = (10, 20) if quick else (600, 100)
    errors = {}
    for name, taps in (("long", None), ("short", 3)):
        kernel = {"generator": "siren", "generator_options": {"omega": 10.0, "hidden": 16}}
        fields = {"dims": (16, 16), "kernel": kernel, "kernel_size": taps, "num_classes": 1}
        # batch norm: what the released networks call layer norm reads the whole sequence, by which
        # kernels of 3 taps add two numbers too (a squared error of 0.011)
        fields["norm"] = "batch"
        model = create_model("ckcnn_98k", **fields)
        errors[name] = _regressed(model, steps, length)
    return [
        Finding(
            f"squared error of long kernels, {length} numbers, {steps} steps (to say 1: 0.167)",
            "near 0",
            f"{errors['long']:.4f}",
            errors["long"] < 0.01,
        ),
        Finding(
            "of the same network with kernels of 3 taps",
            "no better than to say 1",
            f"{errors['short']:.4f}",
            errors["short"] > 0.1,
        ),
    ]


def _regressed(model, steps: int, length: int) -> float:
    """Mean squared error after training on the adding problem."""
    rng = np.random.default_rng(0)
    variables = model.init(jax.random.key(0), jnp.zeros((1, length, 2)))
    params, stats = variables["params"], variables["batch_stats"]
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(5e-3, steps))
    )

    @jax.jit
    def step(params, stats, state, series, sums):
        def loss(params):
            variables = {"params": params, "batch_stats": stats}
            found, updates = model.apply(variables, series, train=True, mutable=["batch_stats"])
            return jnp.mean((found[:, 0] - sums) ** 2), updates["batch_stats"]

        gradients, stats = jax.grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), stats, state

    state = optimizer.init(params)
    for _ in range(steps):
        given = sequence_tasks.adding(rng, 64, length)
        params, stats, state = step(params, stats, state, *given)
    series, sums = sequence_tasks.adding(np.random.default_rng(1), 512, length)
    found = jax.jit(model.apply)({"params": params, "batch_stats": stats}, series)
    return float(np.mean((found[:, 0] - sums) ** 2))


def _digits(names, permuted: bool, quick: bool) -> dict[str, float]:
    """Held-out accuracy of networks that read the digits pixel by pixel."""
    data, held = digits()
    found = {}
    for name in names:
        kind, fields = NETWORKS[name]
        model = create_model(kind, permuted=permuted, **fields)
        variables = trained(model, data, 1 if quick else 15, 0.01)
        found[name] = accuracy(model, variables, held)
    return found


@claim("sequential-digits-families", paper="ccnn-nd", by_hand=True)
def sequential_digits_families(quick):
    """One recipe for sequences: FlexNet and CCNN classify images read pixel by pixel."""
    found = _digits(("flexnet", "ccnn"), False, quick)
    papers = {"flexnet": "99.6 % of sequential MNIST", "ccnn": "99.7 % of sequential MNIST"}
    return [
        Finding(f"held-out digits, {name}", papers[name], f"{100 * share:.1f} %", share > 0.93)
        for name, share in found.items()
    ]


@claim("permuted-digits", paper="flexconv", by_hand=True)
def permuted_digits(quick):
    """In an order drawn at random long kernels still classify digits; short ones fall behind."""
    found = _digits(("ckcnn", "flexnet", "ccnn", "short"), True, quick)
    short = found.pop("short")
    papers = {"ckcnn": "98.0 % of permuted MNIST", "flexnet": "98.7 %", "ccnn": "98.8 %"}
    findings = [
        Finding(f"held-out digits, {name}", papers[name], f"{100 * share:.1f} %", share > short)
        for name, share in found.items()
    ]
    what = "ckcnn with kernels of 3 taps"
    return [*findings, Finding(what, "worse", f"{100 * short:.1f} %", short < 0.9)]
