"""The routes give what search gives."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from clipret import FeatureCache, SearchConfig, open_run, search, zero_shot
from clipret.errors import ServiceError


@pytest.fixture
def client(served):
    return served.client()


@pytest.fixture
def cache(searchable):
    return FeatureCache(searchable.cache)


def rows(result):
    return [hit["row"] for hit in result["hits"]]


def test_info_says_what_is_served(client, cache, searchable):
    info = client.info()
    assert info["heads"] == [searchable.run.name, "zero-shot"]
    assert (info["model"], info["dataset"], info["split"]) == ("tiny-emoji", "drawings", "all")
    assert sum(info["splits"].values()) == len(cache.image_ids)
    assert info["fingerprint"] == cache.fingerprint
    assert str(searchable.cache.parent) not in json.dumps(info)


@pytest.mark.parametrize("find", ["images", "captions"])
@pytest.mark.parametrize("head", [None, "zero-shot"])
@pytest.mark.parametrize("text", ["a red heart", "2:sun + moon - .5:face"])
def test_hits_are_those_of_the_command(client, searchable, text, head, find):
    trained = searchable.run if head is None else None
    command = search(SearchConfig(cache=searchable.cache, query=text, head=trained, find=find, k=20))
    answer = client.search(text, head=head, find=find, k=20)
    assert answer["hits"] == command["hits"]
    assert answer["gallery"] == command["gallery"]


def test_pages_follow_each_other(client):
    whole = client.search("sun", k=30)["hits"]
    assert client.search("sun", k=10, offset=10)["hits"] == whole[10:20]
    assert client.search("sun", k=10, offset=10_000)["hits"] == []


def test_a_split_and_a_least_score_leave_hits_out(client):
    answer = client.search("sun", split="val", k=1000)
    assert {hit["split"] for hit in answer["hits"]} == {"val"}
    least = answer["hits"][3]["score"]
    assert len(client.search("sun", split="val", k=1000, min_score=least)["hits"]) == 4


def test_a_picture_is_searched_as_bytes_and_as_base64_beside_words(client, served, searchable):
    path = searchable.root / "2764.png"
    command = search(SearchConfig(cache=searchable.cache, image=path, head=searchable.run))
    assert client.search(image=path)["hits"] == command["hits"]
    assert client.search(image=path.read_bytes(), find="captions", k=3)["find"] == "captions"
    both = search(SearchConfig(cache=searchable.cache, query="sun", image=path, head=searchable.run))
    encoded = base64.b64encode(path.read_bytes()).decode()
    status, _, content = served.ask("POST", "/v1/search", {"text": "sun", "image": encoded})
    assert status == 200
    assert json.loads(content)["hits"] == both["hits"]
    assert client.search("sun", image=path)["hits"] == both["hits"]


def test_a_row_finds_itself_and_what_belongs_to_it_has_its_rank(client, cache):
    assert rows(client.search(row=7, k=3))[0] == 7
    answer = client.search(row=7, find="captions", k=1000)
    own = np.flatnonzero(cache.caption_images == 7).tolist()
    places = {hit["row"]: hit["rank"] for hit in answer["hits"]}
    assert {one["row"] for one in answer["expected"]} == set(own)
    # Ties count against it, and hits come by row there.
    assert all(one["rank"] >= places[one["row"]] for one in answer["expected"])
    answer = client.search(caption=own[0], k=1000)
    assert answer["expected"][0]["row"] == 7
    assert rows(answer)[answer["expected"][0]["rank"] - 1] == 7


def test_embeddings_are_those_of_the_models(client, searchable):
    for head, model in ((searchable.run.name, open_run(searchable.run)), ("zero-shot", zero_shot(searchable.cache))):
        ours = model.embed_texts(["a cat", "two dogs"])
        np.testing.assert_array_equal(client.embed(["a cat", "two dogs"], head=head), ours)
        picture = searchable.root / "2764.png"
        np.testing.assert_array_equal(client.embed_image(picture, head=head), model.embed_images([picture])[0])


def test_images_are_drawn_anew_without_what_else_their_files_have(served, client, cache, searchable):
    content = client.image(5, size=64)
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "JPEG"
        assert max(image.size) == 64
        assert not image.getexif()
    status, headers, again = served.ask("GET", "/v1/images/5?size=64")
    assert (status, again) == (200, content)
    status, _, nothing = served.ask("GET", "/v1/images/5?size=64", headers={"if-none-match": headers["etag"]})
    assert (status, nothing) == (304, b"")
    assert served.error("GET", "/v1/images/5?original=1") == (403, "the files themselves are not served (--originals)")


def test_captions_and_what_is_known_of_images(client, served, cache):
    assert client.caption(3)["caption"] == cache.captions[3]
    about = json.loads(served.ask("GET", "/v1/images/3/about")[2])
    assert [one["caption"] for one in about["captions"]] == [
        cache.captions[row] for row in np.flatnonzero(cache.caption_images == 3)
    ]
    drawn = {json.loads(served.ask("GET", "/v1/captions/random?split=test")[2])["row"] for _ in range(20)}
    assert len(drawn) > 1
    assert drawn <= set(cache.rows("text", split="test").tolist())


def test_marks_are_kept(client, served):
    assert client.mark(1, "a thing", right=True)["right"] == 1
    assert client.mark(1, "a thing", right=None) == {"right": 0, "wrong": 0}
    assert served.error("POST", "/v1/marks", {"image": 1, "caption": "=x", "right": True})[0] == 400


def test_health_metrics_and_the_description_answer(served):
    assert served.ask("GET", "/health")[2] == b'{"status":"ok"}\n'
    metrics = served.ask("GET", "/metrics")[2].decode()
    assert "clipret_request_seconds_bucket" in metrics
    assert "process_resident_memory_bytes" in metrics
    described = json.loads(served.ask("GET", "/openapi.json")[2])
    assert described["openapi"].startswith("3.1")
    for path, methods in described["paths"].items():
        for method in methods:
            status, _, _ = served.ask(method.upper(), path.replace("{row}", "1"), {} if method == "post" else None)
            assert status not in (404, 405, 500), path


def test_the_client_says_what_is_wrong(client, served):
    with pytest.raises(ServiceError) as caught:
        client.search("x", k=0)
    assert str(caught.value) == f"{served.url}v1/search: 400, k is 0; expected 1 to 1,000."
    from clipret import Client

    with pytest.raises(ServiceError, match=r"does not answer .*is clipret serve running there\?"):
        Client("http://127.0.0.1:9").info()


def test_marks_that_somebody_broke_are_told_in_the_terminal(searchable, tmp_path):
    from tests.service.conftest import serving

    with serving(searchable, tmp_path, heads=False) as running:
        (tmp_path / "marks.csv").write_bytes(b"mine\n")
        status, message = running.error("POST", "/v1/marks", {"image": 1, "caption": "x", "right": True})
        assert (status, message) == (500, "the service could not answer; its terminal says why")
        assert "has no marks of clipret" in running.complaints()[0]
        assert (tmp_path / "marks.csv").read_bytes() == b"mine\n"
