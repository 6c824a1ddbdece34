"""Names of options stay whole, long names break at underscores; blocks of code keep their lines."""


def test_an_option_in_a_line_is_marked(script):
    mark = script("options").on_page_content
    marked = '<code>train <span class="option">--data.crop</span> 64</code>'
    assert mark("<code>train --data.crop 64</code>") == marked
    for other in ("<code>a--b</code>", "<pre><span></span><code>train --data.crop\n</code></pre>"):
        assert mark(other) == other


def test_a_dotted_name_in_a_heading_may_break_after_a_dot(script):
    heading = '<h2><span class="doc doc-object-name doc-class-name">{}</span></h2>'
    made = script("options").on_page_content(heading.format("convlstm.scores.MSE"))
    assert made == heading.format("convlstm.<wbr>scores.<wbr>MSE")


def test_a_long_name_in_a_line_may_break_after_an_underscore(script):
    mark = script("options").on_page_content
    name, short = "test_a_name_of_many_words", "test_of_three_words"
    assert mark(f"<code>{name}</code>") == f"<code>{name.replace('_', '_<wbr>')}</code>"
    for other in (f"<code>{short}</code>", f"<code>a.{name}</code>", f"<code><b>{name}</b></code>"):
        assert mark(other) == other


def test_a_long_argument_in_a_line_may_break_before_its_value(script):
    mark = script("options").on_page_content
    assert mark('<code>data_format="channels_last"</code>') == '<code>data_format=<wbr>"channels_last"</code>'
    for other in ('<code>save="state"</code>', '<code>padding_mode="zeros"</code>'):
        assert mark(other) == other
