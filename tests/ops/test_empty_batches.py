"""A batch of no rows gives a result of no rows: the ops that have no suite, which tries it too."""

import inspect
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from scanmax import ops


def ones(*shape):
    return jnp.ones(shape)


def cache(b):
    return ops.init_kv_cache((b,), max_length=4, num_heads=1, key_dim=3)


def latents(b):
    return ops.init_latent_cache((b,), max_length=4, latent_dim=4, rotary_dim=2)


def tokens(b):
    return ones(b, 4, 2, 3)


def counts(*shape):
    return jnp.ones(shape, jnp.int32)


def maps(b):
    return ones(b, 4, 4, 2, 3)


CALLS = {
    "aggregated_attention_matrix": lambda b: (maps(b), maps(b), ones(b, 2, 2, 3)),
    "attention_step": lambda b: (cache(b), ones(b, 2, 3), ones(b, 1, 3), ones(b, 1, 3)),
    "average_lagging": lambda b: (counts(b, 4), counts(b), counts(b)),
    "bipartite_soft_matching": lambda b: ((ones(b, 6, 3),), {"remove": 2}),
    "context_attention": lambda b: (tokens(b),) * 3,
    "context_diagonal_scan": lambda b: (ones(b, 4, 3),) * 2,
    "context_linear_attention": lambda b: (tokens(b),) * 3,
    "context_selective_scan": lambda b: (
        *(ones(b, 4, 3),) * 2,
        ones(3, 2),
        *(ones(b, 4, 2),) * 2,
    ),
    "context_ssd": lambda b: (tokens(b), ones(b, 4, 2), ones(2), *(ones(b, 4, 1, 3),) * 2),
    "cross_covariance_matrix": lambda b: (tokens(b),) * 2,
    "dynamic_k": lambda b: ((ones(b),), {"layer": 1, "layers": 3, "top": 3}),
    "extend_kv_cache": lambda b: (cache(b), ones(b, 2, 1, 3), ones(b, 2, 1, 3)),
    "extend_latent_cache": lambda b: (latents(b), ones(b, 2, 4), ones(b, 2, 2)),
    "fuse_tokens": lambda b: ((ones(b, 6, 3), ones(b, 2, 6, 6)), {"remove": 2}),
    "halo_attention_matrix": lambda b: ((maps(b),) * 2, {"block_size": 2, "halo": 1}),
    "hubness": lambda b: ((ones(b, 4, 5),), {"k": 2}),
    "inline_attention_matrix": lambda b: (tokens(b),) * 2,
    "k_occurrence": lambda b: ((ones(b, 4, 5),), {"k": 2}),
    "kmeans_cross_attention_matrix": lambda b: (tokens(b),) * 2,
    "mala_attention_matrix": lambda b: (tokens(b),) * 2,
    "monarch_fft": lambda b: (ones(b, 8),),
    "msa_conv_matrix": lambda b: (maps(b),) * 2,
    "multi_directional_cyclic_shift": lambda b: ((maps(b),), {"shift": 1}),
    "neighborhood_attention_matrix": lambda b: ((maps(b),) * 2, {"kernel_size": 3}),
    "rala_attention_matrix": lambda b: (tokens(b),) * 2,
    "wait_k_mask": lambda b: ((counts(b),), {"length": 3, "source_length": 4}),
    "window_attention_matrix": lambda b: ((maps(b),) * 2, {"window_size": 2}),
}


def of_suites() -> set[str]:
    """The names that a suite declares as its op or step."""
    texts = (path.read_text() for path in pathlib.Path(__file__).parent.rglob("test_*.py"))
    return {
        name for text in texts for name in re.findall(r"^    (?:op|step) = ops\.(\w+)", text, re.M)
    }


def test_every_op_with_a_batch_is_tried():
    batched = {
        name
        for name, value in vars(ops).items()
        if callable(value) and name.islower() and "*B" in str(inspect.signature(value))
    }
    assert batched - of_suites() == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_a_batch_of_no_rows(name):
    def result(batch):
        given = CALLS[name](batch)
        arrays, options = given if isinstance(given[-1], dict) else (given, {})
        return jax.eval_shape(lambda *arrays: getattr(ops, name)(*arrays, **options), *arrays)

    assert result(0) == jax.tree.map(
        lambda leaf: leaf.update(shape=(0, *leaf.shape[1:])) if leaf.ndim else leaf, result(2)
    )
