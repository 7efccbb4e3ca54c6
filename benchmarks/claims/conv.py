"""Long convolutions and generated kernels: what their papers say of cost, size and resolution."""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.claims import Finding, claim
from benchmarks.claims.slopes import slope
from scanmax import ops
from scanmax.models import create_model
from scanmax.models.mixers import create_mixer
from scanmax.models.parts.kernels import GaussianMask


@slope("fft_conv, causal")
def _causal(T):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(T, 32)).astype(np.float32) for _ in range(2)]
    return jax.jit(lambda x, kernel: ops.fft_conv(x, kernel)), arrays


@slope("fft_conv, training")
def _training(T):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(T, 32)).astype(np.float32) for _ in range(2)]
    return jax.jit(jax.grad(lambda x, k: jnp.sum(ops.fft_conv(x, k) ** 2), (0, 1))), arrays


@claim("fft-convolution", paper="long-conv-flashbutterfly")
def fft_convolution(quick):
    """A convolution as long as its input is a product of spectra, and these of small matrices."""
    T = 512 if quick else 4096
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=(T, 4)) for _ in range(2))
    expected = np.stack([np.convolve(x[:, d], kernel[:, d])[:T] for d in range(4)], -1)
    findings = []
    for form in ("fft", "monarch"):
        y = ops.fft_conv(jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32), form=form)
        error = float(np.linalg.norm(y - expected) / np.linalg.norm(expected))
        what = f"T={T}, form {form!r} against the sums, relative RMS in float32"
        findings.append(Finding(what, "equal", f"{error:.1e}", error < 1e-5))
    return findings


@claim("smt-shuffle", paper="smt")
def smt_shuffle(quick):
    """A group of SMT's aggregation sees one channel of every head, and nothing else."""
    heads, width, outputs = 4, 2 if quick else 16, 8
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(1, 1, heads * width)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(heads, width, outputs)), jnp.float32)
    jacobian = np.asarray(jax.jacobian(ops.scale_aware_aggregation)(x, kernel))
    seen = jacobian.reshape(width, outputs, heads, width) != 0
    findings = []
    for what, here, paper in (
        ("heads that an output of a group sees", seen.any(3).sum(2), heads),
        ("channels of each", seen.sum(3), 1),
    ):
        told = f"{here.min()} to {here.max()}" if here.min() < here.max() else f"{here.min()}"
        findings.append(Finding(what, f"{paper}", told, bool((here == paper).all())))
    own = bool(seen[np.arange(width), :, :, np.arange(width)].all())
    findings.append(Finding("group g sees channel g", "yes", "yes" if own else "no", own))
    return findings


@claim("sgconv-parameters", paper="sgconv")
def sgconv_parameters(quick):
    """Parameters of a multi-scale kernel grow as log L, and its weights decay over the scales."""
    counts = {}
    for length in (1024, 16384):
        mixer = create_mixer("sgconv", heads=1, is_causal=True, options={"max_length": length})
        shapes = jax.eval_shape(mixer.init, jax.random.key(0), jnp.zeros((1, 4, 8)))
        counts[length] = shapes["params"]["kernel"].value.shape[0]
    rng = np.random.default_rng(0)
    weights = jnp.asarray(rng.normal(size=(6, 256, 8)), jnp.float32)
    kernel = np.asarray(ops.sgconv_kernel(weights, length=256 * 32))
    pieces = [kernel[256 * 2**i : 256 * 2 ** (i + 1)] for i in range(1, 5)]
    sizes = np.array([np.sqrt(np.mean(piece**2)) for piece in pieces])
    ratio = float(np.exp(np.mean(np.log(sizes[1:] / sizes[:-1]))))
    return [
        Finding(
            "pieces of 64 numbers for 1024 and 16384 taps",
            "log2(L / 64) + 1",
            f"{counts[1024]} and {counts[16384]}",
            counts == {1024: 5, 16384: 9},
        ),
        Finding(
            "size of a piece over the one before", "1/2", f"{ratio:.2f}", abs(ratio - 0.5) < 0.05
        ),
    ]


@claim("smpconv-points", paper="smpconv")
def smpconv_points(quick):
    """Points of one cell's radius, one per tap, make any kernel; fewer, wider ones interpolate."""
    rng = np.random.default_rng(0)
    dense = jnp.asarray(rng.normal(size=(25, 3)), jnp.float32)
    grid = jnp.stack(jnp.meshgrid(*[jnp.linspace(-1, 1, 5)] * 2, indexing="ij"), -1)
    kernel = ops.point_kernel(grid, grid.reshape(-1, 2), jnp.full(25, 0.5), dense)
    error = float(jnp.abs(kernel.reshape(25, 3) - dense).max())
    return [Finding("difference from 25 given taps", "0", f"{error:.1e}", error < 1e-5)]


@claim("flexconv-size", paper="flexconv")
def flexconv_size(quick):
    """The width of the Gaussian mask is learned: by gradient descent it finds that of a target."""
    places = jnp.linspace(-1, 1, 33)[:, None]
    x = jax.random.normal(jax.random.key(0), (4, 64, 1))
    target = jnp.exp(-0.5 * (places / 0.35) ** 2)
    expected = ops.fft_conv(x, target, mode="bidirectional")
    mask = GaussianMask(threshold=0.0, learn_mean=False)
    optimizer = optax.adam(0.01)

    def loss(variables):
        kernel, _ = mask.apply(variables, places)
        return jnp.mean((ops.fft_conv(x, kernel, mode="bidirectional") - expected) ** 2)

    @jax.jit
    def train(variables):
        def step(carry, _):
            variables, state = carry
            updates, state = optimizer.update(jax.grad(loss)(variables), state)
            return (optax.apply_updates(variables, updates), state), None

        start = (variables, optimizer.init(variables))
        return jax.lax.scan(step, start, length=200)[0][0]

    variables = train(mask.init(jax.random.key(1), places))
    sigma = float(jax.tree.leaves(variables)[0][0])
    what = "learned width, from 0.075, of a target of 0.35"
    return [Finding(what, "recovered", f"{sigma:.3f}", abs(sigma - 0.35) < 0.01)]


@claim("one-way-wave", paper="a-priori-1way-conv")
def one_way_wave(quick):
    """One-way filters take the next step of a wave equation as a dense convolution does."""
    rng, side = np.random.default_rng(0), 16
    spectrum = np.fft.rfft2(rng.normal(size=(48, side, side)))
    spectrum *= np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)) < 0.2
    before = now = np.fft.irfft2(spectrum, s=(side, side))
    padded = np.pad(now, ((0, 0), (1, 1), (1, 1)))
    laplace = sum(np.roll(padded, shift, axis) for shift in (1, -1) for axis in (1, 2))
    now = before + 0.05 * (laplace - 4 * padded)[:, 1:-1, 1:-1]
    padded = np.pad(now, ((0, 0), (1, 1), (1, 1)))
    laplace = sum(np.roll(padded, shift, axis) for shift in (1, -1) for axis in (1, 2))
    after = 2 * now - before + 0.1 * (laplace - 4 * padded)[:, 1:-1, 1:-1]
    x, y = (jnp.asarray(z, jnp.float32) for z in (np.stack([before, now], -1), after[..., None]))
    keys = jax.random.split(jax.random.key(0), 5)
    shapes = ((2, 4), (3, 4), (3, 4), (4, 1))
    models = {
        "one-way": (ops.cp_conv2d, [jax.random.normal(*each) / 2 for each in zip(keys, shapes)]),
        "dense": (ops.conv2d, [jax.random.normal(keys[4], (3, 3, 2, 1)) / 4]),
    }
    errors = {}
    for name, (convolve, weights) in models.items():
        optimizer = optax.adam(optax.cosine_decay_schedule(0.03, 800))

        def loss(weights, convolve=convolve):
            return jnp.mean((convolve(x, *weights) - y) ** 2)

        @jax.jit
        def train(weights, loss=loss, optimizer=optimizer):
            def step(carry, _):
                weights, state = carry
                updates, state = optimizer.update(jax.grad(loss)(weights), state)
                return (optax.apply_updates(weights, updates), state), None

            carry = (weights, optimizer.init(weights))
            return loss(jax.lax.scan(step, carry, length=800)[0][0])

        errors[name] = float(jnp.sqrt(train(weights)) / jnp.std(y))
    mixer = create_mixer("one_way_conv", heads=1, use_bias=False)
    shapes = jax.eval_shape(mixer.init, jax.random.key(0), jnp.zeros((1, 4, 64)))
    weights = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    return [
        Finding(
            "relative error of the next step, dense kernel and four one-way products",
            "equivalent",
            f"{errors['dense']:.1e} and {errors['one-way']:.1e}",
            errors["one-way"] < 0.03,
        ),
        Finding(
            "weights of a layer of 64 channels with as many products of 3 + 3 taps, of 3 x 3 taps",
            "fewer",
            f"{weights} of {9 * 64**2}",
            weights < 9 * 64**2 / 4,
        ),
    ]


def _by_taps(x, kernel):
    return jax.lax.conv_general_dilated(
        x,
        kernel[::-1, ::-1, None],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@claim("fft-conv-kernel-size", paper="fft-conv-scaling", by_hand=True)
def fft_conv_kernel_size(quick):
    """By FFT a convolution of maps pays for map and kernel once; by taps, for their product."""
    rng, side, channels = np.random.default_rng(0), 64, 16
    x = jnp.asarray(rng.normal(size=(4, side, side, channels)), jnp.float32)
    by_fft = jax.jit(lambda x, kernel: ops.fft_conv(x, kernel, mode="bidirectional"))
    times, errors = {}, []
    for size in (5, 15, 31, 63):
        kernel = jnp.asarray(rng.normal(size=(size, size, channels)) / size, jnp.float32)
        y = {}
        for name, function in (("fft", by_fft), ("taps", jax.jit(_by_taps))):
            y[name] = function(x, kernel).block_until_ready()
            spent = []
            for _ in range(3):
                start = time.perf_counter()
                function(x, kernel).block_until_ready()
                spent.append(time.perf_counter() - start)
            times[name, size] = 1e3 * min(spent)
        errors.append(float(jnp.abs(y["fft"] - y["taps"]).max() / jnp.abs(y["taps"]).max()))
    fft, taps = ([times[name, size] for size in (5, 15, 31, 63)] for name in ("fft", "taps"))
    return [
        Finding("largest difference", "1e-5", f"{max(errors):.0e}", max(errors) < 1e-5),
        Finding(
            "ms by FFT with kernels of 5, 15, 31 and 63 a side on 64 x 64 pixels",
            "nearly the same: maps are padded by the kernel",
            ", ".join(f"{t:.0f}" for t in fft),
            fft[-1] / fft[0] < taps[-1] / taps[0] / 5,
        ),
        Finding(
            "ms by taps (XLA's convolution)",
            "more, in the end than by FFT",
            ", ".join(f"{t:.0f}" for t in taps),
            taps[-1] > 4 * taps[0] and taps[-1] > fft[-1],
        ),
    ]


@claim("gencnn-gates", paper="gencnn")
def gencnn_gates(quick):
    """Gates between neighbours learn which of two goes on; the larger of two cannot say."""
    x = jax.random.normal(jax.random.key(0), (512, 2, 2))
    # The second channel of the first token says whether the first or the second token's counts.
    target = jnp.where(x[:, 0, 1] > 0, x[:, 0, 0], x[:, 1, 0])
    optimizer = optax.adam(0.1)

    def loss(weights):
        return jnp.mean((ops.gated_pairwise_pool(x, *weights)[:, 0, 0] - target) ** 2)

    @jax.jit
    def train(weights):
        def step(carry, _):
            weights, state = carry
            updates, state = optimizer.update(jax.grad(loss)(weights), state)
            return (optax.apply_updates(weights, updates), state), None

        carry = (weights, optimizer.init(weights))
        return loss(jax.lax.scan(step, carry, length=200)[0][0])

    gated = float(train((jnp.zeros((4, 1)), jnp.zeros(1))))
    larger = float(jnp.mean((jnp.max(x, 1)[:, 0] - target) ** 2))
    return [
        Finding(
            "mean square error where a word says which of two counts, gated and by the larger",
            "gating is better",
            f"{gated:.3f} and {larger:.3f}",
            gated < larger / 5,
        )
    ]


@claim("pervasive-causality", paper="pervasive-attention")
def pervasive_causality(quick):
    """Layers over the grid of two sequences read the past of the one and all of the other."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(6, 5, 2)), jnp.float32)
    kernels = [jnp.asarray(rng.normal(size=(2, 3, 2, 2)), jnp.float32) for _ in range(4)]

    def cell(x):
        for kernel in kernels:
            x = jnp.sin(ops.causal_conv2d(x, kernel))
        return x[3, 2].sum()

    reads = np.asarray(jax.jit(jax.grad(cell))(x)).any(-1)
    return [
        Finding(
            "rows that a cell of row 3 of 6 reads through four layers of 2 x 3 taps",
            "0 to 3",
            ", ".join(str(row) for row in np.flatnonzero(reads.any(1))),
            reads.any(1).tolist() == [True] * 4 + [False] * 2,
        ),
        Finding("columns of 5", "all", str(reads.any(0).sum()), bool(reads.any(0).all())),
    ]


# The digits of scikit-learn, as pixels in a row or as small maps.


def digits():
    """((images [B, 8, 8, 1], labels) to train on, and held out)."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 8 - 1).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(images))
    held, rest = order[:360], order[360:]
    return (images[rest], labels[rest]), (images[held], labels[held])


def trained(model, data, epochs: int, rate: float, batch: int = 64) -> dict[str, Any]:
    """The variables of a model after some epochs of AdamW with a cosine schedule."""
    images, labels = data
    steps = epochs * (len(images) // batch)
    variables = model.init(jax.random.key(0), images[:1])
    params, stats = variables["params"], variables.get("batch_stats", {})
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(rate, steps))
    )
    state = optimizer.init(params)

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(params, stats, state, x, y):
        def loss(params):
            logits, updates = model.apply(
                {"params": params, "batch_stats": stats},
                x,
                train=True,
                mutable=["batch_stats", "losses"],
            )
            value = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
            value += sum(jnp.sum(leaf) for leaf in jax.tree.leaves(updates.get("losses", {})))
            return value, updates.get("batch_stats", {})

        gradients, stats = jax.grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), stats, state

    rng = np.random.default_rng(1)
    for _ in range(epochs):
        order = rng.permutation(len(images))
        for start in range(0, len(images) - batch + 1, batch):
            chosen = order[start : start + batch]
            params, stats, state = step(params, stats, state, images[chosen], labels[chosen])
    return {"params": params, "batch_stats": stats}


def accuracy(model, variables, data) -> float:
    images, labels = data
    logits = jax.jit(model.apply)(variables, images)
    return float((logits.argmax(-1) == labels).mean())


@claim("ckconv-sequential-digits", paper="ckconv", by_hand=True)
def sequential_digits(quick):
    """Kernels as long as the sequence classify images read pixel by pixel; short ones do not."""
    train, test = digits()
    fields = {"dims": (16, 16), "norm": "batch"}
    scores = {}
    for name, taps in (("long", None), ("short", 3)):
        options = {"omega": 10.0, "hidden": 16}
        kernel = {"generator": "siren", "generator_options": options}
        model = create_model("ckcnn_98k", kernel=kernel, kernel_size=taps, **fields)
        variables = trained(model, train, 1 if quick else 20, 0.01)
        scores[name] = accuracy(model, variables, test)
    return [
        Finding(
            "held-out digits, 64 pixels in a row, kernels of 64 taps",
            "99.3 % of sequential MNIST",
            f"{100 * scores['long']:.1f} %",
            scores["long"] > 0.93,
        ),
        Finding(
            "the same network with kernels of 3 taps",
            "worse",
            f"{100 * scores['short']:.1f} %",
            scores["short"] < scores["long"] - 0.02,
        ),
    ]


@claim("kernels-at-twice-the-resolution", paper="flexconv", by_hand=True)
def twice_the_resolution(quick):
    """A network trained at one resolution works at twice it, its kernels sampled more finely."""
    train, test = digits()
    large = (np.asarray(jax.image.resize(test[0], (360, 16, 16, 1), "linear")), test[1])
    scores = {}
    # 7 taps carry 1.5 periods per unit; between them a kernel of faster sines is anything
    for omega in (1.0, 3.0, 10.0):
        kernel = {
            "generator": "siren",
            "generator_options": {"omega": omega, "hidden": 16},
            "mask": True,
            "mask_options": {"sigma": 0.5},
        }
        model = create_model("ccnn_4_140", dims=(24, 24), kernel_size=7, kernel=kernel)
        variables = trained(model, train, 1 if quick else 15, 0.01)
        finer = model.clone(kernel={**kernel, "resolution": 2.0})
        scores[omega] = (
            accuracy(model, variables, test),
            accuracy(finer, variables, large),
            accuracy(model, variables, large),
        )
    findings = []
    for omega, (here, there, _) in scores.items():
        findings.append(
            Finding(
                f"held-out digits, omega={omega:g}: at 8 x 8 as trained, at 16 x 16 with kernels "
                "sampled twice as finely",
                "nearly as good" if omega == 1 else "falls with the kernel's frequencies",
                f"{100 * here:.1f} %, {100 * there:.1f} %",
                there > here - 0.05 if omega == 1 else there < scores[1.0][1],
            )
        )
    here, there, unchanged = scores[1.0]
    findings.append(
        Finding(
            "omega=1, at 16 x 16 with the taps as trained",
            "much worse",
            f"{100 * unchanged:.1f} %",
            unchanged < there - 0.1,
        )
    )
    return findings


def terminator_and_residual() -> dict[str, tuple[str, dict[str, Any]]]:
    """Of both networks the registered name and the fields that make them small, equally so."""
    slow = {
        "dims": (12, 24, 48),
        "earlier": ((), (), (2,)),
        "img_size": 8,
        "slow_hidden_dim": 16,
        "slow_layers": (2, 1, 1),
        "local_hidden_dim": 8,
        "local_layers": 1,
        "local_sizes": (3, 3, 3, 3),
        "channel_hidden_dim": 8,
        "gate_hidden_dims": (8, 16),
        "gate_layers": 1,
        "block_dropout_rate": 0.0,
    }
    residual = {
        "dims": (16, 24, 40),
        "depths": (1, 1, 1),
        "stem_dims": (16,),
        "stem_size": 3,
        "stem_stride": 1,
        "stem_pool": False,
    }
    return {"Terminator": ("terminator_cifar10", slow), "residual": ("resnet18", residual)}


@claim("terminator-digits", paper="hyperzzw-terminator", by_hand=True)
def terminator_digits(quick):
    """Without residuals, by kernels that a slow network makes, it learns sooner than a ResNet."""
    from benchmarks.claims.learning import curves, mean
    from benchmarks.claims.together import told
    from scanmax.configs import digits_zoo

    found, counts = {}, {}
    epochs = 2 if quick else 8
    for kind, (name, fields) in terminator_and_residual().items():
        model = create_model(name, 10, **fields)
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
        counts[kind] = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
        config = digits_zoo.get_config(name)
        config.model.kwargs, config.data.image_size = fields, 8
        config.data.augment.translate = 0.5
        config.schedule.warmup = "1 epoch"
        config.duration, config.eval_every, config.batch_size = f"{epochs} epochs", "2 epochs", 64
        _, found[kind] = curves(config, f"terminator-{kind}", "accuracy")
    own, other = ([list(scores) for scores in zip(*seeds)] for seeds in found.values())
    return [
        Finding(
            f"held-out digits {when} of {epochs} epochs, seeds 0 to 2, "
            f"{counts['Terminator']:,} parameters against {counts['residual']:,}",
            "above the residual network",
            f"{told(own[place])}; residual {told(other[place])}",
            mean(own[place]) > mean(other[place]),
        )
        for when, place in (("after 2", 0), ("at the end", -1))
    ]
