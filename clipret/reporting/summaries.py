"""What `clipret extract` and `clipret train` say at the end."""

import math
import shlex
from collections.abc import Mapping

from clipret.annotations.counting import copies_in_words, single_colour_in_words
from clipret.reporting.caches import tap_in_words

# Where features are that were not on the device.
_PLACES = {"host": "machine's memory", "disk": "cache's file"}


def extraction_summary(result: dict, *, batch_size: int | None) -> str:
    """What extract returned, in words; batch_size is the one asked for, None for any."""
    cache, encoded = result["cache"], result["extracted_images"] + result["extracted_captions"]
    if encoded:
        several = result["processes"] > 1
        processes, first = (f" by {result['processes']} processes", " by the first") if several else ("", "")
        now = (result["extracted_images"], result["extracted_captions"])
        # Of several processes, each counts its own.
        whole = now == (result["images"], result["captions"]) and not several
        share = "" if whole else f", {now[0]:,} and {now[1]:,} of them now{first},"
        lines = [
            f"{cache}: {result['images']:,} images and {result['captions']:,} captions{processes}{share} "
            f"in {result['seconds']:.1f} s."
        ]
    else:
        lines = [f"{cache} was complete already; nothing to do."]
    lines += [f"Note: {remark}." for remark in result["remarks"]]
    if result["problems"]:
        counted = "1 image" if result["problems"] == 1 else f"{result['problems']:,} images"
        missing = f", {result['missing']:,} of them not found" if result["missing"] else ""
        lines.append(f"{counted} could not be read{missing}; clipret info {shlex.quote(cache)} --problems lists them.")
    if encoded and batch_size is not None and result["batch_size"] != batch_size:
        lines.append(f"The cache was begun with --batch-size {result['batch_size']}, which was used again.")
    lines += _notes(result)
    lines.append(f"Next: clipret train --cache {shlex.quote(cache)}")
    return "\n".join(lines)


def _notes(result: dict) -> list[str]:
    """How the features were computed, where that is out of the ordinary."""
    notes = [f"{side.capitalize()} tokens: {tap_in_words(tap)}." for side, tap in result["taps"].items()]
    copied = {"images": result["copied"]["image"], "captions": result["copied"]["text"]}
    if any(copied.values()):
        copies = " and ".join(f"{count:,} {side}" for side, count in copied.items() if count)
        notes.append(f"{copies} are equal to others, and were encoded with them.")
    notes += [f"{copies_in_words(copies)}.{_remedy(copies)}" for copies in result["cross_split_copies"]]
    if result["single_colour"]["images"]:
        notes.append(f"{single_colour_in_words(result['single_colour'])}.")
    for side, size in (("images", result["micro_batch"]["image"]), ("captions", result["micro_batch"]["text"])):
        if size:
            notes.append(
                f"Out of memory: {side} were encoded {size} at a time, which may change the last bits of the features."
            )
    if result["decoding"]:
        cosine, centred = (result["decoding"][name]["mean"] for name in ("cosine", "centred_cosine"))
        notes.append(
            f"Decoded fast: cosine to exact decoding {cosine:.4f}, centred {centred:.4f}, on "
            f"{result['decoding']['images']} images."
        )
    return notes


def _remedy(copies: dict) -> str:
    if copies["of"] != "train" or copies["split"] == "restval":
        return ""
    return " Train with --drop-cross-split-duplicates to leave those of train out."


def scalars_in_words(scalars: Mapping[str, float]) -> str:
    """The scalars of a loss: scale 14.3 (temperature 0.0699), bias -10.2."""
    words = []
    if "log_scale" in scalars:
        scale = math.exp(scalars["log_scale"])
        words.append(f"scale {scale:.3g} (temperature {1 / scale:.3g})")
    if "bias" in scalars:
        words.append(f"bias {scalars['bias']:.3g}")
    return ", ".join(words)


def training_summary(result: dict, *, evaluation: str) -> str:
    """What train returned, in words.

    evaluation  the command that measures its run
    """
    trained = (
        f"{result['run']}: {result['steps']:,} steps on {result['train_images']:,} images in {result['seconds']:.1f} s"
    )
    if result["val_rsum"] is None:
        kept = f"kept the last epoch, {result['kept_epoch']}: the cache has no val split to choose on"
    else:
        kept = f"kept epoch {result['kept_epoch']}, val rsum {result['val_rsum']:.3f}"
        baselines = {"zero-shot": result["zero_shot_val_rsum"], "closed-form": result.get("closed_form_val_rsum")}
        kept += "".join(f" ({name} {value:.3f})" for name, value in baselines.items() if value is not None)
    if result.get("scalars"):
        kept += f"; {scalars_in_words(result['scalars'])}"
    notes = [f"Note: {remark}." for remark in result["remarks"]]
    if result["features"] != "device":
        notes.append(f"Features were read from the {_PLACES[result['features']]}, batch by batch.")
    return "\n".join([f"{trained}; {kept}.", *notes, f"Next: {evaluation}"])


def use_of_run(report: dict) -> list[str]:
    """What a measured run is good for next, a line each; none where no run was measured.

    report  the content of metrics.json
    """
    if report["run"] is None:
        return []
    run, cache = shlex.quote(report["run"]), shlex.quote(report["cache"]["path"])
    return [
        f"Next: clipret serve {cache} --head {run}  (type words, see pictures, in a browser)",
        f"      clipret report {run}  (what was gained and lost, with pictures, in one page)",
        f'      clipret search {cache} "two dogs" --head {run}  (the same in the terminal)',
        f"      clipret export {run} --to FORM --out FOLDER  (for another library; --help lists the forms)",
        f"      clipret embed {cache} --head {run} --out emb.npy  (for a vector database)",
        f"      clipret.open_run({report['run']!r})  (in Python)",
    ]


def report_summary(result: dict) -> str:
    """What report returned, in words."""
    size = f"{result['bytes'] / 1e6:.1f} MB"
    pictures = f"{result['pictures']:,} pictures"
    if result["pictures_left_out"]:
        pictures += f", of {result['pictures_left_out']:,} more the file's name (--root says where images are)"
    figures = f"\n{len(result['figures']):,} files for papers are in {_folder(result)}." if result["figures"] else ""
    return f"{result['out']}: {size}, {pictures}, in {result['seconds']:.1f} s. Open it in a browser.{figures}"


def _folder(result: dict) -> str:
    return result["figures"][0].rpartition("/")[0]


def look_summary(result: dict) -> str:
    """What look returned, in words."""
    counts = result["leak_counts"]
    found = ", ".join(f"{count:,} by {kind}" for kind, count in counts.items())
    return (
        f"{result['out']}: {result['bytes'] / 1e6:.1f} MB, in {result['seconds']:.1f} s. Open it in a browser.\n"
        f"Pairs of different splits that are the same, or nearly: {found}.\n"
        f"Pairs of captions of different splits that are nearly alike: {len(result['near_captions']):,}."
    )
