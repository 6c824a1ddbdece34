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
    for lines in ("x" * 47, f"a\n{'x' * 47}", f"a\n| {long}", f"<b>{long}</b>"):
        assert mark(block.format(f"{lines}\n")) == block.format(f"{lines}\n")


def test_shorter_lines_among_others_wrap_on_a_phone(script):
    block = '<div class="highlight"><pre><span></span><code>a\n{}</code></pre></div>'
    mark = script("sentences").on_page_content
    words = "x" * 40
    for indent, line in (
        (2, f"{words} {words}"),
        (16, f"  not measured  {words}"),
        (8, f"        {words} x"),
    ):
        wrapped = f'<span class="phone-sentence" style="--name: {indent}ch">{line}\n</span>'
        assert mark(block.format(f"{line}\n")) == block.format(wrapped)
    for row in (f"engine      32     {words}", f"{'▁' * 30} {words}", f"i, f = {words} + b"):
        assert mark(block.format(f"{row}\n")) == block.format(f"{row}\n")
