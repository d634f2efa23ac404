"""Formulas: shown as MathML, or exactly as they were written; and nothing that is no formula is taken for one."""

from __future__ import annotations

import html
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.studio.labeling.test_label import ATTACKS

from palate.studio.web.mathematics import MARK, mathml, protect
from palate.studio.web.rendering import safe_html


def seen(text: str) -> str:
    """What a reader sees of a text, formulas included."""
    return html.unescape(re.sub(r"<[^>]*>", "", safe_html(text))).strip()


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        (r"Let \(x\) be.", "<mi>x</mi>"),
        (r"\(a^{*} + b^{*}\)", "<msup><mi>a</mi><mrow><mo>*</mo></mrow></msup>"),
        ("so $x_i$.", "<msub><mi>x</mi><mi>i</mi></msub>"),
        ("$$\n\\frac{1}{2}\n$$", '<math display="block"'),
        ("\\[\na\n+ b\n- c\n\\]", "<mo>+</mo>"),
        ("Then \\[\nx\n= 1.\n\\]\nholds", "<mo>=</mo>"),
        (r"\begin{align}a &= b \\ c &= d\end{align}", "<mtable"),
        ("**bold $x$**", "<strong>bold <math"),
        ("1. $x$\n2. y", "<li"),
        ("| $x$ | y |\n|---|---|\n| \\(a\\) | b |", "<mi>a</mi>"),
    ],
)
def test_formulas_are_shown(text: str, inside: str) -> None:
    shown = safe_html(text)
    assert inside in shown
    assert "<math" in shown
    assert "\\" not in seen(text)
    assert "$" not in shown
    assert "<em>" not in shown


@pytest.mark.parametrize(
    "text",
    [
        "It costs $5 and $6.",
        "I have $5. You owe me 6$.",
        "US$5-$6 or $5/$6, so $10.",
        "$HOME and $PATH",
        "Call $(x) and $(y).",
        r"\(\notacommand{x}\)",
        r"\(50% of x\)",
        r"\[citation needed, see below\]",
        r"\(\frac{1}\)",
        "a^{*} b^{*}",
        r"the set \{1, 2\} and a\,b",
        r"\( unclosed {{{ \)",
        r"\(\cancel{x}\)",
        "$" + "x + " * 400 + "y$",
    ],
)
def test_what_is_no_formula_is_left_as_it_is_written(text: str) -> None:
    assert "<math" not in safe_html(text)
    assert seen(text) == text


def test_code_is_never_a_formula() -> None:
    text = "`\\(x\\)` and ``$y$`` and `$HOME` or `$PATH`\n\n```\n\\[z\\]\n```\n\n    $q^2$\n\n~~~\n$r$\n~~~"
    assert "<math" not in safe_html(text)
    for code in (r"\(x\)", "$y$", "$HOME", r"\[z\]", "$q^2$", "$r$"):
        assert code in seen(text)


def test_an_address_keeps_what_looks_like_a_script() -> None:
    assert 'href="http://a.example/?q=_{x}"' in safe_html("[link](http://a.example/?q=_{x})")


@pytest.mark.parametrize("attack", [*ATTACKS, r"\href{javascript:alert(1)}{x}", r"\text{<script>alert(1)</script>}"])
def test_attacks_in_formulas_do_nothing(attack: str) -> None:
    for text in (rf"\({attack}\)", f"$${attack}$$", f"${attack}$", f"{MARK}0{MARK} {attack}"):
        shown = safe_html(text)
        assert not re.search(r"<(script|img|svg|iframe|style|object|embed|form|input)\b", shown, re.IGNORECASE)
        assert not re.search(r"<[^>]*\s(on\w+|style|src|class|id)\s*=", shown, re.IGNORECASE)
        assert not re.search(r'(href|src)="(?!https?:|mailto:)', shown)


def test_no_formula_covers_the_page() -> None:
    shown = safe_html(r"\(\quad\hspace{1000em}x\)")
    assert 'width="1em"' in shown
    assert "1000" not in shown


@given(st.text(alphabet="ab \n\\()[]$`~{}^_*<&1.-|#>", max_size=60))
def test_what_was_taken_out_goes_back(text: str) -> None:
    protected = protect(text)
    assert protected.restore(protected.text, lambda formula: formula.source) == text
    assert MARK not in safe_html(text)


@pytest.mark.parametrize(
    "text",
    ["\\(" * 5000, "$x " * 5000, "` `` ``` " * 2000, "_{" * 8000, "\\[ a " * 4000, "$$ $ " * 4000, "\\begin{a}" * 2000],
)
def test_no_text_takes_long(text: str) -> None:
    began = time.perf_counter()
    safe_html(text)
    assert time.perf_counter() - began < 5


def test_nesting_without_end_is_no_formula() -> None:
    deep = r"\sqrt{" * 120 + "x" + "}" * 120
    assert "<math" in (mathml(r"\sqrt{\sqrt{x}}", False) or "")
    assert seen(rf"\({deep}\)")  # however it is shown
