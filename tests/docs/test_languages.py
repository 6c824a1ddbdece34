"""The languages of the documentation: heads of pages, and the page of an address that is not there."""

LINK = '<link rel="alternate" href="../zh/index.html" hreflang="zh">'


def test_the_head_has_no_link_to_another_language(script):
    """The theme asks for a sitemap beside each of them."""
    hook = script("languages")
    kept = '<link rel="icon" href="a.png"><a href="../zh/index.html" hreflang="zh">中文</a>'
    page = f"<head>{kept}\n  {LINK}</head>"
    assert hook.on_post_page(page, page=None) == f"<head>{kept}</head>"
    assert hook.on_post_template(page, template_name="search.html", config=None) == f"<head>{kept}</head>"


def test_the_page_of_a_missing_address_is_that_of_the_first_language(script):
    hook = script("languages")
    for text in ("<p>English</p>", "<p>中文</p>"):
        assert hook.on_post_template(text, template_name="404.html", config=None) == "<p>English</p>"
        assert hook.on_post_template(text, template_name="search.html", config=None) == text
