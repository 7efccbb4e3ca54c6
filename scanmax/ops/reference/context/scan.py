"""Scans of sequences that are split over devices: the equations know of no devices."""

from scanmax.ops.reference.linear.attention import linear_attention
from scanmax.ops.reference.scan.diagonal import diagonal_scan
from scanmax.ops.reference.scan.selective import selective_scan
from scanmax.ops.reference.scan.ssd import ssd


def context_diagonal_scan(decay, x, *, reverse=False, initial_state=None, return_state=False):
    """diagonal_scan of the whole arrays."""
    return diagonal_scan(
        decay, x, reverse=reverse, initial_state=initial_state, return_state=return_state
    )


def context_linear_attention(
    query,
    key,
    value,
    *,
    log_decay=None,
    feature_map=None,
    normalize=False,
    scale=None,
    initial_state=None,
    return_state=False,
    precision=None,
):
    """linear_attention of the whole arrays."""
    return linear_attention(
        query,
        key,
        value,
        log_decay=log_decay,
        feature_map=feature_map,
        normalize=normalize,
        scale=scale,
        initial_state=initial_state,
        return_state=return_state,
    )


def context_ssd(
    x,
    dt,
    A,
    B,
    C,
    *,
    D=None,
    dt_bias=None,
    dt_softplus=False,
    dt_limit=None,
    initial_state=None,
    return_state=False,
    precision=None,
):
    """ssd of the whole arrays."""
    return ssd(
        x,
        dt,
        A,
        B,
        C,
        D=D,
        dt_bias=dt_bias,
        dt_softplus=dt_softplus,
        dt_limit=dt_limit,
        initial_state=initial_state,
        return_state=return_state,
    )


def context_selective_scan(
    x,
    dt,
    A,
    B,
    C,
    *,
    D=None,
    dt_bias=None,
    dt_softplus=False,
    initial_state=None,
    return_state=False,
):
    """selective_scan of the whole arrays."""
    return selective_scan(
        x,
        dt,
        A,
        B,
        C,
        D=D,
        dt_bias=dt_bias,
        dt_softplus=dt_softplus,
        initial_state=initial_state,
        return_state=return_state,
    )
