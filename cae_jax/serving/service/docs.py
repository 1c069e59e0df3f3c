"""The list of routes at /docs: plain HTML that loads nothing from elsewhere."""

from __future__ import annotations

import html
from typing import Any

_STYLE = (
    ":root{color-scheme:light dark}body{font:1rem/1.5 system-ui,sans-serif;max-width:52rem;"
    "margin:2rem auto;padding:0 1rem}code{font-family:ui-monospace,monospace}"
    "h2{font-size:1rem;margin:1.5rem 0 0}p{margin:.25rem 0}"
)
_CURL = """curl -F image=@part.png http://HOST:PORT/predict
curl --data-binary @part.png -H "Content-Type: image/png" http://HOST:PORT/predict
curl -H "Authorization: Bearer TOKEN" http://HOST:PORT/metrics"""


def page(schema: dict[str, Any]) -> str:
    """Returns the page of an OpenAPI schema."""
    title = html.escape(schema["info"]["title"])
    routes = "".join(
        _route(method, path, about)
        for path, methods in schema["paths"].items()
        for method, about in methods.items()
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style><h1>{title}</h1>"
        '<p>The schema for clients is <a href="openapi.json">openapi.json</a>.</p>'
        f"<pre><code>{html.escape(_CURL)}</code></pre>{routes}</html>"
    )


def _route(method: str, path: str, about: dict[str, Any]) -> str:
    text = html.escape(about.get("description", ""))
    parameters = "".join(
        f"<p><code>{html.escape(each['name'])}</code> "
        f"{html.escape(each.get('description', ''))}</p>"
        for each in about.get("parameters", [])
        if each["in"] == "query"
    )
    name = f"{method.upper()} {html.escape(path)}"
    return f"<h2><code>{name}</code></h2><p>{text}</p>{parameters}"
