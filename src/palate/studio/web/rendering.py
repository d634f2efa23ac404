"""Pages and untrusted text.

What models and people write is Markdown at best and an attack at worst. `safe_html` turns it into HTML with raw HTML
and images off, and sanitises *last*, after everything that could have made markup. Templates escape by default.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import nh3
from fastapi import Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from palate import disk
from palate.studio.web.mathematics import Protected, protect
from palate.studio.web.navigation import entries_for

STUDIO = Path(__file__).parents[1]
STATIC = STUDIO / "static"

_TAGS = {
    "p", "br", "hr", "em", "strong", "s", "code", "pre", "blockquote", "ul", "ol", "li", "a", "table", "thead", "tbody",
    "tr", "th", "td", "h3", "h4", "h5", "h6", "span",
}  # fmt: skip
_MATHML = {
    "math", "menclose", "mfrac", "mi", "mn", "mo", "mover", "mpadded", "mphantom", "mroot", "mrow", "mspace", "msqrt",
    "mstyle", "msub", "msubsup", "msup", "mtable", "mtd", "mtext", "mtr", "munder", "munderover",
}  # fmt: skip
_MATHML_ATTRIBUTES = {
    "accent", "columnalign", "dir", "display", "displaystyle", "fence", "form", "linethickness", "lspace",
    "mathvariant", "maxsize", "minsize", "movablelimits", "rspace", "scriptlevel", "separator", "stretchy", "width",
}  # fmt: skip
_SIZES = {"linethickness", "lspace", "maxsize", "minsize", "rspace", "width"}
_TEXT_BLOCKS = ("p", "h3", "h4", "h5", "h6", "li", "ul", "ol", "blockquote", "pre", "td", "th")
_MARKDOWN = MarkdownIt("commonmark", {"html": False, "linkify": False}).enable(["table", "strikethrough"])
_MARKDOWN.disable(["image", "html_block", "html_inline"])


def safe_html(text: str) -> Markup:
    """Markdown as HTML that can do no harm: no raw HTML, no images, links to http, https and mailto alone.

    Formulas are shown as MathML. Every paragraph, item and cell is laid out in its own direction.
    """
    protected = protect(text)
    tokens = _MARKDOWN.parse(protected.text)
    _restore_code(tokens, protected)
    html = _MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {})
    html = protected.restore(html, lambda formula: formula.html)
    html = html.replace("<h1>", "<h3>").replace("</h1>", "</h3>").replace("<h2>", "<h4>").replace("</h2>", "</h4>")
    clean = nh3.clean(
        html,
        tags=_TAGS | _MATHML,
        attributes={"a": {"href"}, "ol": {"start"}} | dict.fromkeys(_MATHML, _MATHML_ATTRIBUTES),
        attribute_filter=_filtered,
        set_tag_attribute_values={tag: {"dir": "auto"} for tag in _TEXT_BLOCKS},
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
    )
    return Markup(clean)


def _restore_code(tokens: Sequence[Token], protected: Protected) -> None:
    """Code and addresses have no formulas: what was taken out of them goes back as it was."""
    for token in tokens:
        if token.type in {"code_inline", "code_block", "fence"}:
            token.content = protected.restore(token.content, lambda formula: formula.source)
        if "href" in token.attrs:  # marks are percent-encoded there
            token.attrs["href"] = protected.restore(unquote(str(token.attrs["href"])), lambda formula: formula.source)
        _restore_code(token.children or (), protected)


def _filtered(tag: str, attribute: str, value: str) -> str | None:
    """Sizes in a formula are a few characters, so that it cannot cover the page."""
    if tag in _MATHML and attribute in _SIZES and not re.fullmatch(r"-?[0-4]?(\.\d+)?(em|px)?", value):
        return None
    return value


def page(request: Request, template: str, *, status: int = 200, **context: Any) -> HTMLResponse:
    """An HTML page: the template with who is signed in, where they are and what they may see."""
    visitor = getattr(request.state, "visitor", None)
    user = visitor.user if visitor else None
    found = _environment().get_template(template)
    html = found.render(
        request=request,
        workspace_name=request.app.state.workspace.settings.name,
        user=user,
        csrf=(visitor.csrf or "") if visitor else "",
        navigation=entries_for(user.role) if user else [],
        path=request.url.path,
        **context,
    )
    return HTMLResponse(html, status_code=status)


def fragment(template: str, **context: Any) -> str:
    """A piece of a page, for a script that puts it in place."""
    return _environment().get_template(template).render(**context)


def go_to(request: Request, path: str) -> Response:
    """On to another page after a form; a script is told where, a browser is sent."""
    if wants_json(request):
        return JSONResponse({"location": path})
    return RedirectResponse(path, status_code=303)


def wants_json(request: Request) -> bool:
    """Whether a program asks rather than a browser that shows pages."""
    accepted = request.headers.get("accept", "")
    return request.url.path.startswith(("/api/", "/v1/")) or "text/html" not in accepted


def data_block(value: Any) -> Markup:
    """JSON for a ``<script type="application/json">``, which the page's own scripts read."""
    text = disk.json_text(value, ensure_ascii=False).replace("<", "\\u003c").replace("&", "\\u0026")
    return Markup(text)


def duration(seconds: float | None) -> str:
    """90 -> "1 min 30 s"; empty for None."""
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def ago(at: float | None) -> str:
    """How long since a time: "5 min ago", "3 days ago"."""
    if at is None:
        return "never"
    seconds = max(time.time() - at, 0)
    if seconds >= 2 * 86400:
        return f"{seconds // 86400:.0f} days ago"
    return f"{duration(seconds if seconds < 60 else seconds // 60 * 60)} ago"


def day(at: float | None) -> str:
    """A time as "2026-05-01 14:30" (UTC)."""
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M", time.gmtime(at))


@cache
def asset(name: str) -> str:
    """URL of a static file; it changes with the file, so that browsers never keep an old one."""
    digest = hashlib.blake2b((STATIC / name).read_bytes(), digest_size=6).hexdigest()
    return f"/static/{name}?v={digest}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(STUDIO / "templates"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    helpers: Mapping[str, Any] = {"asset": asset, "safe_html": safe_html, "data_block": data_block}
    environment.globals.update(helpers)
    environment.filters.update({"duration": duration, "ago": ago, "day": day})
    return environment
