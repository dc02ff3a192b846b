"""Stage 2, evaluation: figures from a cache and a head; failures, comparison and reproduction."""
