"""A self-contained HTML page of figures and tables: no script, nothing from outside, light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from pipelines.svg import STYLE, bare

_PAGE_STYLE: Final = """
*{box-sizing:border-box}body{margin:0 auto;padding:1.5rem;max-width:78rem;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,sans-serif}main{display:flex;flex-wrap:wrap;gap:0 2rem}main>*{flex:1 1 100%;min-width:0}
main>section{flex-basis:28rem}h1{font-size:1.6rem;line-height:1.25;margin:0;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2rem 0 .25rem}figure{margin:0;overflow-x:auto}figure>svg{display:block;height:auto;
max-width:max(100%,28rem)}figcaption,caption{text-align:left;color:var(--soft)}figcaption{position:sticky;left:0;
max-width:48rem;margin-bottom:.75rem}figcaption:empty{display:none}table{border-collapse:collapse;font-size:.9rem;
font-variant-numeric:tabular-nums}th,td{padding:.2rem .4rem;text-align:right;white-space:nowrap;
border-bottom:1px solid var(--grid)}thead th{vertical-align:bottom;white-space:normal}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:var(--paper)}"""
# With this policy a browser refuses whatever would not be in the page itself.
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"


def page(title: str, sections: Sequence[tuple[str, str, str]], lead: str = "", style: str = "") -> str:
    """An HTML page that needs nothing outside itself.

    Args:
        title: Plain text.
        sections: Heading and caption as plain text, and a figure or other markup.
        lead: Markup between title and sections.
        style: More CSS.
    """
    body = "".join(
        f"<section><h2>{escape(heading)}</h2><figure><figcaption>{escape(caption)}</figcaption>\n"
        f"{bare(content)}</figure></section>\n"
        for heading, caption, content in sections
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"{STYLE}<style>{_PAGE_STYLE}{style}</style></head>\n"
        f"<body><main><h1>{escape(title)}</h1>\n{lead}{body}</main></body></html>\n"
    )
