"""Services of a small data set on the loopback interface."""

import http.client
import json
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from clipret import Client, ServeConfig
from clipret.service.server import open_service
from tests.helpers.searchable import Searchable


class Served:
    """A running service.

    logged  lines about errors of ours
    """

    def __init__(self, service, thread: threading.Thread, logged: list[str]):
        self.service, self.thread, self.logged, self.url = service, thread, logged, service.url
        self.host, self.port = "127.0.0.1", int(service.url.rsplit(":", 1)[1].strip("/"))

    def client(self, **settings) -> Client:
        return Client(self.url, **settings)

    def complaints(self) -> list[str]:
        """Lines about errors of ours, once there are any: a client has its answer before the terminal has its line."""
        for _ in range(500):
            if self.logged:
                break
            time.sleep(0.01)
        return self.logged

    def ask(self, method: str, path: str, body=None, *, headers=None, kind="application/json"):
        """Status, headers and content of a request."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        content = json.dumps(body).encode() if isinstance(body, dict | list) else body
        headers = dict(headers or {})
        if content is not None:
            headers.setdefault("content-type", kind)
        try:
            connection.request(method, path, body=content, headers=headers)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def error(self, method: str, path: str, body=None, **settings) -> tuple[int, str]:
        """Status and message of a request that is refused, which is one line of JSON."""
        status, headers, content = self.ask(method, path, body, **settings)
        assert headers["content-type"] == "application/json"
        assert content.count(b"\n") == 1
        return status, json.loads(content)["error"]


@contextmanager
def serving(searchable: Searchable, folder: Path, *, heads=True, **settings):
    """A service in a thread of this process."""
    config = ServeConfig(
        cache=searchable.cache,
        head=(searchable.run,) if heads else (),
        **{"port": 0, "device": "cpu", "marks": folder / "marks.csv"} | settings,
    )
    service, ready, logged = open_service(config), threading.Event(), []
    thread = threading.Thread(target=service.run, kwargs={"log": logged.append, "on_ready": ready.set}, daemon=True)
    thread.start()
    assert ready.wait(60)
    try:
        yield Served(service, thread, logged)
    finally:
        service.stop()
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def served(searchable, tmp_path_factory):
    with serving(searchable, tmp_path_factory.mktemp("marks")) as running:
        yield running
        assert running.logged == []
