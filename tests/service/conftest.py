"""A small data set of drawings, extracted and trained on once, and services of it on the loopback interface."""

import csv
import http.client
import json
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from clipret import Client, DatasetConfig, ExtractConfig, ServeConfig, TrainConfig, extract, train
from clipret.datasets.emoji import load_emoji
from clipret.service.server import open_service

# Of a caption that means harm, in pages and in terminals.
HARMFUL = '<script>document.title="taken"</script> & "quotes" \x1b[31mred'
IMAGES = 160


class Searchable:
    """A cache of drawings with a run.

    cache   path
    run     its folder
    root    folder of the drawings
    """

    def __init__(self, cache: Path, run: Path, root: Path):
        self.cache, self.run, self.root = cache, run, root


@pytest.fixture(scope="session")
def searchable(tmp_path_factory) -> Searchable:
    folder = tmp_path_factory.mktemp("searchable")
    emoji = load_emoji(DatasetConfig(dataset="emoji"))
    splits = ("train", "train", "val", "test")
    with (folder / "drawings.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "caption", "split", "id"))
        for caption, image in zip(emoji.captions, emoji.caption_images.tolist(), strict=True):
            if image % 12 == 0 and image < 12 * IMAGES:
                writer.writerow((emoji.image_files[image], caption, splits[image // 12 % 4], emoji.image_ids[image]))
        writer.writerow((emoji.image_files[0], HARMFUL, splits[0], emoji.image_ids[0]))
    out = folder / "drawings.h5"
    extract(
        ExtractConfig(
            dataset=str(folder / "drawings.csv"), root=emoji.root, model="tiny-emoji", out=out, workers=0, device="cpu"
        )
    )
    run = train(TrainConfig(cache=out, epochs=3, lr=1e-3, runs_dir=folder / "runs"))["run"]
    return Searchable(out, Path(run), Path(emoji.root))


class Served:
    """A running service.

    logged  lines about errors of ours
    """

    def __init__(self, service, thread: threading.Thread, logged: list[str]):
        self.service, self.thread, self.logged, self.url = service, thread, logged, service.url
        self.host, self.port = "127.0.0.1", int(service.url.rsplit(":", 1)[1].strip("/"))

    def client(self, **settings) -> Client:
        return Client(self.url, **settings)

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
