"""The demonstration, as a newcomer runs it."""

from pathlib import Path

from tests.acceptance.command import Ragstone, left_running


def test_the_demo_embeds_once_and_leaves_nothing_running(tmp_path: Path) -> None:
    """The first run ingests and answers, the second embeds nothing, and PostgreSQL is gone after each."""
    ragstone = Ragstone(tmp_path / "demo data")
    first = ragstone("demo")
    assert first.status == 0, first.err
    assert "embedded in" in first.out
    assert "[1]" in first.out
    assert " ms" in first.out
    assert left_running(tmp_path) == []
    second = ragstone("demo")
    assert second.status == 0, second.err
    assert "nothing was embedded" in second.out
    assert left_running(tmp_path) == []
