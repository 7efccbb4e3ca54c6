"""dot_product_attention against torch's scaled_dot_product_attention, outputs and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tolerances

from scanmax import ops
from scanmax.testing import compare

pytestmark = pytest.mark.parity

CASES = {
    "plain": {},
    "causal": {"is_causal": True},
    "bias": {"bias": (1, 4, 50, 70)},
    "mask": {"mask": (2, 1, 50, 70)},
    "grouped": {"groups": 2, "scale": 0.3},
}


@pytest.mark.parametrize("form", ["parallel", "chunked"])
@pytest.mark.parametrize("name", CASES)
def test_equals_torch(name, form):
    torch = pytest.importorskip("torch")
    case = dict(CASES[name])
    rng = np.random.default_rng(0)
    T, S, H, G = 50, 50 if case.get("is_causal") else 70, 4, case.pop("groups", 4)
    shapes = ((2, T, H, 16), (2, S, G, 16), (2, S, G, 24), (2, T, H, 24))
    query, key, value, cotangent = (rng.normal(size=s).astype(np.float32) for s in shapes)
    bias, mask = case.pop("bias", None), case.pop("mask", None)
    bias = None if bias is None else rng.normal(size=bias).astype(np.float32)
    mask = None if mask is None else rng.random(mask) < 0.6

    theirs = [torch.tensor(x).transpose(1, 2).requires_grad_() for x in (query, key, value)]
    if bias is not None:
        theirs.append(torch.tensor(bias).requires_grad_())
    given = theirs[3] if bias is not None else None if mask is None else torch.tensor(mask)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *theirs[:3], given, enable_gqa=G != H, **case
    )
    gradients = torch.autograd.grad(expected, theirs, torch.tensor(cotangent).transpose(1, 2))
    gradients = [x if x.shape == (1, 4, 50, 70) else x.transpose(1, 2) for x in gradients]

    def attend(*arrays):
        return ops.dot_product_attention(*arrays, mask=mask, form=form, chunk_size=32, **case)

    arrays = [x for x in (query, key, value, bias) if x is not None]
    actual, pull_back = jax.vjp(attend, *(jnp.asarray(x) for x in arrays))
    compare.assert_relative(
        (actual, list(pull_back(jnp.asarray(cotangent)))),
        (expected.detach().transpose(1, 2).numpy(), [x.numpy() for x in gradients]),
        tolerances.PARITY,
    )


def test_softmax_and_log_softmax_equal_torch():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(4, 30)).astype(np.float32) * 5
    compare.assert_relative(
        (ops.softmax(x), ops.softmax(x, form="two_pass"), ops.log_softmax(x)),
        (
            torch.softmax(torch.tensor(x), -1).numpy(),
            torch.softmax(torch.tensor(x), -1).numpy(),
            torch.log_softmax(torch.tensor(x), -1).numpy(),
        ),
        tolerances.PARITY,
    )
