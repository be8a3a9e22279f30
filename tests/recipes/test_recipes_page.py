"""The page keeps its promises: nothing on it is without a test, and what is asked leads somewhere."""

from __future__ import annotations

import re

import pytest
from conftest import ROOT
from recipe_page import PAGE, recipe, section

TITLES = re.findall(r"^## (.+)$", PAGE.read_text(), re.MULTILINE)
TESTS = "\n".join(path.read_text() for path in sorted((ROOT / "tests" / "recipes").glob("test_*.py")))


@pytest.mark.parametrize("title", TITLES)
def test_every_block_is_run_by_a_test(title: str) -> None:
    """A test asks for the blocks of each language in a section, and unpacks them."""
    for language in set(re.findall(r"^```(\S+)\n", section(title), re.MULTILINE)):
        assert recipe(title, language)
        if language in ("rsyslog", "syslog-ng"):
            assert f'"{title}": (' in TESTS
            continue
        constants = {name for name, value in re.findall(r'^(\w+) = "(.+)"$', TESTS, re.MULTILINE) if value == title}
        asked = {f'"{title}"', *constants}
        calls = [f'recipe({name}, "{language}")' for name in asked]
        if language == "sh":
            calls += [f"recipe({name})" for name in asked]
        assert any(call in TESTS for call in calls), (title, language)


def test_every_question_leads_to_its_answer() -> None:
    """The table at the top links every section but the last, whose link is above it."""
    text = PAGE.read_text()
    links = {link for _, link in re.findall(r"\[([^]]+)\]\(#([\w-]+)\)", text.partition("Four facts")[0])}
    assert links == {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in TITLES}


@pytest.mark.parametrize("title", [title for title in TITLES if recipe(title)])
def test_every_recipe_names_its_trap(title: str) -> None:
    assert section(title).count("**Trap:**") == 1
