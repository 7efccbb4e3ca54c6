"""Attention: the chunked form against the parallel form, the kernel in C++ and torch's."""

import jax
import numpy as np

from benchmarks.harness import Row, benchmark, jax_contender, to_torch, torch_contender
from scanmax import ops
from scanmax.ops import native

# A single call of the parallel form beyond this length spends minutes in page faults.
LONGEST_MATRIX = 8192


def _with_gradients(**options):
    """The value and the gradients of query, key and value for a given cotangent."""

    def value_and_gradients(query, key, value, cotangent):
        def attend(*arrays):
            return ops.dot_product_attention(*arrays, **options)

        y, pull_back = jax.vjp(attend, query, key, value)
        return y, *pull_back(cotangent)

    return value_and_gradients


def _forward(**options):
    return lambda *arrays: ops.dot_product_attention(*arrays, **options)


def _torch_attention(arrays, is_causal):
    """Forward, and forward with gradients, in torch; arrays in torch's [B, H, T, K] layout."""
    import torch

    query, key, value, cotangent = (to_torch(x).transpose(1, 2).contiguous() for x in arrays)
    inputs = [x.requires_grad_() for x in (query, key, value)]
    attend = torch.nn.functional.scaled_dot_product_attention

    def forward():
        with torch.no_grad():
            return attend(*inputs, is_causal=is_causal)

    def backward():
        y = attend(*inputs, is_causal=is_causal)
        return y, *torch.autograd.grad(y, inputs, cotangent)

    return forward, backward


@benchmark("attention")
def attention(quick: bool):
    """ops.dot_product_attention chunked against its other forms and torch's SDPA, float32."""
    # [T, heads, causal]: about the same work per row up to 8192, one head beyond
    shapes = [(1024, 8, False), (1024, 8, True), (4096, 2, False), (8192, 1, True)]
    shapes += [(16384, 1, True), (32768, 1, True)]
    for T, heads, is_causal in [(256, 2, True)] if quick else shapes:
        rng = np.random.default_rng(0)
        arrays = [rng.normal(size=(1, T, heads, 64)).astype(np.float32) for _ in range(4)]
        forward, backward = _torch_attention(arrays, is_causal)
        title = f"T={T}, {heads} x 64{', causal' if is_causal else ''}"
        for name, ours, theirs, inputs in (
            ("forward", _forward, forward, arrays[:3]),
            ("forward and gradients", _with_gradients, backward, arrays),
        ):

            def contender(name, ours=ours, inputs=inputs, is_causal=is_causal, **options):
                return jax_contender(name, ours(is_causal=is_causal, **options), *inputs)

            def in_our_layout(output):
                return jax.tree.map(lambda x: x.detach().transpose(1, 2), output)

            peers = [torch_contender("torch SDPA", theirs, result=in_our_layout)]
            if T <= LONGEST_MATRIX:
                peers.append(contender("parallel", form="parallel"))
            if native.compiler():
                peers.append(contender("cpu", implementation="cpu"))
            chunked = contender("chunked", form="chunked")
            yield Row(f"{title}, {name}", ours=chunked, peers=peers, tolerance=1e-5)
