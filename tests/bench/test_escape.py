"""Names, labels and reasons of others in every text format: shown, never obeyed."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from pylatexenc.latexwalker import LatexCharsNode, LatexGroupNode, LatexMacroNode, LatexWalker
from rich.console import Console

from bench.leaderboard.table import Column, Group, Row, Table, TaskInfo, Value
from bench.render import escape, terminal
from bench.render.formats import FORMATS

# pieces of what does harm in one of the formats, mixed with any text
PIECES = [
    "|", "\n", "\r\n", "\t", "`", "``", "*", "**", "_", "__", "[x](http://a.b)", "![i](j)", "<b>",
    "<script>alert(1)</script>", "<!--", "-->", "&lt;", "&#64;", "\\", "\\\\", "$x$", "~~", "# ",
    "- ", "1. ", "> ", "===", "http://a.b", "www.a.b", "@user", "#1", "[^1]", "[ ]", "=1+1", "+1",
    "-1", "@SUM(A1)", "=cmd|' /C calc'!A0", "\x1b[31m", "\x1b]8;;http://a.b\x07", "\x9b2J", "\x00",
    "\x7f", "\u202e", "\u2066", "\u200b", "\ufeff", "\u2028", "\u2029", "<script", "<", "[red]",
    "[/red]", "[link=http://a.b]", "\\input{/etc/passwd}", "\\write18{ls}", "%", "{", "}", "^^5c",
    "--", "''", "\\end{tabular}", "]]>", "★", "→", "±", "é", "中", "𝔘", "🙂", "\U000e0001",
]  # fmt: skip
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=8)), max_size=8).map("".join)


def hostile(test: Callable[[str], None]) -> Callable[[], None]:
    """A test of any text, with every piece tried for sure."""
    for piece in PIECES:
        test = example(piece)(test)
    return given(TEXTS)(test)


def table(text: str) -> Table:
    """A table with one text wherever a text of others can stand."""
    columns = [
        Column("label", "variant", "", 0),
        Column("layers", "cut", "", 0, digits=0),
        Column("average", "avg", "%", 0, "higher"),
        Column(f"task:{text}", text, "%", 4, "higher", note=text),
    ]
    values = {"model": Value(text=text), "label": Value(text=text), "layers": Value(3.0)}
    values |= {"average": Value(50.0, 1.0), f"task:{text}": Value(51.0, 2.0)}
    rows = [Row(values, 3, best=True), Row(values, 3, failure=text), Row(values, 3, warning=text)]
    tasks = [TaskInfo(text, text, 0, text, 1, True)]
    return Table(columns, [Group(text, rows)], [text], tasks)


def invisible(text: str) -> set[str]:
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")}


@hostile
def test_visible_text_has_no_control_characters_and_loses_nothing(text: str) -> None:
    shown = escape.visible(text)
    assert not invisible(shown)
    assert escape.visible(shown) == shown
    assert len(shown) >= len(text)


def test_ordinary_text_stays_as_it_is() -> None:
    ordinary = "Qwen2.5-7B (bfloat16), 25 % — ±1.0 ★ → é 中 🙂"
    assert escape.visible(ordinary) == ordinary
    assert escape.markdown("Qwen2.5-7B: demo_facts (acc_norm), 3–6") == (
        "Qwen2.5-7B: demo_facts (acc_norm), 3–6"
    )
    assert escape.csv_field("Qwen2.5-7B") == "Qwen2.5-7B"


def test_control_characters_are_seen() -> None:
    assert escape.visible("a\x1b[31mb\nc\x7f\u202ed") == "a␛[31mb␊c␡{U+202E}d"


@hostile
def test_terminal_gets_no_escape_sequence_and_shows_markup_as_text(text: str) -> None:
    file = io.StringIO()
    console = Console(file=file, width=300, force_terminal=True, color_system=None, highlight=False)
    terminal.render(table(text), console)
    assert invisible(file.getvalue()) <= {"\n"}
    assert not invisible(terminal.text(table(text))) - {"\n"}


def test_rich_markup_in_a_label_is_shown() -> None:
    assert "[red]a[/red] ★" in terminal.text(table("[red]a[/red]"))
    assert "[link=http://a.b]a ★" in terminal.text(table("[link=http://a.b]a"))


def inline(tokens: list[Token]) -> list[tuple[str, list[Token]]]:
    """The children of each piece of inline text with the name of the block they are in."""
    return [
        (tokens[i - 1].type, token.children or []) for i, token in enumerate(tokens) if token.children
    ]


@hostile
def test_markdown_is_the_text_and_no_markup(text: str) -> None:
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    expected = " ".join(escape.visible(text).split(" ")).strip()
    tokens = parser.parse(FORMATS["markdown"](table(text)))
    blocks = {token.type for token in tokens}
    assert blocks <= {
        *("paragraph_open", "inline", "paragraph_close", "bullet_list_open", "bullet_list_close"),
        *("list_item_open", "list_item_close", "table_open", "table_close", "thead_open", "thead_close"),
        *(
            "tbody_open",
            "tbody_close",
            "tr_open",
            "tr_close",
            "th_open",
            "th_close",
            "td_open",
            "td_close",
        ),
    }
    assert sum(token.type == "tr_open" for token in tokens) == 4
    assert sum(token.type == "td_open" for token in tokens) == 3 * 4
    labels = []
    for block, children in inline(tokens):
        kinds = {token.type for token in children} - {"text", "text_special", "softbreak"}
        assert kinds <= {"strong_open", "strong_close", "html_inline"}
        assert {token.content for token in children if token.type == "html_inline"} <= {"<!-- -->"}
        if block == "td_open":
            labels.append("".join(t.content for t in children if t.type.startswith("text")))
    first = [" ".join(label.split()) for label in labels]
    if expected:
        assert " ".join(f"{expected} ★".split()) in first
        assert " ".join(f"{expected} ✗".split()) in first


@hostile
def test_markdown_leaves_nothing_that_github_links_by_itself(text: str) -> None:
    shown = escape.markdown(text)
    assert not re.search(r"(?<!\\)://", shown)
    assert "www." not in shown.lower()
    assert not re.search(r"[@#]\w", shown)


@hostile
def test_csv_has_no_formula_and_keeps_numbers(text: str) -> None:
    rows = list(csv.reader(io.StringIO(FORMATS["csv"](table(text)))))
    assert len(rows) == 4
    numbers = {"50", "1", "51", "2", "3"}
    for field in (field for row in rows for field in row):
        assert field in numbers or not field.lstrip().startswith(("=", "+", "-", "@", "\t", "\r"))
        assert not invisible(field)
    shown = escape.visible(text)
    assert all(row[0].removeprefix("'") == shown.removeprefix("'") for row in rows[1:])


@hostile
def test_json_keeps_the_text_and_shows_no_control_character(text: str) -> None:
    document = FORMATS["json"](table(text))
    assert invisible(document) <= {"\n"}
    assert json.loads(document)["groups"][0]["rows"][0]["label"] == text


@hostile
def test_svg_has_no_element_and_no_address_from_a_text(text: str) -> None:
    def tags(document: str) -> set[str]:
        return {element.tag for element in ET.fromstring(document).iter()}

    picture = FORMATS["svg"](table(text))
    assert tags(picture) == tags(FORMATS["svg"](table("plain")))
    addresses = re.findall(
        r'(?:href|src|url)\s*[=(]\s*["\']?([^#"\')\s]+)', picture.split("</style>")[0]
    )
    assert not addresses


NAMED = {"textless": "<", "textgreater": ">", "textbar": "|", "textbackslash": "\\", "char": '"'}
NAMED |= {"textasciitilde": "~", "textasciicircum": "^", "textasciigrave": "`"}


def printed(nodes: list[Any]) -> str:
    """What LaTeX prints for the nodes that an escaped text in ASCII consists of."""
    parts = []
    for node in nodes:
        if isinstance(node, LatexMacroNode):
            parts.append(NAMED.get(node.macroname, node.macroname) + node.macro_post_space)
        elif isinstance(node, LatexGroupNode):
            parts.append(printed(node.nodelist))
        else:
            assert isinstance(node, LatexCharsNode), node
            parts.append(node.chars)
    return "".join(parts)


@example("".join(map(chr, range(32, 127))))
@example("a--b---c ''d'' ,,e ,,,")
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40))
def test_latex_prints_every_ascii_text_as_it_is(text: str) -> None:
    escaped = escape.latex(text)
    nodes, _, _ = LatexWalker(escaped, tolerant_parsing=False).get_latex_nodes()
    assert printed(nodes).replace('"34', '"') == text
    assert not re.search(r"--|''|,,", escaped)


@hostile
def test_latex_is_ascii_with_no_command_from_a_text(text: str) -> None:
    escaped = escape.latex(text)
    assert escaped.isascii()
    assert not invisible(escaped)
    allowed = re.compile(
        r"\\(text(backslash|less|greater|bar|asciitilde|asciicircum|asciigrave|endash|emdash)\{\}|char34\{\}"
        r"|ldots\{\}|texttt\{U\+[0-9A-F]{4,6}\}|[&%$#_{}]|[`'^~=u.\"rHvc]\{(\\[ij]|[A-Za-z])\})"
        r"|\$(\\[a-z]+|-|\^\\circ)\$|\{[\[*]\}|\{\}|~"
    )
    rest = allowed.sub("", escaped)
    assert not set(rest) & set("\\{}$&%#_^~"), rest


@pytest.mark.parametrize("kind", [*FORMATS, "table"])
def test_texts_do_not_break_any_format(kind: str) -> None:
    render = FORMATS.get(kind, terminal.text)
    for text in (*PIECES, "".join(PIECES), "", " ", "x" * 10_000):
        assert render(table(text))
