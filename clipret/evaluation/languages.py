"""Figures by language -> their mean over the languages, as multilingual test sets are reported."""

from collections.abc import Sequence
from statistics import fmean

from clipret.config import DIRECTIONS


def language_means(measured: Sequence[dict]) -> list[dict]:
    """Of every protocol in several languages the mean of their figures; a language counts as much as another.

    measured  what metrics.json has of each protocol; in a language its name is PROTOCOL:LANGUAGE

    Returns protocol, languages (their names), results (head -> direction -> metric -> mean) and rsum (head -> mean); no
    entry for a protocol of one language.
    """
    parts: dict[str, list[dict]] = {}
    for entry in measured:
        protocol, _, language = entry["protocol"]["name"].partition(":")
        if language:
            parts.setdefault(protocol, []).append(entry)
    return [_mean(protocol, entries) for protocol, entries in parts.items() if len(entries) > 1]


def _mean(protocol: str, entries: list[dict]) -> dict:
    heads = list(entries[0]["results"])
    return {
        "protocol": protocol,
        "languages": [entry["protocol"]["name"].partition(":")[2] for entry in entries],
        "results": {
            head: {
                direction: {
                    name: fmean(entry["results"][head][direction][name] for entry in entries)
                    for name in entries[0]["results"][head][direction]
                }
                for direction in DIRECTIONS
            }
            for head in heads
        },
        "rsum": {head: fmean(entry["rsum"][head] for entry in entries) for head in heads},
    }
