"""What the pages say to type runs, and prints what they show."""

import random
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from clipret import cli, extract
from clipret.config import ExtractConfig
from clipret.datasets import emoji
from tests.helpers.exported import open_here
from tests.helpers.hub import image, images, write_parquet
from tests.helpers.pages import DOCS, PAGES, README, blocks, commands, name_of, outputs
from tests.helpers.ready_made import embeddings, write_clip_retrieval

# What the commands that need data which is not here come to.
NOT_HERE = (
    "COCO 2017 at",
    "Karpathy's split needs",
    "there are no captions of Flickr30k",
    "XM3600's captions.jsonl is not in",
    "XTD10's test_image_names.txt is not in",
    "there is no cache at",
    "there is no trained run in",
)
NOTHING_FETCHED = {"dataset": "coco", "root": "x", "files": [], "remarks": [], "instructions": [], "seconds": 0}
COMMANDS = typer.main.get_command(cli.app).commands


def needs_other_data(words: list[str]) -> bool:
    return any(name in " ".join(words) for name in ("coco", "flickr30k", "xm3600", "xtd10"))


def runnable(page: Path) -> list[list[str]]:
    """The page's commands that need no data but the demo's and own_data, in order."""
    return [words for words in commands("clipret", page) if not needs_other_data(words) and "--help" not in words]


RUNNABLE = [page for page in PAGES if runnable(page)]


@pytest.fixture
def own_data(workplace):
    """The photographs, the table, the shards and the caches that the pages speak of."""
    (workplace / "photos").mkdir()
    shades = random.Random(0)
    for number in range(60):
        colour = tuple(shades.randrange(256) for _ in range(3))
        Image.new("RGB", (80, 60), colour).save(f"photos/{number}.png")
        Path(f"photos/{number}.txt").write_text(f"a thing of colour {colour}\nnumber {number}\n")
    Path("shards").mkdir()
    for number in range(2):
        with tarfile.open(f"shards/{number:05d}.tar", "w") as tar:
            for ending in ("png", "txt"):
                tar.add(f"photos/{number}.{ending}", arcname=f"{number}.{ending}")
    cells = [image((number, 9, 9), f"{number}.png") for number in range(20)]
    write_parquet(workplace / "hub/train-00000-of-00001.parquet", {"image": images(cells), "text": ["a thing"] * 20})
    shutil.copytree(DOCS / "examples", workplace, dirs_exist_ok=True)


def merged(day: str) -> None:
    """Write the cache of a day, of one image."""
    Image.new("RGB", (80, 60), (len(day), 0, 0)).save(f"photos/{day}.png")
    Path(f"{day}.csv").write_text(f"image,caption\n{day}.png,a picture of {day}\n")
    settings = {"dataset": f"{day}.csv", "root": "photos", "model": "tiny-emoji", "out": f"{day}.h5"}
    extract(ExtractConfig(**settings, workers=0))


def ready_made() -> None:
    """Write embeddings in the forms that the page imports."""
    images, texts = embeddings(300)
    shutil.rmtree("embeddings", ignore_errors=True)
    folder = write_clip_retrieval(Path("embeddings"), images, texts, shards=1)
    shutil.copy(folder / "metadata/metadata_0.parquet", "meta.parquet")
    np.save("img.npy", images)
    np.save("text.npy", texts)


def few_drawings() -> str:
    """Write a cache of a quarter of the emoji, on which a sweep prints the same lines in a quarter of the time."""
    out, names = Path("data/few.h5"), emoji.english_names()
    if not out.exists():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(emoji, "english_names", lambda: dict(list(names.items())[::4]))
            extract(ExtractConfig(dataset="emoji", model="tiny-emoji", out=out, workers=0))
    return str(out)


def prepare(words: list[str]) -> list[str]:
    """Put in place what a command needs; return the command as it can be run here."""
    if "shop.csv" in words:
        names = "file,title" if "--columns" in words else "image,caption"
        rows = [f"{number}.png,a thing,train" for number in range(3)]
        Path("shop.csv").write_text("\n".join([f"{names},split", *rows]) + "\n")
        Path("data/shop.h5").unlink(missing_ok=True)
    if "--queries" in words:
        Path("queries.txt").write_text("a cat\na house\n")
    if words[0] == "import":
        ready_made()
    if words[0] == "merge":
        merged("monday")
        merged("tuesday")
    if words[0] == "extract" and "--model" not in words:
        # The photographs are few: the model that the page leaves to the default is not to be fetched here.
        return [*words, "--model", "tiny-emoji"]
    if words[0] == "sweep":
        # One of two seeds prints what one of five does.
        instead = {"--seeds": "2", "--cache": few_drawings()}
        return [instead.get(before, word) for before, word in zip(["", *words], words, strict=False)]
    return words


def shape(line: str) -> str:
    """A line without its figures, which differ in the last digits from machine to machine."""
    line = re.sub(r"\b[0-9a-f]{12,}\b", "#", line)
    line = re.sub(r"<?[+-]?\d[\d,.]*", "#", line)
    line = re.sub(r"no difference shown|# better", "verdict", line)
    # Rules are as long as the figures below them are wide.
    return " ".join(re.sub("─+", "─", line).split())


def unshared(shown: str, printed: str) -> list[str]:
    """The lines that a page shows and the command does not print."""
    there = {shape(line) for line in printed.splitlines()}
    return [line for line in shown.splitlines() if line.strip() and shape(line) not in there]


@pytest.mark.ci
@pytest.mark.usefixtures("own_data")
@pytest.mark.parametrize("page", RUNNABLE, ids=name_of)
def test_the_commands_of_the_page_run_and_print_what_it_shows(page, capsys, monkeypatch):
    """Exported folders are opened here, and not in processes of their own."""
    open_here(monkeypatch)
    # Services are started, and answer nobody.
    monkeypatch.setattr("clipret.service.server.Service.run", lambda self, log, on_ready: (on_ready(), self.close()))
    printed = {}
    for words in runnable(page):
        assert cli.main(prepare(words)) == 0, (words, capsys.readouterr().err)
        output = capsys.readouterr()
        printed[tuple(words)] = output.out + output.err
    for words, shown, in_part in outputs(page):
        missing = unshared(shown, printed[tuple(words)])
        assert len(missing) <= (len(shown.splitlines()) // 3 if in_part else 0), (words, missing)


def test_commands_that_need_other_data_say_what_they_lack(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    others = [words for words in commands("clipret") if needs_other_data(words) and words[0] != "download"]
    assert len(others) > 8
    for words in others:
        assert cli.main(words) == 1, words
        error = capsys.readouterr().err
        assert any(text in error for text in NOT_HERE), (words, error)


def test_downloads_of_the_pages_are_those_that_there_are(monkeypatch, tmp_path):
    """COCO's without a network, Flickr30k's as it is: it only prints instructions."""
    from clipret.datasets.downloads import stage as download

    monkeypatch.chdir(tmp_path)
    configs = []
    monkeypatch.setattr(download, "download", lambda config, on_progress: configs.append(config) or NOTHING_FETCHED)
    for words in commands("clipret"):
        if words[0] == "download":
            assert cli.main(words) == 0
    assert {config.dataset for config in configs} == {"coco", "flickr30k"}


def test_every_command_has_a_paragraph_in_the_readme():
    text = README.read_text(encoding="utf-8")
    section = text[text.index("## The commands") : text.index("## Speed")]
    for name, command in COMMANDS.items():
        assert command.hidden or f"`{name}`" in section or f"`clipret {name}`" in section, name


PYTHON = [(page, number) for page in PAGES for number in range(len(blocks("python", page)))]


@pytest.mark.ci
@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize(("page", "number"), PYTHON, ids=[f"{name_of(page)}-{number}" for page, number in PYTHON])
def test_the_python_of_the_page_runs(page, number, capsys):
    example = blocks("python", page)[number]
    assert len(example.strip().splitlines()) <= 12
    exec(compile(example, page.name, "exec"), {})
    assert re.search(r"\d", capsys.readouterr().out)


def test_the_files_that_a_page_shows_are_those_of_the_examples():
    text = (DOCS / "extending.md").read_text(encoding="utf-8")
    shown = re.findall(r"^<!-- file: docs/examples/(\S+) -->\n```py\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert [name for name, _ in shown] == ["my_losses.py", "my_heads.py"]
    for name, content in shown:
        assert content == (DOCS / "examples" / name).read_text(encoding="utf-8")
