"""Outputs of one long line wrap; tables keep their lines."""


def test_one_long_line_alone_wraps(script):
    block = '<div class="highlight"><pre><span></span><code>{}\n</code></pre></div>'
    mark = script("sentences").on_page_content
    assert mark(block.format("x" * 60)) == block.format("x" * 60).replace("highlight", "highlight sentence")
    for lines in ("x" * 59, "x" * 60 + "\n" + "x" * 60):
        assert mark(block.format(lines)) == block.format(lines)
