"""What a type checker tells a user of scanmax: the package is typed, ops keep their signatures."""

import pathlib
import re
import subprocess
import sys

import scanmax

PROGRAM = """\
import jax.numpy as jnp
import scanmax
from scanmax import ops

x = jnp.ones((2, 8, 4, 16))
y = ops.dot_product_attention(x, x, x, is_causal=True)
z = ops.dot_product_attention(x, x, x, causal=True)
w = ops.ssd(x)
names: list[str] = scanmax.list_mixers("*", causal=True)
info = scanmax.mixer_info(3)
trained = scanmax.load("runs/x")
trained.predictt("cat.png")
"""
WRONG = {
    7: 'Unexpected keyword argument "causal" for "dot_product_attention"; did you mean "is_causal"',
    8: 'Missing positional arguments "dt", "A", "B", "C" in call to "ssd"',
    10: 'Argument 1 to "mixer_info" has incompatible type "int"; expected "str"',
    12: '"Trained" has no attribute "predictt"; maybe "predict"?',
}
# Other packages are not read: that takes minutes, and nothing here hangs on their types.
CONFIG = """\
[mypy]
follow_imports = skip
[mypy-scanmax.*]
follow_imports = silent
"""


def test_a_wrong_keyword_is_found_before_anything_runs(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "mypy.ini").write_text(CONFIG)
    source = pathlib.Path(scanmax.__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-incremental", "program.py"],
        cwd=tmp_path,
        env={"MYPYPATH": str(source), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    told = dict(re.findall(r"program\.py:(\d+): error: (.*)", result.stdout))
    assert set(told) == {str(line) for line in WRONG}, result.stdout + result.stderr
    for line, message in WRONG.items():
        assert told[str(line)].startswith(message)
