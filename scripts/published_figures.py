"""Write the published figures of open_clip's models: published_open_clip.json and published_multilingual.json.

    python scripts/published_figures.py openclip_retrieval_results.csv openclip_multilingual_retrieval_results.csv

The two tables are in docs/ of mlfoundations/open_clip; those of commit 89fb801 were taken. Needs open_clip, for what
its tags say of activations and of the hub. OpenAI's nine models keep the rows of published.json; that those are the
table's is checked here.
"""

import argparse
import csv
import json
from collections.abc import Iterator
from pathlib import Path

import open_clip

PACKAGE = Path(__file__).resolve().parent.parent / "clipret" / "evaluation" / "reproduction"
CUTS = (1, 5, 10)
SUFFIX = "-quickgelu"
# What a direction is called in either table.
SIDES = {"i2t": ("text retr.", "text_retrieval"), "t2i": ("image retr.", "image_retrieval")}
# The table's name of a data set, and ours with its split and its protocol.
DATASETS = {
    "MSCOCO": {"dataset": "coco", "split": "karpathy", "protocol": "coco-karpathy-5k"},
    "Flickr": {"dataset": "flickr30k", "protocol": "flickr30k-karpathy-1k"},
}
MULTILINGUAL = {
    "crossmodal3600": {"dataset": "xm3600", "protocol": "xm3600", "first": True, "remark": "xm3600"},
    "multilingual_mscoco_captions": {"dataset": "xtd10", "protocol": "xtd10", "remark": "xtd10"},
}
# The source's code of a language, where it is not the usual one.
LANGUAGES = {"jp": "ja", "avg": "mean"}
SOURCE = {
    "label": "open_clip multilingual",
    "citation": "mlfoundations/open_clip, docs/openclip_multilingual_retrieval_results.csv, commit 89fb801, June 2026",
    "url": "https://github.com/mlfoundations/open_clip/blob/main/docs/openclip_multilingual_retrieval_results.csv",
    "digits": 2,
    "spread": 0.0,
    "remark": "mean: over the languages; figures by language with --json",
}
REMARKS = {
    "gelu": "measured with GELU, where these weights were trained with QuickGELU, with which clipret computes them: "
    "compare with the row of the model whose name ends in -quickgelu",
    "no-quickgelu": "measured under a name whose activation is GELU, where these weights were trained with QuickGELU, "
    "with which clipret computes them",
    "fine-tuned": "fine-tuned on COCO, so that its figures on COCO are not zero-shot",
    "broken": "fine-tuned on COCO, and near chance, where the same model is far above it without: something was wrong",
    "xm3600": "3,600 images, the first caption of an image in the language",
    "xtd10": "1,000 images, one caption an image",
}
# Of two tags, which are two trainings.
OF_TWO_TAGS = "timm/vit_base_patch16_plus_clip_240.laion400m_e31"
BROKEN = ("coca_ViT-B-32", "mscoco_finetuned_laion2b_s13b_b90k")
# The same weights in transformers' form.
TRANSFORMERS = {
    "open_clip:ViT-B-16-SigLIP/webli": "google/siglip-base-patch16-224",
    "open_clip:ViT-B-16-SigLIP-256/webli": "google/siglip-base-patch16-256",
    "open_clip:ViT-B-16-SigLIP-384/webli": "google/siglip-base-patch16-384",
    "open_clip:ViT-B-16-SigLIP-512/webli": "google/siglip-base-patch16-512",
    "open_clip:ViT-B-16-SigLIP-i18n-256/webli": "google/siglip-base-patch16-256-multilingual",
    "open_clip:ViT-L-16-SigLIP-256/webli": "google/siglip-large-patch16-256",
    "open_clip:ViT-L-16-SigLIP-384/webli": "google/siglip-large-patch16-384",
    "open_clip:ViT-SO400M-14-SigLIP/webli": "google/siglip-so400m-patch14-224",
    "open_clip:ViT-SO400M-14-SigLIP-384/webli": "google/siglip-so400m-patch14-384",
}


def main() -> None:
    """Write the two files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs=2, type=Path, metavar="TABLE")
    plain, multilingual = (_read(path) for path in parser.parse_args().tables)
    _require_openai(plain)
    others = {pair: row for pair, row in plain.items() if pair[1] != "openai"}
    models = {**others, **{pair: row for pair, row in multilingual.items() if pair not in plain}}
    content = {
        "models": {name_of(pair): _about(pair, row) for pair, row in models.items() if _twin(pair) not in plain},
        "remarks": {name: REMARKS[name] for name in ("gelu", "no-quickgelu", "fine-tuned", "broken")},
        "tables": list(_plain_tables(others)),
    }
    _write("published_open_clip.json", content)
    content = {
        "sources": {"open_clip-multilingual": SOURCE},
        "remarks": {name: REMARKS[name] for name in ("xm3600", "xtd10")},
        "tables": list(_multilingual_tables(multilingual)),
    }
    _write("published_multilingual.json", content)


def name_of(pair: tuple[str, str]) -> str:
    """What --model calls a model and a tag: OpenAI's by OpenAI's names."""
    model, tag = pair
    if tag != "openai":
        return f"open_clip:{model}/{tag}"
    name = model.removesuffix(SUFFIX)
    return {"ViT-L-14-336": "ViT-L/14@336px"}.get(
        name, name.replace("ViT-", "ViT_").replace("-", "/").replace("_", "-")
    )


def percent(fraction: str) -> float:
    """The table has fractions of four digits."""
    return round(100 * float(fraction), 2)


def _read(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    """(model, tag) -> column -> text, in the table's order."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [list(row.items()) for row in csv.DictReader(file)]
    return {(row[0][1], row[1][1]): dict(row[2:]) for row in rows}


def _about(pair: tuple[str, str], row: dict[str, str]) -> dict:
    """Parameters in millions, floating-point operations in billions, and the other names that these weights have."""
    (model, tag), name = pair, name_of(pair)
    columns = {"params": "params (M)", "flops": "FLOPs (B)"}
    size = {key: float(row[column]) for key, column in columns.items() if column in row}
    also = [f"hf:{TRANSFORMERS[name]}"] if name in TRANSFORMERS else []
    repository, _, file = open_clip.get_pretrained_cfg(model, tag).get("hf_hub", "").rpartition("/")
    if repository and not file and repository != OF_TWO_TAGS:
        also.append(f"open_clip:hf-hub:{repository}")
    if model.endswith(SUFFIX) and open_clip.get_pretrained_cfg(model.removesuffix(SUFFIX), tag):
        also.append(f"open_clip:{model.removesuffix(SUFFIX)}/{tag}")
    return {**size, "also": also}


def _is_with_gelu(pair: tuple[str, str]) -> bool:
    """Whether the table has this tag with an activation that its weights were not trained with."""
    config = open_clip.get_model_config(pair[0])
    return bool(open_clip.get_pretrained_cfg(*pair).get("quick_gelu")) and not config.get("quick_gelu")


def _twin(pair: tuple[str, str]) -> tuple[str, str] | None:
    """Of weights in the table with another activation than theirs, the same with their own."""
    return (f"{pair[0]}{SUFFIX}", pair[1]) if _is_with_gelu(pair) else None


def _plain_tables(rows: dict) -> Iterator[dict]:
    columns = [f"{side} R@{cut}" for side in SIDES for cut in CUTS]
    for name, about in DATASETS.items():
        figures, gelu = {}, _gelu(rows)
        remarks = gelu["remarks"]
        for pair, row in rows.items():
            figures[name_of(pair)] = [
                percent(row[f"{name} {SIDES[side][0]} R@{cut}"]) for side in SIDES for cut in CUTS
            ]
            if pair == BROKEN:
                remarks[name_of(pair)] = "broken"
            elif pair[1].startswith("mscoco_finetuned") and about["dataset"] == "coco":
                remarks[name_of(pair)] = "fine-tuned"
        yield {"source": "open_clip", **about, "columns": columns, **gelu, "rows": figures}


def _gelu(rows: dict) -> dict:
    """Remarks on rows that were measured with another activation than the weights', and those nothing can answer."""
    pairs = [pair for pair in rows if _twin(pair) and pair[1] != "openai"]
    twins = [name_of(pair) for pair in pairs if _twin(pair) in rows]
    others = [name_of(pair) for pair in pairs if _twin(pair) not in rows]
    return {"remarks": dict.fromkeys(twins, "gelu") | dict.fromkeys(others, "no-quickgelu"), "unanswerable": twins}


def _multilingual_tables(rows: dict) -> Iterator[dict]:
    """A table a data set: of every model, for each direction and K, the figures of all languages."""
    for name, about in MULTILINGUAL.items():
        prefix = f"{name} text_retrieval_recall@1 "
        codes = [column.removeprefix(prefix) for column in next(iter(rows.values())) if column.startswith(prefix)]
        figures = {}
        for pair, row in rows.items():
            named = figures.setdefault(name_of(pair), {})
            for side in SIDES:
                for cut in CUTS:
                    values = [percent(row[f"{name} {SIDES[side][1]}_recall@{cut} {code}"]) for code in codes]
                    # OpenAI's are there twice, with the same figures.
                    assert named.setdefault(f"{side} R@{cut}", values) == values, pair
        languages = [LANGUAGES.get(code, code) for code in codes]
        yield {"source": "open_clip-multilingual", **about, "languages": languages, **_gelu(rows), "rows": figures}


def _require_openai(plain: dict) -> None:
    """OpenAI's rows of published.json are those of the table."""
    content = json.loads((PACKAGE / "published.json").read_text(encoding="utf-8"))
    ours = {(row["model"], row["dataset"]): row for row in content["rows"] if row["source"] == "open_clip"}
    for name, about in DATASETS.items():
        for pair, row in plain.items():
            if pair[1] == "openai":
                for side in SIDES:
                    theirs = {f"R@{cut}": percent(row[f"{name} {SIDES[side][0]} R@{cut}"]) for cut in CUTS}
                    assert ours[name_of(pair), about["dataset"]][side] == theirs, pair


def _write(name: str, content: dict) -> None:
    """As JSON with a line a model, or of several languages a line for a direction and K."""
    (PACKAGE / name).write_text(_laid_out(content) + "\n", encoding="utf-8")


def _laid_out(value, *, depth: int = 0, name: str = "") -> str:
    """JSON, where what has neither objects nor rows in it stands on one line."""
    entries = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    if not any(isinstance(entry, dict) for entry in entries) and not _is_long(value, name=name):
        return json.dumps(value, ensure_ascii=False)
    inner, outer = "  " * (depth + 1), "  " * depth
    if isinstance(value, list):
        lines = [_laid_out(entry, depth=depth + 1) for entry in value]
    else:
        lines = [f"{json.dumps(key)}: {_laid_out(entry, depth=depth + 1, name=key)}" for key, entry in value.items()]
    opening, closing = "[]" if isinstance(value, list) else "{}"
    return f"{opening}\n" + ",\n".join(f"{inner}{line}" for line in lines) + f"\n{outer}{closing}"


def _is_long(value, *, name: str) -> bool:
    """Whether a value has a line for each of its entries: rows, and what a row has of several languages."""
    return name in ("rows", "remarks") or (isinstance(value, dict) and "i2t R@1" in value)


if __name__ == "__main__":
    main()
