"""What has to stand beside the figures of a metrics.json, wherever they are shown."""

from clipret.annotations.counting import copies_in_words
from clipret.metrics import scale_of

# Below this best reachable figure another protocol is advised: a rare pair of equal captions needs none.
_ADVISED_BELOW = 0.99
_UNCHECKED = (
    "leakage was not checked: the head does not say which images it was trained on; of imported features it cannot"
)
_UNCHECKED_IMAGES = "leakage was not checked for all images: the cache does not have the digests of all their files"


def caveats(measured: dict) -> list[str]:
    """Warnings that belong beside the figures of metrics.json: a line each, none where all is well."""
    protocol, leakage, lines = measured["protocol"], measured["leakage"], []
    if measured["finished"] is False:
        lines.append("the run is unfinished: its training was interrupted, or still runs")
    if protocol["precision"] != "fp32":
        lines.append(f"embeddings rounded to {protocol['precision']}")
    left_out, images = protocol["images_left_out"], protocol["images"]
    if left_out:
        lines.append(
            f"{images:,} of {images + left_out:,} images: {left_out:,} have no usable feature and are left out"
        )
    lines += reachable_notes(protocol)
    if protocol["remarks"]:
        lines.append(f"not comparable with published figures: {'; '.join(protocol['remarks'])}")
    if leakage and leakage["trained_on"]:
        lines.append(f"LEAK: {leakage['trained_on']:,} of these {leakage['images']:,} images were trained on")
    if leakage and not leakage["checked"]:
        lines.append(_UNCHECKED if leakage["trained_on"] is None else _UNCHECKED_IMAGES)
    copies = measured.get("copies")
    if copies and copies["copies"]:
        clean = leakage and leakage["checked"] and not leakage["trained_on"]
        lines.append(copies_in_words(copies) + ("; the head was trained on none of them" if clean else ""))
    return lines


def reachable_notes(protocol: dict) -> list[str]:
    """The best figures that any head can reach, where they are below 100, and the protocol that avoids that.

    protocol  as metrics.json has it
    """
    best = list((protocol.get("best_reachable") or {}).items())
    short = []
    for direction, figures in best:
        below = [f"{name} {scale_of(name) * value:.1f}" for name, value in figures.items() if value < 0.9995]
        short += [f"{direction} {', '.join(below)}"] if below else []
    if not short:
        return []
    lines = [f"the best that any head can reach here, as several images share captions: {', '.join(short)}"]
    worst = min(value for _, figures in best for value in figures.values())
    if protocol["name"] == "split" and worst < _ADVISED_BELOW:
        split = "" if protocol["split"] == "test" else f" --split {protocol['split']}"
        lines.append(f"where equal captions should match all their images: --protocol split-equal-texts{split}")
    return lines
