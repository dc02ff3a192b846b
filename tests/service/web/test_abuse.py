"""What clients may try: each gets the right status and one line of JSON, and the service goes on."""

import base64
import io
import json
import socket
import struct
import time
import zlib

import pytest
from PIL import Image

from tests.helpers.searchable import HARMFUL
from tests.service.conftest import serving

SEARCH = "/v1/search"


@pytest.fixture(autouse=True)
def alive(served):
    """It answers after whatever was tried, and nothing of ours went wrong."""
    yield
    assert served.ask("GET", "/health")[0] == 200
    assert served.logged == []


@pytest.mark.parametrize(
    "path",
    [
        "/v1/images/../../../etc/passwd",
        "/v1/images/..%2f..%2f..%2fetc%2fpasswd",
        "/v1/images/%2e%2e/%2e%2e/etc/passwd",
        "/v1/images//etc/passwd",
        "/v1/images/1%00.png",
        "/v1/images/-1",
        "/v1/images/1.5",
        "/v1/images/99999999",
        "/v1/images/" + "9" * 400,
        "/v1/captions/..",
        "/v1/captions/99999999",
        "/v1/images/99999999/about",
        "/../../etc/passwd",
        "/page/../server.py",
        "/page.css/../../server.py",
        "/%2e%2e/server.py",
        "/file:///etc/passwd",
        "/http://127.0.0.1/",
    ],
)
def test_paths_that_lead_elsewhere_lead_nowhere(served, path):
    status, message = served.error("GET", path)
    assert status == 404
    assert "root" not in message.replace("--root", "")
    assert "/" not in message


@pytest.mark.parametrize(
    "value", ["..", "../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "http://127.0.0.1:9/x"]
)
@pytest.mark.parametrize("name", ["head", "find", "split", "image", "k", "offset", "row", "caption", "min_score"])
def test_no_parameter_takes_a_path_or_an_address(served, name, value):
    body = {"text": "sun", name: value}
    assert served.error("POST", SEARCH, body)[0] == 400
    picture = Image.new("RGB", (8, 8))
    content = io.BytesIO()
    picture.save(content, "PNG")
    status, _ = served.error("POST", f"{SEARCH}?{name}={value}", content.getvalue(), kind="image/png")
    assert status == 400


def test_words_are_never_read_as_files(served, searchable):
    words = str(searchable.root / "2764.png")
    first = served.client().search(words)["hits"]
    assert first == served.client().search(f'"{words}"')["hits"]


@pytest.mark.parametrize("value", ["..", "../1", "%00", "1e9", "-1", "999999", ""])
def test_sizes_are_of_a_list(served, value):
    assert served.error("GET", f"/v1/images/1?size={value}")[0] == 400
    assert served.error("GET", f"/v1/images/1?file={value}")[0] == 400


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"text": "x", "k": 10**9}, "k is 1000000000; expected 1 to 1,000"),
        ({"text": "x", "k": 0}, "k is 0; expected 1 to 1,000"),
        (
            {"text": "x", "k": 10**30},
            "the body cannot be used: k is a whole number of over 63 bits; expected ",
        ),
        ({"text": "x", "k": "10"}, "the body cannot be used: k is '10'; expected a whole number"),
        ({"text": "x", "k": 1.5}, "the body cannot be used: k is 1.5; expected a whole number"),
        ({"text": "x", "k": True}, "the body cannot be used: k is true; expected a whole number"),
        ({"text": "x", "offset": -1}, "offset is -1; expected 0 to 10,000"),
        ({"text": "x", "offset": 10**6}, "offset is 1000000; expected 0 to 10,000"),
        ({"text": 3}, "the body cannot be used: text is 3; expected text"),
        ({"text": None}, "the body cannot be used: text is null; expected text"),
        ({"text": ["x"]}, "the body cannot be used: text is a list; expected text"),
        ({"text": ""}, "the query '' has a term without words; expected such as: two dogs + snow - beach"),
        ({"text": "x" * 2001}, "the query has 2,001 characters; expected at most 2,000."),
        ({"text": "x", "min_score": 2}, "min_score is 2; expected -1 to 1"),
        (
            {"text": "x", "url": "http://x"},
            "the body has the field 'url'; expected only text, image, row, caption",
        ),
        ({}, "say what to look for: text, image, row or caption"),
        ([], "the body cannot be used: it is a list; expected an object"),
        (b"", "the body cannot be used: it is not JSON: Expecting value, line 1, column 1"),
        (b"{", "the body cannot be used: it is not JSON"),
        (b'{"text": "x", "k": NaN}', "the body cannot be used: it has NaN where a number is expected"),
        (b'{"text": "x", "min_score": 1e999}', "the body cannot be used: it has the number 1e999, which is too large"),
        (b'{"text": "x", "text": "y"}', "the body cannot be used: its field 'text' is there twice"),
        (b"[" * 60_000, "the body cannot be used: it nests too deep"),
        (b"\xff\xfe", "the body cannot be used: it is not UTF-8 text"),
        ({"image": "no base64!"}, "image is no base64"),
        (
            {"image": base64.b64encode(b"no picture").decode()},
            "this is no picture; expected one of JPEG, PNG",
        ),
        ({"row": 10**9}, "there is no image with a feature of this row"),
        ({"caption": -1}, "there is no caption with a feature of this row"),
    ],
)
def test_bodies_that_are_wrong(served, body, message):
    status, said = served.error("POST", SEARCH, body)
    assert status == (404 if "row" in message.partition(";")[0] and "feature" in message else 400)
    assert said.startswith(message)


def test_sums_that_cancel_out_are_told_of_and_others_are_answered(served):
    assert served.error("POST", SEARCH, {"text": "sun - sun"}) == (
        400,
        "the terms of the query cancel each other out; expected a sum that is not zero.",
    )


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
@pytest.mark.parametrize("path", [SEARCH, "/v1/marks", "/v1/embed", "/v1/session"])
def test_bodies_that_pages_elsewhere_may_send_are_refused(served, path, kind):
    assert served.error("POST", path, b'{"text": "x"}', kind=kind)[0] == 415


@pytest.mark.parametrize("path", [SEARCH, "/v1/marks", "/v1/embed"])
def test_nothing_changes_by_get(served, path):
    assert served.error("GET", path)[0] == 405
    assert served.error("DELETE", "/v1/images/1")[0] == 405


def raw(served, content: bytes, *, wait: float = 20.0) -> bytes:
    """What comes back for bytes as they are, until the connection ends."""
    with socket.create_connection((served.host, served.port), timeout=wait) as connection:
        connection.sendall(content)
        parts = []
        try:
            while part := connection.recv(65536):
                parts.append(part)
        except (TimeoutError, ConnectionResetError):
            pass
        return b"".join(parts)


def head_of(served, *lines: str, path: str = SEARCH) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", f"Host: 127.0.0.1:{served.port}", *lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("path", "kind"), [(SEARCH, "application/json"), (SEARCH, "image/png"), ("/v1/embed", "image/png")]
)
def test_a_body_of_two_gigabytes_is_refused_before_it_is_read(served, path, kind):
    answer = raw(
        served, head_of(served, f"Content-Type: {kind}", "Content-Length: 2147483648", path=path) + b"x" * 1000
    )
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'{"error":"the body is too large; expected at most ' in answer


def test_a_body_that_does_not_say_how_long_it_is_is_cut_off(served):
    with socket.create_connection((served.host, served.port), timeout=20) as connection:
        connection.sendall(head_of(served, "Content-Type: image/png", "Transfer-Encoding: chunked"))
        chunk = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
        answer = b""
        try:
            for _ in range(200):
                connection.sendall(chunk)
        except (BrokenPipeError, ConnectionResetError):
            pass
        try:
            answer = connection.recv(65536)
        except ConnectionResetError:
            answer = b"HTTP/1.1 413 reset"
    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "content", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\0" * 100]
)
def test_what_is_no_http_is_told_so(served, content):
    answer = raw(served, content + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.endswith(b'{"error":"this is no HTTP request"}\n')


def test_a_head_without_end_is_refused(served):
    answer = raw(served, f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nx: ".encode() + b"a" * 200_000)
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))


@pytest.mark.ci
def test_slow_clients_are_let_go(served):
    started = time.monotonic()
    with socket.create_connection((served.host, served.port), timeout=30) as slow_head:
        slow_head.sendall(b"GET / HTTP/1.1\r\n")
        assert slow_head.recv(100) == b""
    assert 8 < time.monotonic() - started < 15
    started = time.monotonic()
    answer = raw(
        served, head_of(served, "Content-Type: application/json", "Content-Length: 100") + b'{"text":', wait=30
    )
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert 13 < time.monotonic() - started < 20


def png_of(width: int, height: int) -> bytes:
    """A PNG that says it is so large, of rows that compress to nearly nothing."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    packed = zlib.compressobj(9)
    row = b"\0" * (1 + (width + 7) // 8)
    rows = b"".join(packed.compress(row) for _ in range(height)) + packed.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("path", [SEARCH, "/v1/embed"])
def test_pictures_of_a_hundred_megapixels_are_not_decoded(served, path):
    status, message = served.error("POST", path, png_of(10_000, 10_000), kind="image/png")
    assert (status, message) == (413, "the picture has 100,000,000 pixels; expected at most 40,000,000")
    body = {"image": base64.b64encode(png_of(60_000, 60_000)).decode()}
    assert served.error("POST", SEARCH, body)[0] == 413


def small_picture(**settings) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(content, **settings)
    return content.getvalue()


def test_broken_and_strange_pictures_are_refused(served):
    whole = small_picture(format="JPEG")
    for content in (whole[:200], whole[:-200] + b"\0" * 200, b"GIF89a", b"<svg></svg>", b"%PDF-1.4", b"RIFF0000WEBP"):
        assert served.error("POST", SEARCH, content, kind="image/png")[0] in (200, 400)
    for kind in ("TIFF", "PPM", "ICO", "TGA"):
        assert served.error("POST", SEARCH, small_picture(format=kind), kind="image/png")[0] == 400
    long_line = io.BytesIO()
    Image.new("1", (1, 30_000_000 // 64)).save(long_line, "PNG")
    assert served.error("POST", SEARCH, long_line.getvalue(), kind="image/png")[0] == 400


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil.example", "", "a b", "[::1"]
)
def test_names_that_somebody_pointed_here_are_refused(served, host):
    assert served.error("GET", "/v1/info", headers={"host": host}) == (
        400,
        "the Host header names another machine (--allow-host)",
    )


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "[::1]:8000", "192.168.1.7:8000"])
def test_names_of_this_machine_are_answered(served, host):
    assert served.ask("GET", "/v1/info", headers={"host": host})[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1", "https://127.0.0.1:1"])
def test_pages_of_other_origins_are_refused(served, origin):
    for method, path, body in (("POST", SEARCH, {"text": "x"}), ("GET", "/v1/info", None), ("OPTIONS", SEARCH, None)):
        assert served.error(method, path, body, headers={"origin": origin})[0] == 403
    assert "access-control-allow-origin" not in served.ask("GET", "/v1/info")[1]


def test_the_page_of_the_service_itself_may_ask(served):
    own = {"origin": served.url.rstrip("/")}
    assert served.ask("POST", SEARCH, {"text": "x"}, headers=own)[0] == 200


def test_every_answer_has_the_headers_that_protect_it(served):
    for path in ("/", "/v1/info", "/nowhere", "/v1/images/1", "/page.js"):
        headers = served.ask("GET", path)[1]
        assert headers["content-security-policy"].startswith("default-src 'self'; ")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "server" not in headers


def test_harmful_captions_come_as_text(served):
    content = served.ask("POST", SEARCH, {"text": "x", "find": "captions", "k": 1000})[2]
    assert b"\x1b" not in content
    assert HARMFUL in [hit["caption"] for hit in json.loads(content)["hits"]]


def test_five_hundred_connections_at_once(served):
    connections = [socket.create_connection((served.host, served.port), timeout=60) for _ in range(500)]
    try:
        request = f"GET /v1/info HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n".encode()
        for connection in connections:
            connection.sendall(request)
        statuses = {connection.recv(12) for connection in connections}
        assert statuses <= {b"HTTP/1.1 200", b"HTTP/1.1 503"}
        assert b"HTTP/1.1 200" in statuses
        assert served.ask("GET", "/health")[0] == 200
    finally:
        for connection in connections:
            connection.close()


def test_a_token_is_asked_for(searchable, tmp_path):
    token = "0123456789abcdef-x"
    with serving(searchable, tmp_path, token=token) as locked:
        for path in ("/v1/info", "/metrics", "/openapi.json", "/v1/images/1", "/v1/captions/1"):
            assert locked.error("GET", path) == (401, "the token is missing or wrong")
        for sent in ("", token[:-1], f"{token}x", token.upper(), "é" * 18):
            headers = {"authorization": f"Bearer {sent}".encode()}
            assert locked.error("GET", "/v1/info", headers=headers)[0] == 401
            assert locked.error("POST", "/v1/session", {"token": sent})[0] == 401
        for path in ("/", "/page.js", "/health"):
            assert locked.ask("GET", path)[0] == 200
        assert locked.client(token=token).info()["model"] == "tiny-emoji"
        status, headers, _ = locked.ask("POST", "/v1/session", {"token": token})
        assert status == 200
        assert "httponly" in headers["set-cookie"].lower()
        assert "samesite=strict" in headers["set-cookie"].lower()
        cookie = headers["set-cookie"].partition(";")[0]
        assert locked.ask("GET", "/v1/info", headers={"cookie": cookie})[0] == 200
        assert locked.error("GET", "/v1/info", headers={"cookie": "clipret_token=x; \x01"})[0] == 401
        assert locked.logged == []


def test_origins_and_names_that_were_given_are_allowed(searchable, tmp_path):
    origin = "https://photos.example"
    with serving(searchable, tmp_path, heads=False, cors=(origin,), allow_host=("photos.example",)) as open_to:
        headers = {"origin": origin, "host": "Photos.Example:443"}
        assert open_to.ask("GET", "/v1/info", headers=headers)[1]["access-control-allow-origin"] == origin
        status, answered, _ = open_to.ask("OPTIONS", SEARCH, headers=headers)
        assert status == 204
        assert "POST" in answered["access-control-allow-methods"]
        assert open_to.error("GET", "/v1/info", headers={"origin": "https://other.example"})[0] == 403


def test_originals_are_served_only_where_that_was_asked_for(searchable, tmp_path):
    from clipret import FeatureCache

    with serving(searchable, tmp_path, heads=False, originals=True) as open_to:
        status, headers, content = open_to.ask("GET", "/v1/images/2?original=1")
        file = FeatureCache(searchable.cache).image_files[2]
        assert (status, headers["content-type"]) == (200, "image/png")
        assert content == (searchable.root / file).read_bytes()
        assert open_to.error("GET", "/v1/images/2?original=../x")[0] == 400


def test_images_that_are_gone_or_no_images_are_not_shown(searchable, tmp_path):
    from clipret import FeatureCache

    file = FeatureCache(searchable.cache).image_files[2]
    (tmp_path / file).write_text("secret")
    with serving(searchable, tmp_path, heads=False, originals=True, root=tmp_path) as elsewhere:
        assert elsewhere.error("GET", "/v1/images/1") == (404, "the file of this image cannot be read (--root)")
        assert elsewhere.error("GET", "/v1/images/2") == (404, "the file of this image cannot be shown")
        assert elsewhere.error("GET", "/v1/images/2?original=1")[0] == 400
        assert elsewhere.client().search("sun")["hits"]
