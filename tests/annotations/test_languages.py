from clipret.annotations.languages import language_rows, tagged_id, unlike_published


def test_the_language_is_the_beginning_of_an_id():
    ids = [tagged_id("quz", "a#0"), tagged_id("de", "a#0"), tagged_id("quz", "b#0")]
    assert ids[0] == "quz:a#0"
    rows = language_rows(ids)
    assert list(rows) == ["de", "quz"]
    assert {language: own.tolist() for language, own in rows.items()} == {"de": [1], "quz": [0, 2]}


def test_ids_of_which_one_says_none_have_no_languages():
    for ids in (["de:a", "a#0"], ["images/a.jpg#0"], ["C:a"], ["http://x"], []):
        assert language_rows(ids) == {}


def test_only_published_sets_are_compared():
    assert unlike_published("xtd10", {"de": 1000, "ja": 999}) == ["ja has 999 captions (published: 1,000)"]
    assert unlike_published("xtd10", {"xx": 1}) == ["xx has 1 captions (published: 0)"]
    assert unlike_published("shop", {"de": 1}) == []
