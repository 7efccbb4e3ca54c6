"""Named benchmarks: `python -m benchmarks [CASE]`; see benchmarks/harness.py to add one."""
