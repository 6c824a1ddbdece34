"""Long lines of an output wrap; tables and code keep their lines."""


def test_long_lines_wrap_below_their_text(script):
    block = '<div class="highlight"><pre><span></span><code>{}\n</code></pre></div>'
    wrapped = '<span class="sentence" style="--name: {}ch">{}'
    mark = script("sentences").on_page_content
    alone, long = "x" * 60, "&lt; " + "x" * 91
    assert mark(block.format(alone)) == block.format(wrapped.format(2, alone) + "</span>")
    assert mark(block.format(f"{long}\na")) == block.format(wrapped.format(2, long) + "\n</span>a")
    assert mark(block.format(f"a\n  b/  {long}")) == block.format(
        "a\n" + wrapped.format(6, f"  b/  {long}") + "</span>"
    )
    for lines in ("x" * 59, f"{alone}\n{alone}", f"a\n| {long}", f"<b>{long}</b>"):
        assert mark(block.format(lines)) == block.format(lines)
