from clipret.reporting.models import models_records, models_sheets
from tests.helpers.drawing import drawn

FIGURES = {
    "coco-karpathy-5k": {"t2i": {"R@1": 47.78, "R@5": 72.44, "R@10": 81.0}, "i2t": {"R@1": 65.74}},
    "flickr30k-karpathy-1k": {"t2i": {"R@1": 74.68}, "i2t": {"R@1": 89.1}},
}
SIGLIP = {
    "name": "open_clip:siglip/webli",
    "family": "open_clip",
    "cached": "/hub/w",
    "side": 224,
    "image": None,
    "text": 768,
    "embedding": 768,
    "params": 1203.16,
    "flops": 46.44,
    "figures": FIGURES,
    "remark": "what to know",
}
NEW = SIGLIP | {"name": "[b]new[/b]", "cached": None, "text": None, "embedding": None, "params": None, "flops": None}
NEW |= {"figures": {}, "remark": ""}
FAMILY = {
    "name": "open_clip",
    "names": "open_clip:MODEL/TAG",
    "installed": True,
    "packages": [{"name": "open_clip_torch", "version": "3.3.0", "extra": "open-clip"}],
    "models": 1234,
    "cached": 1,
}
RESULT = {
    "families": [
        {**FAMILY, "name": "openai", "packages": []},
        FAMILY,
        {**FAMILY, "name": "far", "installed": False, "packages": [{"name": "far", "version": None, "extra": "all"}]},
    ],
    "models": [SIGLIP, {**SIGLIP, "name": "twin"}, NEW],
    "folders": {"openai": "/clip", "hub": "/hub"},
}


def lines_of(sheet) -> list[str]:
    lines = [" ".join(line.split()) for line in drawn([sheet], width=110).splitlines()]
    return [line for line in lines if line.strip("─ ")]


def test_a_family_has_what_is_installed_or_what_installs_it():
    assert lines_of(models_sheets(RESULT)[0]) == [
        "families",
        "family --model installed models here",
        "openai open_clip:MODEL/TAG yes 1,234 1",
        "open_clip open_clip:MODEL/TAG open_clip_torch 3.3.0 1,234 1",
        "far open_clip:MODEL/TAG far: pip install 'clipret[all]' 1,234 1",
        "here: weights are in /clip, /hub, the package",
    ]


def test_a_model_has_its_figures_and_widths_as_far_as_they_are_known():
    assert lines_of(models_sheets(RESULT)[1]) == [
        "models, the best on COCO first",
        "COCO COCO Flickr Flickr M",
        "t2i i2t t2i i2t params widths here",
        "open_clip:siglip/webli 47.8 65.7 74.7 89.1 1,203 ?/768/768 yes",
        "twin 47.8 65.7 74.7 89.1 1,203 ?/768/768 yes",
        "[b]new[/b]",
        "R@1 in percent, zero-shot, raw captions, Karpathy's test splits: clipret reproduce --list has the source",
        "widths: image features / text features / embeddings; ?: unknown without the weights; M params: in millions",
        "open_clip:siglip/webli; twin: what to know",
    ]


def test_one_folder_of_all_weights_is_named_once():
    sheet = models_sheets({**RESULT, "folders": {"openai": "/all", "hub": "/all"}})[0]
    assert sheet.notes == ("here: weights are in /all, the package",)


def test_records_have_a_number_a_column():
    (sheet,) = models_records(RESULT)
    assert [column.name for column in sheet.columns][:8] == [
        *("model", "family", "cached", "side", "image", "text", "embedding", "parameters"),
    ]
    row = {column.name: cell.value for column, cell in zip(sheet.columns, sheet.rows[0], strict=True)}
    assert (row["COCO t2i R@10"], row["COCO i2t R@10"], row["Flickr i2t R@1"]) == (81.0, "", 89.1)
    assert (row["operations"], row["image"], row["cached"]) == (46.44, "", "/hub/w")
