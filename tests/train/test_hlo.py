"""Collectives of compiled programs: kinds, bytes, and loops counted by their trips."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from scanmax.train.hlo import collectives

TEXT = """
HloModule jit_f, is_scheduled=true

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %c = f32[] add(%a, %b)
}

%all-reduce-scatter.1 (p: bf16[256,8]) -> bf16[1,8] {
  %p = bf16[256,8]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %r = bf16[256,8]{1,0:T(8,128)(2,1)} all-reduce(%p), to_apply=%sum, metadata={op_name="jit(f)/grad"}
}

%body (p: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %p.1 = (s32[], f32[4,8]) parameter(0)
  %x = f32[4,8]{1,0:T(8,128)S(1)} get-tuple-element(%p.1), index=1
  %start = (f32[4,8]{1,0}, f32[16,8]{1,0:T(8,128)}) all-gather-start(%x), dimensions={0}
  %done = f32[16,8]{1,0} all-gather-done(%start)
}

%piece (q: bf16[3]) -> bf16[6] {
  %q.1 = bf16[3]{0} parameter(0)
  ROOT %g.1 = bf16[6]{0} all-gather(%q.1), channel_id=3, frontend_attributes={chain_id="1"}
}

%piece.2 (q: bf16[3]) -> bf16[6] {
  %q.2 = bf16[3]{0} parameter(0)
  ROOT %g.2 = bf16[6]{0} all-gather(%q.2), channel_id=3, frontend_attributes={chain_id="1"}
}

%count (p: (s32[], f32[4,8])) -> pred[] {
  %p.2 = (s32[], f32[4,8]) parameter(0)
  %seven = s32[]{:T(128)} constant(7)
  %i = s32[]{:T(128)} get-tuple-element(%p.2), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %seven), direction=LT, metadata={op_name="lt"}
}

%other (p: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %p.3 = (s32[], f32[4,8]) parameter(0)
  %y = f32[4,8]{1,0:T(8,128)S(1)} get-tuple-element(%p.3), index=1
  %swapped = f32[4,8]{1,0} all-to-all(%y), dimensions={0}
}

ENTRY %main (q: f32[4,8], w: bf16[256,8]) -> f32[4,8] {
  %q = f32[4,8]{1,0} parameter(0)
  %w = bf16[256,8]{1,0} parameter(1)
  %both = (f32[4,8]{1,0}, f32[2]{0}) all-reduce(%q, %q2), to_apply=%sum
  %q2 = f32[2]{0} constant({1, 2})
  %t = (s32[], f32[4,8]) while(%q), condition=%sum, body=%body, backend_config={"known_trip_count":{"n":"12"}}
  %u = (s32[], f32[4,8]) while(%t), condition=%count, body=%other, metadata={op_name="while"}
  %s.1 = bf16[6]{0} fusion(%w), kind=kCustom, calls=%piece
  %s.2 = bf16[6]{0} fusion(%w), kind=kCustom, calls=%piece.2
  ROOT %f = bf16[1,8]{1,0} fusion(%w), kind=kCustom, calls=%all-reduce-scatter.1
}
"""  # noqa: E501


def test_each_kind_is_found_with_its_bytes():
    entries = collectives(TEXT)
    # One that a TPU runs in two pieces beside other work counts once, here as the smallest.
    assert (entries[-1].bytes, len(entries)) == (12, 5)
    found = {entry.kind: entry for entry in entries[:-1]}
    assert set(found) == {"all-gather", "all-reduce", "reduce-scatter", "all-to-all"}
    assert (found["all-gather"].bytes, found["all-gather"].times) == (16 * 8 * 4, 12)
    assert found["all-gather"].moved == 12 * 512
    assert (found["all-reduce"].bytes, found["all-reduce"].moved) == (4 * 8 * 4 + 8, 2 * 136)
    # As the TPU compiler writes loops: only their condition says how often.
    assert (found["all-to-all"].bytes, found["all-to-all"].times) == (4 * 8 * 4, 7)
    assert (found["reduce-scatter"].bytes, found["reduce-scatter"].name) == (4096, "jit(f)/grad")


@pytest.mark.parametrize("steps", [1, 5])
def test_a_loop_counts_its_trips_in_a_real_program(steps):
    mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])

    def run(x):
        def body(x, _):
            return jax.lax.psum(x, "x"), None

        return jax.lax.scan(body, x, None, length=steps)[0]

    mapped = jax.shard_map(
        run, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False
    )
    x = jax.ShapeDtypeStruct((6,), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec()))
    (found,) = collectives(jax.jit(mapped).lower(x).compile().as_text())
    assert (found.kind, found.bytes, found.times) == ("all-reduce", 24, steps)
