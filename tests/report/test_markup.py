"""Prose becomes paragraphs, and never HTML of its own."""

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reft_interp.report.markup import inline, prose


class Tags(HTMLParser):
    """The tags and the text of a piece of HTML, as a browser finds them."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(str(html))  # a Markup would escape what is added to it
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("plain", "plain"),
        ("a `b` c", "a <code>b</code> c"),
        ("*so* and **so**", "<em>so</em> and <strong>so</strong>"),
        ("**two *in* one**", "<strong>two <em>in</em> one</strong>"),
        ("2 * 3 * 4, a*b*c", "2 * 3 * 4, a*b*c"),  # products
        ("`a * b` and `**kw`", "<code>a * b</code> and <code>**kw</code>"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("`<b>` *<i>*", "<code>&lt;b&gt;</code> <em>&lt;i&gt;</em>"),
        ("one ` alone", "one ` alone"),
    ],
)
def test_inline(text, html):
    assert inline(text) == html


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("", ""),
        ("one\nline\n\n\n two ", "<p>one\nline</p>\n<p>two</p>"),
        (
            "Found:\n\n- `a`\n- b\n  more",
            "<p>Found:</p>\n<ul><li><code>a</code></li><li>b\n  more</li></ul>",
        ),
        ("-1 is no list", "<p>-1 is no list</p>"),
    ],
)
def test_blocks(text, html):
    assert prose(text) == html


@given(st.text(alphabet="<>&\"'`* \n-/abscript", max_size=60))
def test_nothing_in_the_text_becomes_a_tag_and_no_letter_is_lost(text):
    page = Tags(prose(text))
    assert set(page.tags) <= {"p", "ul", "li", "code", "em", "strong"}
    kept = set("<>&\"'/abcript")  # the rest is markup, or space
    assert [c for c in page.text if c in kept] == [c for c in text if c in kept]
