"""Long lines of an output wrap; tables and code keep their lines."""


def test_long_lines_wrap_below_their_text(script):
    block = '<div class="highlight"><pre><span></span><code>{}</code></pre></div>'
    mark = script("sentences").on_page_content

    def wrapped(indent, line):
        return f'<span class="sentence" style="--name: {indent}ch">{line}\n</span>'

    alone, long, named = "x" * 48, "&lt; " + "x" * 91, "  b/  " + "x" * 90
    assert mark(block.format(f"{alone}\n")) == block.format(wrapped(2, alone))
    assert mark(block.format(f"{long}\na\n")) == block.format(wrapped(2, long) + "a\n")
    assert mark(block.format(f"a\n{named}\n")) == block.format("a\n" + wrapped(6, named))
    for lines in ("x" * 47, f"{alone}\n{alone}", f"a\n| {long}", f"<b>{long}</b>"):
        assert mark(block.format(f"{lines}\n")) == block.format(f"{lines}\n")
