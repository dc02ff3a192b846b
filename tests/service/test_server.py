"""Starting and stopping the service."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

from clipret import Client, ServeConfig
from clipret.errors import ServiceError, UsageError
from clipret.service import server
from clipret.service.server import open_service
from tests.service.conftest import serving


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"host": "0.0.0.0"},
            "--host 0.0.0.0 lets other machines in; give --token SECRET too, as of: openssl rand -hex 16",
        ),
        ({"token": "short"}, "--token has to have 16 characters or more of ASCII, as of: openssl rand -hex 16"),
        ({"host": "a b"}, "--host is 'a b'; expected an address or a name."),
        ({"allow_host": ("http://x",)}, "--allow-host is 'http://x'; expected a name such as photos.example.org."),
        ({"cors": ("x",)}, "--cors is 'x'; expected an origin such as https://photos.example.org."),
        ({"port": 65536}, "--port is 65536; expected at most 65,535."),
    ],
)
def test_settings_that_would_let_others_in_are_refused(settings, message):
    with pytest.raises(UsageError) as caught:
        ServeConfig(cache="c.h5", **settings)
    assert str(caught.value) == message


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "localhost", "::1", "[::1]"])
def test_this_machine_needs_no_token(host):
    assert ServeConfig(cache="c.h5", host=host).local


def test_a_port_that_is_taken_is_told_before_the_encoder_is_loaded(searchable, monkeypatch):
    monkeypatch.setattr(server, "open_searcher", None)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UsageError) as caught:
            open_service(ServeConfig(cache=searchable.cache, port=port))
    assert str(caught.value) == (
        f"cannot listen on 127.0.0.1 port {port}: Address already in use; give another --port."
    )


def test_the_port_does_not_answer_before_the_encoder_is_there(searchable, tmp_path, monkeypatch):
    seen = []
    opened = server.open_searcher

    def watched(config, heads, **settings):
        (port,) = taken
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
        seen.append(port)
        return opened(config, heads, **settings)

    taken, take = [], server._taken

    def taking(config):
        made = take(config)
        taken.append(made.getsockname()[1])
        return made

    monkeypatch.setattr(server, "_taken", taking)
    monkeypatch.setattr(server, "open_searcher", watched)
    with serving(searchable, tmp_path, heads=False) as running:
        assert seen == [running.port]
        assert running.client().info()


def test_a_missing_package_is_named(searchable, monkeypatch):
    find = server.require_package.__globals__["importlib"].util.find_spec
    monkeypatch.setattr(
        server.require_package.__globals__["importlib"].util,
        "find_spec",
        lambda name: None if name == "uvicorn" else find(name),
    )
    with pytest.raises(UsageError) as caught:
        open_service(ServeConfig(cache=searchable.cache))
    assert str(caught.value) == "clipret serve needs the package uvicorn; run: pip install 'clipret[serve]'"


def test_two_runs_of_one_name_are_refused(searchable):
    with pytest.raises(UsageError, match="there are two heads called"):
        open_service(ServeConfig(cache=searchable.cache, head=(searchable.run, searchable.run), port=0))


def test_requests_in_flight_are_answered_when_it_stops(searchable, tmp_path, monkeypatch):
    from clipret.service.web import work

    slow = work.Worker.__call__

    def slowly(self, jobs):
        started.set()
        time.sleep(1.0)
        return slow(self, jobs)

    started, answers = threading.Event(), []
    monkeypatch.setattr(work.Worker, "__call__", slowly)
    with serving(searchable, tmp_path, heads=False) as running:
        asking = threading.Thread(target=lambda: answers.append(running.client().search("sun")))
        asking.start()
        started.wait(10)
        running.service.stop()
        asking.join(20)
        running.thread.join(20)
        assert answers[0]["hits"]
        with pytest.raises(ServiceError, match="does not answer"):
            running.client().info()


def test_a_fault_of_ours_is_told_in_the_terminal_and_not_to_the_client(searchable, tmp_path, monkeypatch):
    from clipret.service.describing import Descriptions

    def broken(*args, **settings):
        raise RuntimeError(f"cannot read {searchable.cache}")

    monkeypatch.setattr(Descriptions, "hits", broken)
    with serving(searchable, tmp_path, heads=False) as running:
        status, message = running.error("POST", "/v1/search", {"text": "sun"})
        assert (status, message) == (500, "the service could not answer; its terminal says why")
        assert running.complaints() == [f"POST /v1/search: RuntimeError: cannot read {searchable.cache}"]
        assert running.ask("GET", "/health")[0] == 200


@pytest.mark.ci
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_told_to_stop(searchable, tmp_path, number):
    words = ["serve", str(searchable.cache), "--head", str(searchable.run), "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "clipret", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        line = process.stdout.readline()
        url = line.split()[0]
        assert line == f"{url}  (Ctrl-C ends it; marks go to marks.csv)\n"
        assert Client(url).search("sun", k=1)["hits"]
        with urllib.request.urlopen(url) as page:
            assert b"<title>clipret: search</title>" in page.read()
        process.send_signal(number)
        assert process.wait(20) == 0
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.ci
def test_killed_and_started_again_it_uses_what_was_kept(searchable, tmp_path):
    words = ["search", str(searchable.cache), "sun", "--json", "--device", "cpu", "--embeddings", str(tmp_path)]
    command = [sys.executable, "-m", "clipret", *words]
    hits = []
    for _ in range(3):
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        time.sleep(2.5)
        process.kill()
        process.communicate()
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
        hits.append(json.loads(done.stdout)["hits"])
    assert hits[0] == hits[1] == hits[2]


def test_a_port_that_another_took_meanwhile_is_named(searchable, tmp_path):
    settings = {"cache": searchable.cache, "device": "cpu", "marks": tmp_path / "marks.csv"}
    first = open_service(ServeConfig(port=0, **settings))
    port = first._port.getsockname()[1]
    second = open_service(ServeConfig(port=port, **settings))
    ready = threading.Event()
    thread = threading.Thread(target=first.run, kwargs={"on_ready": ready.set})
    thread.start()
    try:
        assert ready.wait(30)
        with pytest.raises(UsageError) as caught:
            second.run()
        assert str(caught.value) == (
            f"cannot listen on 127.0.0.1 port {port}: Address already in use; give another --port."
        )
    finally:
        first.stop()
        thread.join(30)
