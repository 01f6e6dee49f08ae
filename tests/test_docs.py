"""What the README and the pages show is true: their examples run, and the files they name are there."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = {
    "README.md": 5,
    "docs/compile.md": 25,
    "docs/graphs.md": 12,
    "docs/overhead.md": 8,
    "docs/chunks.md": 14,
    "docs/solvers.md": 40,
    "docs/stochastic.md": 20,
    "docs/consensus.md": 18,
    "docs/grid_search.md": 14,
    "docs/numba_cache.md": 25,
}  # at least


@pytest.mark.parametrize("page", EXAMPLES)
def test_the_examples_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # examples may write files
    text = re.sub(r"^```.*$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    example = doctest.DocTestParser().get_doctest(text, {}, page, page, 0)
    assert len(example.examples) >= EXAMPLES[page]
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example)
    assert result.failed == 0


@pytest.mark.parametrize("page", ["README.md", *[f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))]])
def test_the_links_of_a_page_lead_somewhere(page: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", (ROOT / page).read_text(encoding="utf-8")) if "://" not in link]
    assert links or page != "README.md"
    missing = [link for link in links if not ((ROOT / page).parent / link.partition("#")[0]).exists()]
    assert not missing
