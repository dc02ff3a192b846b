import hashlib
import random
import re
import time

import pytest

from clipret.datasets.downloads import transfer
from clipret.datasets.downloads.transfer import Remote, fetch, origin_of, part_of
from clipret.datasets.downloads.watch import StoppedError, Watch
from clipret.errors import DatasetError
from clipret.machine.progress import silent
from tests.helpers.serving import Fault, serving

CONTENT = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
ADVICE = "Check the network, or name another server that has the same files with --base-url."


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(transfer, "PAUSES", (0, 0, 0))
    with serving() as site:
        site.files["/a.zip"] = CONTENT
        yield site


def remote(site, **changes):
    return Remote(**({"address": f"{site.address}/a.zip", "size": len(CONTENT), "md5": MD5} | changes))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.zip"


def get(site, path, **changes):
    return fetch(remote(site, **changes), path, watch=Watch(silent))


def test_a_file_is_fetched_whole_under_its_own_name(site, path):
    assert get(site, path) == "fetched"
    assert path.read_bytes() == CONTENT
    assert not part_of(path).exists()
    assert site.ranges("/a.zip") == [None]


def test_a_file_that_is_there_is_verified_and_not_asked_for(site, path):
    path.write_bytes(CONTENT)
    assert get(site, path) == "already there"
    assert site.asked == []


@pytest.mark.parametrize(
    ("content", "actual", "expected"),
    [
        (CONTENT[:1000], "1,000 bytes", "300,000 bytes"),
        (OTHER, f"MD5 {hashlib.md5(OTHER, usedforsecurity=False).hexdigest()}", f"MD5 {MD5}"),
    ],
)
def test_another_file_of_that_name_is_the_users_and_is_left_alone(site, path, content, actual, expected):
    path.write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        get(site, path)
    assert str(caught.value) == (
        f"{path} is not the published file: it has {actual}, expected {expected}; delete it, or, if it is the "
        f"beginning of that file, rename it to a.zip.part and the same command continues from there."
    )
    assert path.read_bytes() == content


def test_a_part_is_resumed_from_where_it_ends(site, path):
    part_of(path).write_bytes(CONTENT[:123_456])
    assert get(site, path) == "resumed"
    assert path.read_bytes() == CONTENT
    assert site.ranges("/a.zip") == ["bytes=123456-"]


def test_a_part_that_is_whole_already_needs_no_request(site, path):
    part_of(path).write_bytes(CONTENT)
    assert get(site, path) == "resumed"
    assert path.read_bytes() == CONTENT
    assert site.asked == []


def test_a_part_longer_than_the_file_is_fetched_anew(site, path):
    part_of(path).write_bytes(CONTENT + b"more")
    assert get(site, path) == "fetched"
    assert path.read_bytes() == CONTENT
    assert site.ranges("/a.zip") == [None]


@pytest.mark.parametrize("have", [0, 50_000])
def test_cut_connections_go_on_as_long_as_there_is_progress(site, path, have):
    part_of(path).write_bytes(CONTENT[:have])
    site.faults["/a.zip"] = [Fault(cut=20_000)] * 10
    get(site, path)
    assert path.read_bytes() == CONTENT
    expected = [have + 20_000 * tries for tries in range(11)]
    assert site.ranges("/a.zip") == [f"bytes={start}-" if start else None for start in expected]


def test_an_answer_with_too_small_a_content_length_goes_on_with_the_rest(site, path):
    part_of(path).write_bytes(CONTENT[:50_000])
    site.faults["/a.zip"] = [Fault(length=30_000)]
    get(site, path)
    assert path.read_bytes() == CONTENT
    assert site.ranges("/a.zip") == ["bytes=50000-", "bytes=80000-"]


def test_an_answer_without_content_length_that_ends_early_goes_on_with_the_rest(site, path):
    site.faults["/a.zip"] = [Fault(length=-1, cut=30_000)]
    get(site, path)
    assert path.read_bytes() == CONTENT
    assert site.ranges("/a.zip") == [None, "bytes=30000-"]


def test_without_progress_the_tries_end_and_the_part_stays(site, path):
    site.faults["/a.zip"] = [Fault(cut=20_000), *[Fault(cut=0)] * 9]
    with pytest.raises(DatasetError) as caught:
        get(site, path)
    assert str(caught.value) == (
        f"cannot download {site.address}/a.zip: the connection broke off, 4 times in a row; 20,000 of 300,000 bytes "
        f"are in {path}.part and the same command continues from there. {ADVICE}"
    )
    assert part_of(path).read_bytes() == CONTENT[:20_000]
    assert not path.exists()
    site.faults.clear()
    assert get(site, path) == "resumed"
    assert path.read_bytes() == CONTENT


def test_pauses_grow_and_begin_again_after_progress(site, path, monkeypatch):
    monkeypatch.setattr(transfer, "PAUSES", (1, 2, 4))
    paused = []
    monkeypatch.setattr(Watch, "pause", lambda self, seconds: paused.append(seconds))
    site.faults["/a.zip"] = [Fault(status=500)] * 3 + [Fault(cut=9)] + [Fault(status=503)] * 2
    get(site, path)
    assert paused == [1, 2, 4, 1, 2, 4]


def test_a_server_that_ignores_ranges_gives_the_whole_file_again(site, path):
    part_of(path).write_bytes(OTHER[:50_000])
    site.faults["/a.zip"] = [Fault(ignores_range=True)]
    assert get(site, path) == "fetched"
    assert path.read_bytes() == CONTENT
    assert site.ranges("/a.zip") == ["bytes=50000-"]


def test_a_server_that_ignores_ranges_and_always_cuts_ends_the_tries(site, path):
    site.faults["/a.zip"] = [Fault(ignores_range=True, cut=20_000)] * 99
    with pytest.raises(DatasetError, match=r"the connection broke off, 4 times in a row; 20,000 of 300,000 bytes"):
        get(site, path)
    assert len(site.asked) == 4


def test_a_file_that_changed_between_runs_is_not_glued_together(site, path):
    """The ETag is noted beside the part, so that the next run asks for the rest of that version only."""
    site.etags["/a.zip"] = '"old"'
    site.faults["/a.zip"] = [Fault(body=OTHER, cut=20_000), *[Fault(status=500)] * 9]
    with pytest.raises(DatasetError):
        get(site, path)
    assert part_of(path).read_bytes() == OTHER[:20_000]
    site.faults.clear()
    site.etags["/a.zip"] = '"new"'
    assert get(site, path) == "fetched"
    assert path.read_bytes() == CONTENT
    headers = site.asked[-1][1]
    assert (headers["Range"], headers["If-Range"]) == ("bytes=20000-", '"old"')
    assert len(site.asked) == 5


def test_a_range_of_another_version_is_not_glued_on(site, path):
    """A server that knows no If-Range, but tells that the file is another."""
    site.etags["/a.zip"] = '"old"'
    site.faults["/a.zip"] = [Fault(body=OTHER, cut=20_000), Fault(ignores_condition=True, etag='"new"')]
    steps = []
    assert fetch(remote(site), path, watch=Watch(steps.append)) == "fetched"
    assert path.read_bytes() == CONTENT
    assert site.ranges("/a.zip") == [None, "bytes=20000-", None]
    ends = [step.phase for step in steps if step.done == step.total]
    assert ends == ["download a.zip", "check a.zip"], "it was not left to the checksum to find out"


def test_a_mirror_is_not_asked_about_the_version_of_another_server(site, path):
    site.etags["/a.zip"] = '"there"'
    part_of(path).write_bytes(CONTENT[:9])
    origin_of(path).write_text('{"address": "http://elsewhere.example/a.zip", "validator": "\\"here\\""}')
    assert get(site, path) == "resumed"
    assert "If-Range" not in site.asked[0][1]


@pytest.mark.parametrize("note", ["", "[]", '{"address": 1}', "\xff"])
def test_a_spoiled_note_of_the_origin_does_no_harm(site, path, note):
    part_of(path).write_bytes(CONTENT[:9])
    origin_of(path).write_text(note, encoding="latin-1")
    assert get(site, path) == "resumed"
    assert path.read_bytes() == CONTENT


def test_after_416_the_file_is_fetched_anew(site, path):
    part_of(path).write_bytes(CONTENT[:50_000])
    site.faults["/a.zip"] = [Fault(status=416)]
    assert get(site, path) == "fetched"
    assert path.read_bytes() == CONTENT
    assert site.ranges("/a.zip") == ["bytes=50000-", None]


HUGE = f"bytes 50000-299999/{'9' * 5000}"


@pytest.mark.parametrize("said", ["bytes 0-299999/300000", "bytes 50001-299999/300000", "nonsense", HUGE])
def test_another_range_than_the_one_asked_for_is_not_appended(site, path, said):
    part_of(path).write_bytes(CONTENT[:50_000])
    site.faults["/a.zip"] = [Fault(content_range=said)]
    assert get(site, path) == "resumed"
    assert path.read_bytes() == CONTENT
    assert site.ranges("/a.zip") == ["bytes=50000-"] * 2


def test_wrong_bytes_are_fetched_once_more_from_the_start(site, path):
    site.faults["/a.zip"] = [Fault(body=OTHER)]
    assert get(site, path) == "fetched"
    assert path.read_bytes() == CONTENT
    assert site.ranges("/a.zip") == [None, None]


def test_a_spoiled_part_is_noticed_at_the_end_and_fetched_anew(site, path):
    part_of(path).write_bytes(OTHER[:50_000])
    assert get(site, path) == "fetched"
    assert path.read_bytes() == CONTENT
    assert site.ranges("/a.zip") == ["bytes=50000-", None]


def test_wrong_bytes_twice_are_an_error_with_both_checksums_and_nothing_stays(site, path):
    site.files["/a.zip"] = OTHER
    with pytest.raises(DatasetError) as caught:
        get(site, path)
    actual = hashlib.md5(OTHER, usedforsecurity=False).hexdigest()
    assert str(caught.value) == (
        f"{site.address}/a.zip was downloaded completely but is not the published file: its MD5 is {actual}, expected "
        f"{MD5}; it was deleted. Try again later, or name a mirror with --base-url."
    )
    assert len(site.asked) == 2
    assert not path.exists()
    assert not part_of(path).exists()


@pytest.mark.parametrize("body", [b"<html>Sign in to this network</html>", CONTENT + b"more"])
def test_a_file_of_another_size_is_not_even_begun(site, path, body):
    site.files["/a.zip"] = body
    with pytest.raises(DatasetError) as caught:
        get(site, path)
    assert str(caught.value) == (
        f"cannot download {site.address}/a.zip: the server has {len(body):,} bytes there, expected 300,000, 4 times in "
        f"a row. {ADVICE}"
    )
    assert not part_of(path).exists()


def test_bytes_beyond_the_expected_size_are_not_written(site, path):
    site.faults["/a.zip"] = [Fault(body=CONTENT + b"more", length=-1)] * 9
    with pytest.raises(DatasetError, match="the server sends more than the 300,000 bytes expected, 4 times in a row"):
        get(site, path)
    assert not part_of(path).exists()
    assert not path.exists()


def test_errors_of_the_server_are_tried_again(site, path):
    site.faults["/a.zip"] = [Fault(status=500), Fault(status=503), Fault(status=429)]
    assert get(site, path) == "fetched"
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("status", "said", "requests"),
    [
        (404, "the server answers 404 Not Found", 1),
        (403, "the server answers 403 Forbidden", 1),
        (204, "the server answers 204 No Content", 1),
        (499, "the server answers 499", 1),
        (500, "the server answers 500 Internal Server Error, 4 times in a row", 4),
    ],
)
def test_a_refusal_is_one_line_with_the_address(site, path, status, said, requests):
    site.faults["/a.zip"] = [Fault(status=status)] * 9
    with pytest.raises(DatasetError) as caught:
        get(site, path)
    assert str(caught.value) == f"cannot download {site.address}/a.zip: {said}. {ADVICE}"
    assert len(site.asked) == requests


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://127.0.0.1:1/a.zip", "the connection is refused, 4 times in a row"),
        ("http://no-such-host.invalid/a.zip", "its host is unknown, 4 times in a row"),
        ("http:///a.zip", "Invalid URL 'http:///a.zip': No host supplied"),
    ],
)
def test_a_network_that_fails_is_one_line_with_the_address(site, path, address, said):
    with pytest.raises(DatasetError) as caught:
        get(site, path, address=address)
    assert str(caught.value) == f"cannot download {address}: {said}. {ADVICE}"


@pytest.mark.parametrize(
    "address",
    ["http://[/a.zip", "http://a:b:c/a.zip", f"http://{'x' * 70}.example/a.zip", "http://a b/c", "http://.x/"],
)
def test_an_address_that_is_none_is_one_line(site, path, address):
    with pytest.raises(DatasetError) as caught:
        get(site, path, address=address)
    assert str(caught.value).startswith(f"cannot download {address}: ")
    assert str(caught.value).count("\n") == 0


def test_a_proxy_that_fails_is_named(site, path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with pytest.raises(DatasetError, match=r"a\.zip: the proxy refuses the connection, 4 times in a row\. "):
        get(site, path)


def test_tls_that_fails_is_told_at_once(site, path):
    address = f"{site.address.replace('http', 'https')}/a.zip"
    with pytest.raises(DatasetError) as caught:
        get(site, path, address=address)
    assert re.fullmatch(rf"cannot download {address}: TLS fails \([\w ]+\)\. {ADVICE}", str(caught.value))


def test_a_server_that_falls_silent_is_asked_again(site, path, monkeypatch):
    monkeypatch.setattr(transfer, "TIMEOUT", (1, 0.2))
    site.faults["/a.zip"] = [Fault(stall=5000)]
    get(site, path)
    assert path.read_bytes() == CONTENT
    assert site.ranges("/a.zip") == [None, "bytes=5000-"]


def test_a_server_that_stays_silent_is_an_error(site, path, monkeypatch):
    monkeypatch.setattr(transfer, "TIMEOUT", (1, 0.1))
    site.faults["/a.zip"] = [Fault(before=lambda: time.sleep(0.3))] * 9
    with pytest.raises(DatasetError, match=r"a\.zip: no data came for 0\.1 seconds, 4 times in a row\. "):
        get(site, path)


def test_a_full_disk_is_one_line_and_the_part_stays(site, path):
    part_of(path).symlink_to("/dev/full")
    with pytest.raises(DatasetError) as caught:
        get(site, path)
    assert str(caught.value) == (
        f"cannot write {path}.part: No space left on device. Downloaded files are kept; once that is fixed, the same "
        f"command continues."
    )


def test_stop_ends_a_transfer_and_keeps_the_part(site, path):
    site.faults["/a.zip"] = [Fault(delay=0.01)]

    def stop_soon(progress):
        if progress.done > 50_000:
            watch.stop()

    watch = Watch(stop_soon)
    with pytest.raises(StoppedError):
        fetch(remote(site), path, watch=watch)
    kept = part_of(path).read_bytes()
    assert 50_000 < len(kept) < len(CONTENT)
    assert CONTENT.startswith(kept)


def test_progress_counts_bytes_from_where_it_resumed_to_the_end(site, path):
    part_of(path).write_bytes(CONTENT[:250_000])
    steps = []
    fetch(remote(site), path, watch=Watch(steps.append))
    assert {(step.phase, step.total) for step in steps} == {("download a.zip", 300_000), ("check a.zip", 300_000)}
    assert min(step.done for step in steps if step.phase == "download a.zip") > 250_000
    assert [step.done for step in steps if step.done == step.total] == [300_000, 300_000]
