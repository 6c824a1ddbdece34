"""Names of options stay whole; blocks of code keep their lines."""


def test_an_option_in_a_line_is_marked(script):
    mark = script("options").on_page_content
    marked = '<code>train <span class="option">--data.crop</span> 64</code>'
    assert mark("<code>train --data.crop 64</code>") == marked
    for other in ("<code>a--b</code>", "<pre><span></span><code>train --data.crop\n</code></pre>"):
        assert mark(other) == other
