"""Fixtures of the tests of data."""

import http.server
import threading

import pytest

from tests.data.serving import ASKED, CUT, FILES, LIE, MOVED, NO_RANGE, Handler


@pytest.fixture
def server():
    for told in (FILES, ASKED, CUT, LIE, MOVED, NO_RANGE):
        told.clear()
    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=serving.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{serving.server_port}"
    serving.shutdown()
