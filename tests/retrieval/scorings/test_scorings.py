"""Corrections of each scoring against plain loops over whole matrices in float64."""

import numpy as np
import pytest
import torch

from clipret.retrieval.scorings import SCORINGS, load_scoring, scored_name
from tests.helpers.scorings import naive_csls, naive_dis, naive_nnn

QUERIES, ITEMS = 23, 31


def unit(generator, rows):
    vectors = generator.normal(size=(rows, 8)) + 0.7
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def matrices(*, references, seed=0):
    """Cosines (Q, G) of queries and gallery, (B, G) of bank and gallery, (Q, B) of queries and a bank of items."""
    generator = np.random.default_rng(seed)
    queries, gallery = unit(generator, QUERIES), unit(generator, ITEMS)
    gallery[-7:] = gallery[:7]
    return queries @ gallery.T, unit(generator, references) @ gallery.T, queries @ unit(generator, references).T


def statistics_of(name, bank, *, pieces):
    statistics = load_scoring(name).statistics()
    for piece in np.array_split(bank, pieces):
        if len(piece):
            statistics.add(torch.tensor(piece.T, dtype=torch.float32))
    return statistics


NAIVE = {
    "nnn": lambda scores, bank, queries, **parameters: naive_nnn(scores, bank, **parameters),
    "csls": lambda scores, bank, queries, **parameters: naive_csls(scores, bank, query_bank=queries, **parameters),
    "dis": lambda scores, bank, queries, **parameters: naive_dis(scores, bank, **parameters),
}


def test_every_scoring_has_a_reference_here():
    assert set(NAIVE) == set(SCORINGS)


@pytest.mark.parametrize("pieces", [1, 2, 5, 60])
@pytest.mark.parametrize("references", [1, 3, 60])
@pytest.mark.parametrize("name", SCORINGS)
def test_corrections_order_items_as_the_paper_does_in_pieces_of_any_size(name, references, pieces):
    scoring = load_scoring(name)
    scores, bank, query_bank = matrices(references=references)
    statistics = statistics_of(name, bank, pieces=pieces)
    triggers = scoring.triggers(statistics).numpy() if scoring.triggers else np.ones(ITEMS, dtype=bool)
    corrected_queries = triggers[scores.argmax(axis=1)]
    for parameters in scoring.grid:
        expected = NAIVE[name](scores, bank, query_bank, **parameters)
        correction = scoring.correction(statistics, **parameters)
        assert correction.dtype == torch.float64
        ours = np.where(corrected_queries[:, None], scores - correction.numpy(), scores)
        # A constant for all items of a query changes no rank.
        ours -= ours.mean(axis=1, keepdims=True)
        np.testing.assert_allclose(ours, expected - expected.mean(axis=1, keepdims=True), rtol=0, atol=1e-6)


def test_equal_items_have_equal_corrections_within_the_tolerance_of_ties():
    _, bank, _ = matrices(references=60)
    for name in SCORINGS:
        scoring, statistics = load_scoring(name), statistics_of(name, bank, pieces=3)
        for parameters in scoring.grid:
            correction = scoring.correction(statistics, **parameters)
            torch.testing.assert_close(correction[-7:], correction[:7], rtol=0, atol=1e-7)


def test_only_items_that_are_best_for_a_reference_query_trigger_and_so_do_those_that_tie_with_them():
    bank = np.array([[0.5, 0.5 - 5e-7, 0.1, 0.4], [0.2, 0.1, 0.3, 0.3 - 2e-6], [0.9, 0.0, 0.0, 0.8]])
    for pieces in (1, 3):
        statistics = statistics_of("dis", bank, pieces=pieces)
        assert load_scoring("dis").triggers(statistics).tolist() == [True, True, True, False]


def test_grids_go_from_gentle_to_strong_and_have_nothing_twice():
    for name in SCORINGS:
        grid = load_scoring(name).grid
        assert len({tuple(parameters.items()) for parameters in grid}) == len(grid)
        assert list(grid) == sorted(grid, key=lambda parameters: list(parameters.values()))


def test_ranks_by_cosine_have_the_name_of_their_head():
    assert scored_name("trained", "cosine") == "trained"
    assert scored_name("wise-ft 0.5", "nnn") == "wise-ft 0.5 nnn"
