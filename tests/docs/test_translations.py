"""The Chinese pages: one word for one term, Chinese punctuation, and the README beside them."""

import re
import types

import pages
import pytest

GLOSSARY = pages.DOCS / "glossary.md"
CHINESE = [pages.ROOT / "README.zh.md", *sorted(pages.DOCS.rglob("*.zh.md"))]


def english(path):
    return path.with_name(path.name.replace(".zh.md", ".md"))


def terms(path):
    """The first two cells of each row of a glossary."""
    rows = re.findall(r"^\| (.*?) \| (.*?) \|", path.read_text(), re.MULTILINE)
    return [row for row in rows if row[0] not in ("term", "中文")]


def words(path):
    """Prose with a letter in place of code and of what is quoted, and links without their targets."""
    text = re.sub(r"\]\([^)]*\)|\{ #.*? \}|!?\[|\*", "", pages.prose(path))
    return re.sub(r'`[^`\n]*`|"[^"\n]*"', "x", text)


def test_both_glossaries_have_the_same_terms():
    both = terms(GLOSSARY)
    assert both == [row[::-1] for row in terms(GLOSSARY.with_suffix(".zh.md"))]
    assert [len(set(column)) for column in zip(*both, strict=True)] == [len(both)] * 2


@pytest.mark.parametrize("path", CHINESE, ids=lambda path: path.name)
def test_a_term_has_the_word_of_the_glossary(path):
    source, text = " ".join(words(english(path)).lower().split()), words(path)
    used = [row for row in terms(GLOSSARY) if re.search(rf"\b{row[0]}s?\b", source)]
    assert [row for row in used if row[1] not in text] == []


@pytest.mark.parametrize("path", CHINESE, ids=lambda path: path.name)
def test_punctuation_of_chinese_text_is_chinese(path):
    """Full width, and a space between Chinese and Latin letters, figures and code."""
    text = words(path)
    assert re.findall(r".*(?:[一-鿿][,;:?!()]|[,;:?!()][一-鿿]).*", text) == []
    assert re.findall(r".*(?:[一-鿿][A-Za-z0-9]|[A-Za-z0-9%][一-鿿]).*", text) == []
    assert re.findall(r".*(?: [，。；：、！？）]|[，。；：、！？（] ).*", text) == []


def test_a_page_that_changed_is_found_until_it_is_accepted(script, monkeypatch, tmp_path):
    translations = script("translations")
    monkeypatch.setattr(translations, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text("# Title\n")
    chinese = tmp_path / "README.zh.md"
    chinese.write_text("<!-- translates: 0 -->\n# 标题\n")
    assert translations.main(["check"]) == "README.zh.md: README.md changed since its translation"
    assert translations.main(["accept", str(chinese)]) is None
    assert translations.main(["check"]) is None
    assert chinese.read_text().endswith(" -->\n# 标题\n")


def test_figures_are_drawn_in_chinese(script):
    drawn = script("structure")
    for name in drawn.DRAWN:
        figure = drawn.figure(name, drawn.CHINESE)
        assert (drawn.FIGURES / f"{name}.zh.svg").read_text() == figure, "run docs/scripts/structure.py"
        assert drawn.CHINESE.keys().isdisjoint(re.findall(">([^<>]+)</text>", figure))


@pytest.mark.parametrize(("locale", "label"), [("en", "layer 1"), ("zh", "第 1 层")])
def test_a_page_shows_the_figure_of_its_language(script, locale, label):
    page = types.SimpleNamespace(file=types.SimpleNamespace(locale=locale))
    image = '<img alt="a" src="../../figures/structure.svg" />'
    assert f">{label}</text>" in script("inline_figures").on_page_content(image, page=page)


def test_the_readme_is_that_of_the_english_as_it_is(script):
    chinese = pages.ROOT / "README.zh.md"
    assert pages.fences(chinese) == pages.fences(english(chinese))
    levels = [[level for level, _ in pages.headings(path)] for path in (chinese, english(chinese))]
    assert levels[0] == levels[1]
    for target in pages.links(chinese):
        assert (pages.ROOT / target.partition("#")[0]).exists(), target
    changed = "README.md changed: translate what did, then docs/scripts/translations.py accept README.zh.md"
    assert script("translations").is_current(chinese), changed
