"""Pages and untrusted text.

What models and people write is Markdown at best and an attack at worst. `safe_html` turns it into HTML with raw HTML
and images off, and sanitises *last*, after everything that could have made markup. Templates escape by default.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import nh3
from fastapi import Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markdown_it import MarkdownIt
from markupsafe import Markup

from palate import disk
from palate.studio.web.navigation import entries_for

STUDIO = Path(__file__).parents[1]
STATIC = STUDIO / "static"

_TAGS = {
    "p", "br", "hr", "em", "strong", "s", "code", "pre", "blockquote", "ul", "ol", "li", "a", "table", "thead", "tbody",
    "tr", "th", "td", "h3", "h4", "h5", "h6", "span",
}  # fmt: skip
_MARKDOWN = MarkdownIt("commonmark", {"html": False, "linkify": False}).enable(["table", "strikethrough"])
_MARKDOWN.disable(["image", "html_block", "html_inline"])


def safe_html(text: str) -> Markup:
    """Markdown as HTML that can do no harm: no raw HTML, no images, links to http, https and mailto alone."""
    html = _MARKDOWN.render(text)
    html = html.replace("<h1>", "<h3>").replace("</h1>", "</h3>").replace("<h2>", "<h4>").replace("</h2>", "</h4>")
    clean = nh3.clean(
        html,
        tags=_TAGS,
        attributes={"a": {"href"}, "ol": {"start"}},
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
    )
    return Markup(clean)


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
