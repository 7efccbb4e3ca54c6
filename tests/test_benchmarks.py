"""The harness: it checks before it times, gives no speed to a wrong result, writes all down."""

import csv
import io
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import __main__ as cli
from benchmarks import harness, pod, tables
from benchmarks.harness import Contender, Row, benchmark, jax_contender, measure
from scanmax.errors import UserError


def instant(name, value, memory=None):
    """A contender that gives `value` at once."""
    return Contender(name, lambda: lambda: value, memory=lambda: memory)


def test_a_right_row_has_times_ratios_and_memory():
    x = jnp.arange(12.0).reshape(3, 4)
    row = Row(
        "3 x 4",
        ours=jax_contender("ours", lambda x: {"y": x * 2}, x),
        peers=[instant("peer", {"y": np.arange(12.0).reshape(3, 4) * 2}, memory=2**20)],
    )
    ours, peer = measure(row, seconds=0.01, quick=False)
    assert ours["contender"] == "ours"
    assert ours["speedup"] is None
    assert ours["compile_s"] > 0
    assert ours["memory_mib"] >= 48 / 2**20
    assert (peer["compile_s"], peer["memory_mib"]) == (None, 1.0)
    assert 0 < peer["speedup"] < 1
    assert min(ours["iterations"], peer["iterations"]) >= 5
    assert ours["error"] == peer["error"] == 0.0
    table = io.StringIO()
    harness.print_row([ours, peer], table)
    assert "1.0 MiB" in table.getvalue()
    assert "x" in table.getvalue()


def test_growth_counts_what_a_call_gives_back_too():
    size = 2**25
    growth = harness.resident_growth(lambda: np.ones(size, np.uint8).sum())
    if sys.platform == "linux":
        assert 0.9 * size < growth < 2 * size
    else:
        assert growth is None


def test_what_one_call_alone_takes_is_not_its_memory():
    sizes, kept = iter([2**26, 2**22, 2**26]), []

    def call():
        kept.append(np.ones(next(sizes), np.uint8))

    growth = harness.least_growth(call)
    if sys.platform == "linux":
        assert 0.9 * 2**22 < growth < 2**23
    else:
        assert growth is None


@pytest.mark.parametrize(
    "wrong", [np.ones(3) * 1.001, np.array([1.0, np.nan, 1.0]), np.ones(4), [np.ones(3)] * 2]
)
def test_a_wrong_row_has_no_speed(wrong):
    calls = iter([wrong])  # a second call would raise StopIteration
    late = Contender("ours", lambda: lambda: next(calls))
    records = measure(Row("row", late, [instant("peer", np.ones(3))]), seconds=1, quick=True)
    assert all(record["wrong"] and "median_ms" not in record for record in records)
    table = io.StringIO()
    harness.print_row(records, table)
    assert table.getvalue().count("WRONG") == 2
    assert " ms" not in table.getvalue()


def test_other_references_than_the_first_peer():
    ours, peer = instant("ours", np.ones(3)), instant("peer", np.zeros(3))
    given = measure(Row("row", ours, reference=np.ones(3)), seconds=0.01, quick=True)
    assert given[0]["error"] == 0.0
    unequal = measure(Row("row", ours, [peer], reference=None), seconds=0.01, quick=True)
    assert not any(record.get("wrong") for record in unequal)
    broken = instant("ours", np.array([np.inf]))
    assert measure(Row("row", broken, [peer], reference=None), seconds=1, quick=True)[0]["wrong"]


def test_relative_error_is_the_worst_leaf():
    expected = {"a": np.ones(4), "b": np.full(4, 100.0)}
    actual = {"a": np.ones(4) * 1.5, "b": np.full(4, 100.0)}
    assert harness.relative_error(actual, expected) == pytest.approx(0.5)


@pytest.fixture
def cases(monkeypatch):
    """A registry of two cases of our own, one right and one wrong."""
    monkeypatch.setattr(harness, "REGISTRY", {})
    monkeypatch.setattr(cli.pkgutil, "walk_packages", lambda *place: [])

    @benchmark("right")
    def right(quick):
        """A case that is right."""
        yield Row("one" if quick else "many", instant("ours", 1.0), [instant("peer", 1.0)])

    @benchmark("wrong")
    def wrong(quick):
        """A case that is wrong."""
        yield Row("row", instant("ours", 1.0), [instant("peer", 2.0)])


def test_command_line(cases, tmp_path, capsys):
    path = tmp_path / "out" / "table.csv"
    assert cli.main(["right", "--quick", "--csv", str(path)]) == 0
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["contender"] for row in rows] == ["ours", "peer"]
    assert tuple(rows[0]) == harness.COLUMNS
    assert {row["case"] for row in rows} == {"right"}
    assert {row["row"] for row in rows} == {"one"}
    assert all(row["device"] and "jax" in row["versions"] and row["commit"] for row in rows)
    assert cli.main(["--csv", str(path)]) == 1, "all cases, one of them wrong"
    capsys.readouterr()
    assert cli.main(["--list"]) == 0
    assert capsys.readouterr().out.split("\n")[0].endswith("A case that is right.")
    assert cli.main(["rigth"]) == 2
    assert "cases: right, wrong" in capsys.readouterr().err


def test_a_group_is_all_its_cases(cases, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(harness, "GROUPS", {})

    @benchmark("another", group="both")
    def another(quick):
        """Another case."""
        yield Row("row", instant("ours", 1.0))

    harness.GROUPS["both"].insert(0, "right")
    path = tmp_path / "table.csv"
    assert cli.main(["both", "--quick", "--csv", str(path)]) == 0
    with path.open() as file:
        assert [row["case"] for row in csv.DictReader(file)] == ["right", "right", "another"]
    capsys.readouterr()
    assert cli.main(["--list"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "both: right, another"


def test_every_case_says_what_it_measures():
    cli.main(["--list"])
    assert {"depthwise", "deit_small", "convnext_tiny"} <= set(harness.REGISTRY)
    assert all(rows.__doc__ for rows in harness.REGISTRY.values())


def test_kept_figures_become_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "FOLDER", tmp_path / "tables")
    monkeypatch.setattr(tables, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(harness, "REGISTRY", dict(harness.REGISTRY))
    values = [np.ones(3), np.ones(3)]

    @benchmark("kept")
    def kept(quick):
        """Ones against ones."""
        yield Row("three", instant("ours", values[0], memory=2**20), [instant("peer", values[1])])

    assert cli.main(["kept", "--keep", "--seconds=0.01"]) == 0
    (file,) = (tmp_path / "tables").glob("*/kept.csv")
    text = (tmp_path / "page.md").read_text()
    assert "### kept" in text
    assert "| three | ours |" in text
    assert "|  | peer |" in text
    # A wrong result keeps the figures that there were.
    before, values[0] = file.read_text(), np.zeros(3)
    assert cli.main(["kept", "--keep", "--seconds=0.01"]) == 1
    assert file.read_text() == before
    assert [path.name for path in file.parent.iterdir()] == ["kept.csv"]


def test_the_page_is_what_the_kept_figures_say():
    assert tables.PAGE.read_text() == tables.page(tables.FOLDER.glob("*/*.csv"))


def test_keeping_takes_whole_measurements(capsys):
    with pytest.raises(SystemExit):
        cli.main(["softmax", "--keep", "--quick"])
    assert "--keep is for whole measurements" in capsys.readouterr().err


def test_a_step_is_compiled_at_the_largest_batch_that_fits(monkeypatch, capsys):
    monkeypatch.setattr(pod, "topology_devices", lambda topology: jax.devices()[:4])
    kwargs = {"depth": 1, "dim": 32, "heads": 2, "num_classes": 10}
    step = pod.Step("deit_small_patch16_224", (10**9, 2), kwargs, peer=("peer 1.0", 2.0, 3000))
    compiled, asked = pod.compile_step, []

    def compile_step(step, batch):
        asked.append(batch)
        if batch == 10**9:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no room")
        return compiled(step, batch)

    monkeypatch.setattr(pod, "compile_step", compile_step)
    monkeypatch.setitem(pod.STEPS, "small", step)
    assert cli.main(["pod", "small"]) == 0
    name, batch, moved, scratch, peak, peer = (
        capsys.readouterr().out.splitlines()[2].split("|")[1:7]
    )
    assert (asked, name, batch, peer) == ([10**9, 2], " `small` ", " 2 ", " peer 1.0: 2.0, 3,000 ")
    # The images alone are 1.1 MiB; a step of two cannot fill a chip.
    assert float(moved) > 0.001
    assert float(scratch) > 1
    assert 0 < int(peak.strip(" %")) < 50
    assert cli.main(["pod", "smal"]) == 2
    assert "no step 'smal'; steps: vit_s16, " in capsys.readouterr().err


def test_without_a_tpu_compiler_a_pod_is_one_line(monkeypatch, capsys):
    def none(topology):
        raise UserError("--compile_for needs the TPU compiler")

    monkeypatch.setattr(pod, "topology_devices", none)
    assert cli.main(["pod"]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "benchmarks: --compile_for needs the TPU compiler\n")
