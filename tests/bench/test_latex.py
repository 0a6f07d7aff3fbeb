"""LaTeX tables: in the form of the paper's, parsed always, and compiled where there is a TeX."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pylatexenc.latexwalker import LatexEnvironmentNode, LatexMacroNode, LatexWalker

from bench.leaderboard import leaderboard, published
from bench.leaderboard.leaderboard import build
from bench.leaderboard.published_file import names
from bench.leaderboard.view import grouped, with_columns
from bench.records import Failure, Record
from bench.render.formats import FORMATS, latex
from bench.store import Store

COMMANDS = {
    *("centering", "caption", "label", "small", "footnotesize", "setlength", "tabcolsep", "sbox"),
    *("toprule", "midrule", "bottomrule", "addlinespace", "multicolumn", "textit", "textbf", "\\"),
    *(
        "ifdim",
        "wd",
        "linewidth",
        "resizebox",
        "usebox",
        "else",
        "fi",
        "par",
        "smallskip",
        "raggedright",
    ),
    *(
        "star",
        "times",
        "pm",
        "cdot",
        "rightarrow",
        "textendash",
        "textemdash",
        "texttt",
        "char",
        "ldots",
    ),
    *("textbackslash", "textless", "textgreater", "textbar", "textasciitilde", "textasciicircum"),
    *("textasciigrave", *"&%$#_{}", "'", '"', "`", "^", "~", "r", "v", "alpha", "lambda"),
}


@pytest.fixture
def records() -> list[Record]:
    return list(Store(Path(__file__).parent / "samples" / "demo").all().values())


def nodes_in(node: Any) -> list[Any]:
    """A node and all nodes inside it."""
    arguments = getattr(node, "nodeargd", None)
    inside = [*(getattr(node, "nodelist", None) or []), *(arguments.argnlist if arguments else [])]
    return [node, *(found for child in inside if child is not None for found in nodes_in(child))]


def check(document: str, tmp_path: Path) -> str:
    """Parse tables strictly, and compile them where there is a TeX; its log, if so."""
    assert document.isascii()
    walker = LatexWalker(document, tolerant_parsing=False)
    tops = walker.get_latex_nodes()[0]
    nodes = [found for top in tops for found in nodes_in(top)]
    macros = {node.macroname for node in nodes if isinstance(node, LatexMacroNode)}
    assert macros <= COMMANDS, macros - COMMANDS
    environments = [node.environmentname for node in nodes if isinstance(node, LatexEnvironmentNode)]
    assert set(environments) <= {"table", "tabular", "minipage"}
    assert len({environments.count(name) for name in ("table", "tabular", "minipage")}) == 1
    for body in re.findall(r"\\toprule(.*?)\\bottomrule", document, re.DOTALL):
        ends = re.findall(r"\\begin\{tabular\}\{@\{\}([lr]+)@\{\}\}", document)
        counts = {len(re.findall(r"(?<!\\)&", line)) + 1 for line in body.splitlines() if " & " in line}
        assert counts <= {len(end) for end in ends}
    return compiled(document, tmp_path) if shutil.which("pdflatex") else ""


def compiled(document: str, folder: Path) -> str:
    packages = r"\usepackage[margin=2cm]{geometry}\usepackage{booktabs,graphicx}"
    (folder / "tables.tex").write_text(document, "ascii")
    text = rf"\documentclass{{article}}{packages}\begin{{document}}\input{{tables}}\end{{document}}"
    (folder / "all.tex").write_text(text)
    done = subprocess.run(
        ["pdflatex", "-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", "all"],
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
    assert "undefined" not in done.stdout
    return done.stdout


def test_demo_is_methods_by_tasks_with_average_rp_and_training_free(
    records: list[Record], tmp_path: Path
) -> None:
    text = FORMATS["latex"](build(records))
    check(text, tmp_path)
    lines = text.splitlines()
    head = lines[lines.index(r"\toprule") + 1]
    assert head == (
        r"variant & cut & training- & facts & grammar & lastword & retrieval & causes & lastword & "
        r"retrieval & avg & RP \\"
    )
    assert (
        r"uidl & 3 & yes & 66.8 & 88.5 & 24.2 & 23.5 & 66.7 & 64.1 & 50.3 & 53.9 $\pm$1.0 & 79.1 \\"
        in lines
    )
    baseline = next(line for line in lines if line.startswith("baseline"))
    assert baseline.startswith(r"baseline & 0 & \textendash{} & 76.8 &")
    for note in (
        r"avg: mean of demo\_facts (acc\_norm), demo\_grammar (acc), demo\_lastword (acc), "
        r"demo\_retrieval (acc), demo\_causes (acc\_norm), $\pm$ one standard error.\par",
        r"tasks: 0-shot, 400 items, task version 1.0: demo\_facts acc\_norm, demo\_grammar acc, "
        r"demo\_lastword acc, demo\_retrieval acc; 0-shot, 408 items, task version 1.0: demo\_causes "
        r"acc\_norm.\par",
        r"Standard errors of the tasks: 0.0 to 2.5.\par",
        r"! lstsq at 9: its loss on held-back tokens is worse than that of plain removal.\par",
    ):
        assert note in lines
    assert "p50" not in text


def test_best_of_each_cut_is_bold_in_each_column(records: list[Record]) -> None:
    text = FORMATS["latex"](build(records))
    shown = {
        line.split(" & ")[0]: re.findall(r"textbf\{(.*?)\}", line)
        for line in text.splitlines()
        if " & 3 & yes" in line
    }
    at_3 = [record for record in records if record.layers == 3]
    for task, metric in (
        ("demo_grammar", "acc"),
        ("demo_retrieval", "acc"),
        ("demo_causes", "acc_norm"),
    ):
        values = {r.label: r.quality[task].metrics[metric].value or 0 for r in at_3}
        best = max(values, key=lambda label: values[label])
        assert f"{100 * values[best]:.1f}" in shown[best]
    assert shown["refit"] == ["41.0", "45.8", "17.8", "63.9", "93.7"]
    assert shown["uidl"] == []
    baseline = next(line for line in text.splitlines() if line.startswith("baseline"))
    assert "textbf" not in baseline


@pytest.mark.parametrize(("mark", "bold", "star"), [("bold", True, False), ("star", False, True)])
def test_mark_can_be_chosen(records: list[Record], mark: Any, bold: bool, star: bool) -> None:
    text = FORMATS["latex"](replace(build(records), mark=mark))
    assert (r"\textbf" in text) == bold
    assert (r"refit $\star$" in text) == star
    plain = FORMATS["latex"](replace(build(records), mark="none"))
    assert r"\textbf" not in plain
    assert r"\star" not in plain


def test_chosen_columns_are_kept_and_a_wide_table_fits_the_page(
    records: list[Record], tmp_path: Path
) -> None:
    table = build(records)
    wide = latex.render(replace(table, chosen=True))
    assert wide.count(r"128$\rightarrow$64") > 6
    check(wide, tmp_path)
    narrow = latex.render(with_columns(table, ["label", "average", "speedup"]))
    assert "variant & avg & speed-up" in narrow
    assert "vllm 0.32.0+cpu on" in narrow  # where a latency comes from stands with it
    check(narrow, tmp_path)


def test_models_are_set_apart_by_a_rule(records: list[Record], tmp_path: Path) -> None:
    other = [record.model_copy(update={"model": "other_model"}) for record in records]
    text = FORMATS["latex"](build([*records, *other]))
    assert text.count("\n\\midrule\n") == 2
    assert r"\textit{other\_model $\cdot$ 135 M parameters $\cdot$ bfloat16}" in text
    assert r"\caption{SmolLM2-135M-Instruct, other\_model with layers removed.}" in text
    check(text, tmp_path)
    check(FORMATS["latex"](grouped(build([*records, *other]), "layers")), tmp_path)


def test_every_published_table_compiles_and_is_marked(tmp_path: Path) -> None:
    tables = [published.table(name) for name in names()]
    text = FORMATS["latex"](replace(leaderboard.EMPTY, quoted=tables))
    assert text.count("Quoted, not measured here;") == text.count(r"\caption{") == len(names())
    labels = re.findall(r"\\label\{(.*?)\}", text)
    assert len(labels) == len(set(labels)) == len(names())
    check(text, tmp_path)


HOSTILE = [
    "&%$#_{}~^\\<>|\"'`",
    "\\input{/etc/passwd} \\write18{ls} \\end{tabular}",
    "^^5cend{document}",
    "[optional] *star",
    "line\nbreak\rand\ttab \x1b[31m \x00 \u202e",
    "% the rest is a comment",
    "-- --- ,, '' `` ?` !`",
    "★ → ± × – … · é ü Å ñ č 中文 🙂 α λ Ω ß ł",
]


@pytest.mark.parametrize("text", [*HOSTILE, " ".join(HOSTILE)])
def test_texts_of_others_are_printed_and_not_obeyed(
    records: list[Record], tmp_path: Path, text: str
) -> None:
    quality = {text if name == "demo_facts" else name: task for name, task in records[0].quality.items()}
    changed = [
        record.model_copy(update={"model": text, "label": text, "quality": quality})
        for record in records
    ]
    failed = [Failure(stage=f"score:{text}", error=text)]
    changed[1] = changed[1].model_copy(update={"failures": failed, "updated": "9"})
    table = build(changed)
    check(FORMATS["latex"](replace(table, mark="star")), tmp_path)


def test_failed_cell_is_marked_with_its_reason_below(records: list[Record], tmp_path: Path) -> None:
    failed = [Failure(stage="prune", error="not finite: 100% of T & more")]
    update = {"quality": {}, "prune": None, "serving": None, "failures": failed, "status": "failed"}
    changed = [
        r.model_copy(update=update if (r.layers, r.label) == (6, "lstsq") else {}) for r in records
    ]
    text = FORMATS["latex"](build(changed))
    assert r"lstsq $\times$ & 6 & yes & \textendash{}" in text
    assert r"$\times$ lstsq at 6: prune: not finite: 100\% of T \& more\par" in text
    check(text, tmp_path)
