"""RWKV, modal state spaces and the language models of Mamba against torch and naive forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

import scanmax
from benchmarks.harness import Row, benchmark, jax_contender, to_torch, torch_contender
from benchmarks.peers import import_peer
from scanmax import ops
from scanmax.models.weights import load_weights

RNG = np.random.default_rng(0)


def _training(function):
    """The output and the gradient of every argument for a given cotangent."""

    def value_and_gradients(cotangent, *arguments):
        y, pullback = jax.vjp(function, *arguments)
        return y, *pullback(cotangent)

    return value_and_gradients


def _both(title, ours, peers, arguments, tolerance):
    """Rows of the forward pass and of training; peers: name -> (function, on torch tensors)."""
    cotangent = RNG.normal(size=jax.eval_shape(ours, *arguments).shape).astype(np.float32)

    def contender(name, training):
        function, on_torch = peers[name]
        if not on_torch:
            if training:
                return jax_contender(name, _training(function), cotangent, *arguments)
            return jax_contender(name, function, *arguments)
        import torch

        tensors = [to_torch(x).requires_grad_() for x in arguments]

        def forward():
            with torch.no_grad():
                return function(*tensors)

        def train():
            y = function(*tensors)
            return y, *torch.autograd.grad(y, tensors, to_torch(cotangent))

        return torch_contender(name, train if training else forward)

    yield Row(
        f"{title}, forward",
        jax_contender("scanmax", ours, *arguments),
        [contender(name, False) for name in peers],
        tolerance=tolerance,
    )
    yield Row(
        f"{title}, training",
        jax_contender("scanmax", _training(ours), cotangent, *arguments),
        [contender(name, True) for name in peers],
        tolerance=10 * tolerance,
    )


@benchmark("wkv")
def wkv(quick: bool):
    """ops.wkv against transformers' RWKV, token by token, causal, and the dense matrix, float32."""
    rwkv = import_peer("transformers.models.rwkv.modeling_rwkv")

    def peer(key, value, rate, bonus):
        return rwkv.rwkv_linear_attention_cpu(rate, bonus, key, value)[0]

    def ours(key, value, rate, bonus):
        return ops.wkv(key, value, -jnp.exp(rate), bonus)

    for length in (64,) if quick else (1024, 4096):
        arguments = [RNG.normal(size=(1, length, 384)) for _ in range(2)]
        arguments += [RNG.normal(size=384) for _ in range(2)]
        arguments = [x.astype(np.float32) for x in arguments]
        peers = {"transformers rwkv": (peer, True)}
        yield from _both(f"T={length}, 384 channels, causal", ours, peers, arguments, 1e-4)

    def dense(key, value, rate, bonus):
        matrix = ops.wkv_matrix(key, -jnp.exp(rate), bonus, is_causal=False)
        return jnp.einsum("bdts,bsd->btd", matrix, value)

    def both_ways(key, value, rate, bonus):
        return ops.wkv(key, value, -jnp.exp(rate), bonus, is_causal=False)

    length = 64 if quick else 1024
    arguments = [RNG.normal(size=(1, length, 32)) for _ in range(2)]
    arguments += [RNG.normal(size=32) for _ in range(2)]
    arguments = [x.astype(np.float32) for x in arguments]
    peers = {"dense matrix": (dense, False)}
    yield from _both(f"T={length}, 32 channels, both ways", both_ways, peers, arguments, 1e-4)


@benchmark("wkv6")
def wkv6(quick: bool):
    """ops.wkv6 in chunks against its own recurrence, token by token, 12 heads of 64, float32."""
    heads = 2 if quick else 12

    def ours(query, key, value, raw, bonus, form=None):
        return ops.wkv6(query, key, value, -jnp.exp(raw), bonus, form=form)

    for length in (64,) if quick else (1024, 4096):
        arguments = [RNG.normal(size=(1, length, heads, 64)) for _ in range(4)]
        arguments[3] = arguments[3] - 2
        arguments.append(RNG.normal(size=(heads, 64)))
        arguments = [x.astype(np.float32) for x in arguments]
        peers = {"recurrent": (functools.partial(ours, form="recurrent"), False)}
        yield from _both(f"T={length}, {heads} heads of 64", ours, peers, arguments, 1e-4)


@benchmark("modal_ssm")
def modal_ssm(quick: bool):
    """ops.modal_ssm in its forms against torch's FFT convolution with the filter."""
    dim, modes = 256, 8
    poles = [-RNG.uniform(0.01, 0.5, size=(dim, modes)), RNG.uniform(0, 3, size=(dim, modes))]
    poles = [jnp.asarray(x, jnp.float32) for x in poles]
    residue = jnp.asarray(RNG.normal(size=(dim, modes, 2)), jnp.float32)

    for length in (128,) if quick else (1024, 16384):
        taps = np.asarray(ops.modal_ssm_filter(*poles, residue, length=length))

        def convolve(x, taps=taps, length=length):
            import torch

            taps = to_torch(taps)

            spectrum = torch.fft.rfft(taps, 2 * length, dim=0)
            return torch.fft.irfft(torch.fft.rfft(x, 2 * length, dim=1) * spectrum, dim=1)[
                :, :length
            ]

        forms = {
            form: functools.partial(
                lambda x, form: ops.modal_ssm(x, *poles, residue, form=form), form=form
            )
            for form in (None, "chunked", "parallel")
        }
        peers = {
            "torch FFT, given the filter": (convolve, True),
            "FFT": (forms["parallel"], False),
            "chunked": (forms["chunked"], False),
        }
        arguments = [RNG.normal(size=(1, length, dim)).astype(np.float32)]
        title = f"T={length}, {dim} channels of {modes} modes"
        yield from _both(title, forms[None], peers, arguments, 1e-4)


def _language_model(family: str, network, model, length: int, title: str):
    """A row: logits and all gradients of one sequence, against transformers in eager torch."""
    import torch

    tokens = RNG.integers(0, 256, size=(1, length)).astype(np.int32)
    cotangent = RNG.normal(size=(1, length, 256)).astype(np.float32)
    weights = {key: value.detach().numpy() for key, value in network.state_dict().items()}

    def as_ours(tensors):
        return jax.tree.map(
            lambda leaf: leaf.unbox() if hasattr(leaf, "unbox") else leaf,
            load_weights(model, tensors, (length,)),
            is_leaf=lambda leaf: hasattr(leaf, "unbox"),
        )

    def step(variables, tokens, cotangent):
        def loss(variables):
            logits = model.apply(variables, tokens, train=True)
            return jnp.sum(logits * cotangent), logits

        gradients, logits = jax.grad(loss, has_aux=True)(variables)
        return logits, gradients

    inputs, weight = torch.as_tensor(tokens, dtype=torch.long), to_torch(cotangent)

    def peer():
        network.zero_grad()
        logits = network(inputs, use_cache=False).logits
        (logits * weight).sum().backward()
        return logits

    def result(logits):
        gradients = {name: value.grad.numpy() for name, value in network.named_parameters()}
        return logits.detach(), as_ours(gradients)

    return Row(
        title,
        jax_contender("scanmax", step, as_ours(weights), tokens, cotangent),
        [torch_contender(f"transformers {family}, eager torch", peer, result=result)],
        tolerance=1e-2,
    )


def _sizes(quick: bool):
    """Length and width, what both configurations share, what both of our models do."""
    length, dim = (32, 64) if quick else (1024, 768)
    common = {"vocab_size": 256, "hidden_size": dim, "num_hidden_layers": 2}
    return length, dim, common, {"vocab_size": 256, "dim": dim, "depth": 2}


@benchmark("mamba_training")
def mamba_training(quick: bool):
    """Two blocks of Mamba-1 130m, forward and backward, against transformers (minutes per call)."""
    mamba = import_peer("transformers.models.mamba.modeling_mamba")
    length, dim, common, fields = _sizes(quick)
    yield _language_model(
        "mamba",
        mamba.MambaForCausalLM(mamba.MambaConfig(**common)),
        scanmax.create_model("mamba_130m", **fields),
        length,
        f"Mamba-1, two blocks of width {dim}, T={length}, training",
    )


@benchmark("mamba2_training")
def mamba2_training(quick: bool):
    """Two blocks of Mamba-2 130m, forward and backward, against transformers."""
    mamba2 = import_peer("transformers.models.mamba2.modeling_mamba2")
    length, dim, common, fields = _sizes(quick)
    heads = {"num_heads": 2 * dim // 64, "head_dim": 64, "n_groups": 1}
    config = mamba2.Mamba2Config(**common, **heads, tie_word_embeddings=True)
    yield _language_model(
        "mamba2",
        mamba2.Mamba2ForCausalLM(config),
        scanmax.create_model("mamba2_130m", **fields, heads=2 * dim // 64),
        length,
        f"Mamba-2, two blocks of width {dim}, T={length}, training",
    )
