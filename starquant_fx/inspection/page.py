"""A recording as one HTML page that shows it without a network: the viewer's files and the recording, compressed."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import re
from importlib import resources

from starquant_fx.inspection.packing import pack
from starquant_fx.inspection.recording import Recording

VIEWER = "viewer"
"""Folder of the page's parts."""
SCRIPTS = (
    "text.js",
    "data.js",
    "groups.js",
    "edges.js",
    "chains.js",
    "layers.js",
    "layout.js",
    "heat.js",
    "lines.js",
    "draw.js",
    "view.js",
    "parts.js",
    "panel.js",
    "group_panel.js",
    "overview.js",
    "search.js",
    "keys.js",
    "places.js",
    "app.js",
    "main.js",
)
"""Modules of the viewer; each comes after those that it imports."""
LIBRARY = "dagre.min.js"
LICENCE = "dagre.LICENSE.txt"

_IMPORT = re.compile(r'^import (\{[^}]*\}) from "\./([\w.]+)";$', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?(?:function|class|const|let) (\w+))", re.MULTILINE)
_SOURCE_MAP = re.compile(r"^//# sourceMappingURL=.*\n?", re.MULTILINE)


def to_html(recording: Recording) -> str:
    """The page of a recording.

    Args:
        recording: The recording.

    Returns:
        A whole HTML file. It loads nothing, and its policy forbids that it does. No text of the recording is part of
        its markup but the title, which is escaped: the rest is base64.
    """
    style, library, script = _file("style.css"), _library(), _script()
    return _filled(
        _file("page.html"),
        {
            "policy": _policy(style, library, script),
            "title": html.escape(f"{recording.model} {recording.recipe}"),
            "style": style,
            "library": library,
            "script": script,
            "data": _compressed(recording),
        },
    )


def _file(name: str) -> str:
    """One of the page's parts."""
    place = resources.files("starquant_fx.inspection").joinpath(VIEWER, name)
    return place.read_text(encoding="utf-8")


def _library() -> str:
    """Dagre under its licence, which asks to be in all copies; without the source map, which is not there."""
    return f"/*\n{_file(LICENCE)}*/\n{_SOURCE_MAP.sub('', _file(LIBRARY))}"


def _script() -> str:
    """The viewer's modules as one script: pages from files cannot import modules."""
    return '"use strict";\nconst modules = {};\n' + "".join(map(_module, SCRIPTS))


def _module(name: str) -> str:
    """A module as a function with a scope of its own, whose exports are kept under its name."""
    text = _file(name)
    exported = ", ".join(found[1] for found in _EXPORT.findall(text))
    body = _EXPORT.sub(r"\1", _IMPORT.sub(r'const \1 = modules["\2"];', text))
    return f'modules["{name}"] = (() => {{\n{body}return {{ {exported} }};\n}})();\n'


def _policy(style: str, *scripts: str) -> str:
    """A content security policy that lets the page's own style and scripts run and nothing be loaded."""
    allowed = " ".join(f"'{_digest(one)}'" for one in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src '{_digest(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _compressed(recording: Recording) -> str:
    """Without a time in its header: the same recording always gives the same page."""
    text = json.dumps(pack(recording), separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


def _filled(template: str, values: dict[str, str]) -> str:
    """Fills ``{{name}}``, all at once: what is filled in is not looked at again."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], template)
