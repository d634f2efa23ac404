"""How reports look: one palette for pictures and page, light and dark.

A picture is drawn in the light colours. On the way into the page each of them becomes ``var(--name, #light)``, so that
the browser can swap the palette when it prefers dark, and the picture still stands alone.
"""

from __future__ import annotations

LIGHT = {
    "ink": "#1c2330",
    "muted": "#596273",
    "grid": "#e4e7ec",
    "paper": "#ffffff",
    "blue": "#2f6fde",
    "orange": "#d9730d",
    "green": "#0f9d6c",
    "purple": "#8b54c9",
    "red": "#d2414f",
    "teal": "#138ea8",
}
DARK = {
    "ink": "#e8ebf1",
    "muted": "#a3acbd",
    "grid": "#2c3442",
    "paper": "#151a23",
    "blue": "#6ea4ff",
    "orange": "#f2a04e",
    "green": "#3fcf9b",
    "purple": "#bd93f2",
    "red": "#ff7b86",
    "teal": "#4fc3da",
}
SERIES = tuple(LIGHT[name] for name in ("blue", "orange", "green", "purple", "red", "teal"))


def _variables(colours: dict[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in colours.items())


CSS = f"""
:root{{color-scheme:light dark;{_variables(LIGHT)}}}
@media (prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}
*{{box-sizing:border-box}}
body{{margin:0;background:var(--paper);color:var(--ink);font:17px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif}}
main{{max-width:60rem;margin:0 auto;padding:3rem 1.25rem 5rem}}
h1{{font-size:2.1rem;line-height:1.2;margin:0;letter-spacing:-.02em}}
h2{{font-size:1.25rem;margin:3rem 0 .75rem;letter-spacing:-.01em}}
p{{margin:.5rem 0;max-width:44rem}}
.subtitle,.note,figcaption,caption{{color:var(--muted)}}
.subtitle{{font-size:1.1rem;margin-top:.4rem}}
.numbers{{display:grid;grid-template-columns:repeat(auto-fit,minmax(13rem,1fr));gap:.9rem;margin:2rem 0 0;padding:0}}
.number{{min-width:0;border:1px solid var(--grid);border-radius:.75rem;padding:1rem 1.1rem}}
.number dt{{font-size:.92rem;color:var(--muted);overflow-wrap:anywhere}}
.number dd{{margin:0}}
.value{{font-size:1.9rem;font-weight:650;line-height:1.25;font-variant-numeric:tabular-nums;letter-spacing:-.02em}}
.interval{{font-variant-numeric:tabular-nums}}
.note{{font-size:.85rem;line-height:1.4;margin-top:.35rem}}
figure{{margin:0}}
figure svg{{display:block;width:100%;height:auto;overflow:visible;min-width:30rem}}
figure svg *{{stroke-linejoin:round;stroke-linecap:butt}}
figcaption,caption{{font-size:.92rem;text-align:left;padding:.4rem 0;max-width:44rem}}
caption{{caption-side:bottom}}
.wide{{overflow-x:auto}}
table{{border-collapse:collapse;width:100%;font-size:.95rem}}
th,td{{text-align:left;vertical-align:top;padding:.5rem .8rem .5rem 0;border-bottom:1px solid var(--grid)}}
th{{color:var(--muted);font-weight:550}}
td.figure,th.figure{{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}}
.texts td{{white-space:pre-wrap;overflow-wrap:anywhere;min-width:9rem}}
.texts td.figure{{min-width:0}}
@media print{{figure,.number,tr{{break-inside:avoid}}}}
"""
