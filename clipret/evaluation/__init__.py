"""Stage 2, evaluation: metrics of a head on a cache; failures, comparison and reproduction."""
