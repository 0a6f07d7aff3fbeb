"""Texts of others (names, labels, reasons) made safe for one output format each.

Every function makes control characters visible first, so that none of them reaches a terminal or hides
what a text says. What follows is to be put into a table cell or a sentence, not into a URL or a command.
"""

from __future__ import annotations

import re
import unicodedata

_INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def visible(text: str) -> str:
    """The text with control, format and unassigned characters replaced by visible ones.

    ESC becomes ␛ and a line feed ␊; others, such as one that reverses the direction, ``{U+202E}``.
    """
    return "".join(map(_visible, text))


def visible_lines(text: str) -> str:
    """The same, but line feeds stay."""
    return "\n".join(map(visible, text.split("\n")))


def _visible(char: str) -> str:
    if (char.isascii() and char.isprintable()) or unicodedata.category(char) not in _INVISIBLE:
        return char
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"{{U+{code:04X}}}"


def json_text(document: str) -> str:
    """A JSON document with the same characters escaped inside its strings.

    The document is one that ``json.dumps`` made: outside of strings it has line feeds and spaces alone.
    """
    return "".join(
        char if char == "\n" or _visible(char) == char else _json_escape(char) for char in document
    )


def _json_escape(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def csv_field(text: str) -> str:
    """A text that no spreadsheet takes for a formula: an apostrophe goes before what begins like one."""
    text = visible(text)
    return f"'{text}" if text.lstrip()[:1] in {"=", "+", "-", "@", "＝", "＋", "－", "＠"} else text


_MARKDOWN = re.compile(
    r"[\\`*\]<>|~&$]"
    r"|(?<![^\W_])_|_(?![^\W_])"  # inside a word it is no emphasis
    r"|:(?=//)|(?i:(?<=www)\.)"  # links without brackets
    r"|^[-+#=](?=\s|$|[-+#=])|^\d{1,9}[.)](?=\s|$)"  # lists and headings
)


def markdown(text: str) -> str:
    """A text that is neither markup, HTML, a link, nor a mention or reference on GitHub."""
    text = re.sub(r"\s", " ", visible(text)).strip()
    text = _MARKDOWN.sub(lambda found: f"{found[0][:-1]}\\{found[0][-1]}", text)
    # GitHub looks for @name and #1 in the finished text, where a backslash is gone; a comment is not
    return re.sub(r"([@#])(?=\w)", r"\1<!-- -->", text)


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\char34{}",
    "`": r"\textasciigrave{}",
    "[": "{[}",  # after the end of a line it would begin an option, as a star would
    "*": "{*}",
    "★": r"$\star$",
    "✗": r"$\times$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "→": r"$\rightarrow$",
    "←": r"$\leftarrow$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "−": "$-$",
    "·": r"$\cdot$",
    "√": r"$\surd$",
    "∞": r"$\infty$",
    "°": r"$^\circ$",
    "–": r"\textendash{}",
    "—": r"\textemdash{}",
    "…": r"\ldots{}",
    "µ": r"$\mu$",
    "\xa0": "~",
} | {char: f"\\{char}" for char in "&%$#_{}"}
_LATEX |= {
    char: f"$\\{name}$"
    for char, name in zip(
        "αβγδεζηθικλμνξπρστφχψω",
        [
            "alpha",
            "beta",
            "gamma",
            "delta",
            "epsilon",
            "zeta",
            "eta",
            "theta",
            "iota",
            "kappa",
            "lambda",
            "mu",
            "nu",
            "xi",
            "pi",
            "rho",
            "sigma",
            "tau",
            "phi",
            "chi",
            "psi",
            "omega",
        ],
        strict=True,
    )
}
_LIGATURES = re.compile(r"([-',])(?=\1)")  # two dashes would be one long one
_ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0304": "=",
    "\u0306": "u",
    "\u0307": ".",
    "\u0308": '"',
    "\u030a": "r",
    "\u030b": "H",
    "\u030c": "v",
    "\u0327": "c",
}


def latex(text: str) -> str:
    """A text in ASCII that any LaTeX prints; a character it has no command for is named: U+4E2D."""
    return "".join(map(_latex, _LIGATURES.sub("\\1\0", visible(text))))


def _latex(char: str) -> str:
    if char == "\0":
        return "{}"
    if char in _LATEX:
        return _LATEX[char]
    if char.isascii():
        return char
    base, *marks = list(unicodedata.normalize("NFD", char))
    if base.isascii() and base.isalpha() and len(marks) == 1 and marks[0] in _ACCENTS:
        letter = {"i": r"\i", "j": r"\j"}.get(base, base)
        return f"\\{_ACCENTS[marks[0]]}{{{letter}}}"
    code = ord(char)
    if 0x2400 <= code < 0x2420:
        code -= 0x2400  # a control character that was made visible
    return rf"\texttt{{U+{code:04X}}}"
