"""The head of a page names no other languages: the theme asks for a sitemap beside each of them."""


def test_the_head_has_no_link_to_another_language(script):
    hook = script("languages")
    link = '<link rel="alternate" href="../zh/index.html" hreflang="zh">'
    kept = '<link rel="icon" href="a.png"><a href="../zh/index.html" hreflang="zh">中文</a>'
    for clean in (hook.on_post_page, hook.on_post_template):
        assert clean(f"<head>{kept}\n  {link}</head>", page=None) == f"<head>{kept}</head>"
