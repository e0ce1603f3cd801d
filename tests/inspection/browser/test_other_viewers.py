"""Files of ours in other people's viewers, which `make test-all` installs: they open unchanged."""

import functools
import http.server
import importlib.util
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from starquant_fx.inspection.collection import to_json
from tests.inspection.browser.viewer import Viewer
from tests.inspection.test_recorder import recorded

EXPLORER = "model_explorer"
ADAPTER = {"fileExts": ["json"], "type": "adapter", "id": "builtin_json", "name": "JSON adapter"}
"""What Model Explorer's own server says of the reader of JSON that its page brings along."""


def folder_of(package: str) -> Path:
    """Where a package lies; it is not imported, as its dependencies are not there."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"{package} is not installed (make viewers)")
    return Path(found.origin).parent


class Pages(http.server.SimpleHTTPRequestHandler):
    """Model Explorer's page, and the one answer of its server that it needs."""

    def do_GET(self) -> None:
        if not self.path.startswith("/api"):
            super().do_GET()
            return
        body = json.dumps([ADAPTER] if "extensions" in self.path else {}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def explorer() -> Iterator[str]:
    pages = functools.partial(Pages, directory=str(folder_of(EXPLORER) / "web_app"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.slow
def test_model_explorer_opens_a_recording(session: Viewer, explorer: str, tmp_path: Path) -> None:
    recording, _ = recorded("odd", "star-w4a4")
    path = tmp_path / "recording.json"
    path.write_text(to_json(recording))
    session.driver.get(explorer)
    session.wait("return document.querySelector('input[type=file]') !== null")
    session.find("input[type=file]").send_keys(str(path))
    enabled = "return document.querySelector('.btn-view-models:not([disabled])') !== null"
    session.wait(enabled)
    session.run("document.querySelector('.btn-view-models').click()")
    largest = max(recording.stages, key=lambda stage: len(stage.nodes))
    session.wait(f"return document.body.innerText.includes('{largest.name}')")
    shown = str(session.run("return document.body.innerText"))
    assert "odd star-w4a4" in shown
    assert f"{len(largest.nodes)} nodes" in shown
    assert "recipe" in shown
    session.driver.get("about:blank")
    session.complaints()  # its fonts are on the network


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_netron_opens_the_exported_files(session: Viewer, kind: str, tmp_path: Path) -> None:
    folder_of("netron")
    netron = importlib.import_module("netron")
    if kind == "onnx":
        from tests.export.small import compiled

        compiled("odd").export_onnx(tmp_path / "a", verify=False)
        path, wanted = tmp_path / "a" / "model.onnx", "MatMul"
    else:
        from starquant_fx.inspection.exported_program import save_exported_program
        from tests.export.small import compiled

        path, wanted = tmp_path / "a.pt2", "quantized_linear"
        save_exported_program(compiled("odd"), path)
    address = netron.start(str(path), address=("127.0.0.1", 0), browse=False)
    try:
        session.driver.get(f"http://{address[0]}:{address[1]}/")
        # It asks for consent first where it cannot find out in which country it is.
        session.wait(
            "document.getElementById('message-button')?.click();"
            "return document.querySelectorAll('#target .node').length > 20"
        )
        assert wanted in str(session.run("return document.getElementById('target').textContent"))
    finally:
        netron.stop(address)
        session.driver.get("about:blank")
        session.complaints()
