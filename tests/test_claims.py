"""Quick claims hold; the figures of the others are kept, and the page shows all."""

import json

import pytest

from benchmarks import claims as claims_module
from benchmarks.claims import CLAIMS, Finding, claim, load_claims, page, run_claims
from scanmax.papers import TITLES

ALL = load_claims()


@pytest.mark.parametrize("name", sorted(name for name, entry in ALL.items() if not entry.by_hand))
def test_a_claim_holds(name):
    findings = ALL[name].run(True)
    assert findings
    for finding in findings:
        assert finding.holds, f"{finding.what}: {finding.here}, the paper has {finding.paper}"


def test_the_page_is_made_of_the_kept_results():
    results = json.loads(claims_module.RESULTS.read_text())
    assert set(results) == set(ALL), "run: python -m benchmarks claims NAME"
    assert claims_module.PAGE.read_text() == page(ALL, results)
    for name, entry in ALL.items():
        assert entry.statement.endswith("."), name
        assert entry.paper in TITLES, name
        assert not entry.figure or (claims_module.FIGURES / f"{entry.figure}.png").exists(), name


def test_running_writes_down_what_was_found(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(claims_module, "CLAIMS", {})
    monkeypatch.setattr(claims_module, "load_claims", lambda: claims_module.CLAIMS)
    monkeypatch.setattr(claims_module, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(claims_module, "PAGE", tmp_path / "claims.md")

    @claim("one", paper="sigmoid-attention")
    def one(quick):
        """It is one."""
        return [Finding("it", "1", "1", True), Finding("that", "2", "3", False)]

    assert not run_claims(["one"], quick=False)
    assert "that: 3 (paper: 2) DOES NOT HOLD" in capsys.readouterr().out
    assert "| that | 2 | 3 | **does not hold** |" in (tmp_path / "claims.md").read_text()
    assert "one" not in CLAIMS
