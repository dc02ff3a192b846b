"""The arrows of the architecture, read from the imports themselves."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import clipret

PACKAGE = Path(clipret.__file__).parent
STAGE_ONE = {"extraction", "images", "duplicates", "datasets", "backbones", "checking", "verification"}
STAGES = {
    "extraction",
    "verification",
    "merging",
    "training",
    "evaluation",
    "sweeps",
    "comparison",
    "failures",
    "reproduction",
}
# Stages that a stage is made of.
WITHIN = {"sweeps": {"training", "evaluation"}}
COMMAND_LINE = {"cli", "__main__", *(path.stem for path in PACKAGE.glob("display*.py"))}
# Opened by stage 1 alone: after extraction nothing loads CLIP or an image.
STAGE_ONE_LIBRARIES = {"clip", "PIL", "torchvision"}
ONLY_IMPORTER = {
    "clip": "backbones/library.py",
    "h5py": "cache/",
    "pycocotools": "datasets/coco_json.py",
    "requests": "datasets/transfer.py",
}
GROUND = {
    "errors": set(),
    "config": {"config", "errors"},
    "files": {"files"},
    "escaping": set(),
    "records": {"files", "records"},
}


def imports(source: str) -> set[str]:
    """Dotted names of everything a module imports, also inside functions and through importlib."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return found


def violations(path: str, source: str) -> list[str]:
    """What the module at `path`, relative to the package, imports against the rules."""
    module = path.split("/")[0].removesuffix(".py")
    names = imports(source)
    outside = {name.split(".")[0] for name in names}
    ours = {name.split(".")[1] for name in names if name.startswith("clipret.")}
    known = {entry.stem for entry in PACKAGE.iterdir()}
    ours &= known
    broken = [
        f"{path}: only {owner} imports {name}"
        for name, owner in ONLY_IMPORTER.items()
        if name in outside and not path.startswith(owner)
    ]
    if module not in STAGE_ONE:
        broken += [f"{path}: stage 2 imports {name}" for name in outside & STAGE_ONE_LIBRARIES]
    if module not in STAGE_ONE | COMMAND_LINE | {"__init__"}:
        broken += [f"{path}: stage 2 imports clipret.{name}" for name in ours & STAGE_ONE]
    if module not in COMMAND_LINE | {"__init__"}:
        others = ours & STAGES - {module} - WITHIN.get(module, set())
        broken += [f"{path}: imports the stage clipret.{name}" for name in others]
        broken += [f"{path}: imports the command line" for _ in ours & COMMAND_LINE]
    if module in GROUND:
        broken += [f"{path}: imports clipret.{name}" for name in ours - GROUND[module]]
    return broken


@pytest.mark.parametrize("path", sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py")))
def test_every_arrow_points_one_way(path):
    assert violations(path, (PACKAGE / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("training.py", "import clip"),
        ("training/stage.py", "from clipret.sweeps import sweep"),
        ("training.py", "from PIL import Image"),
        ("evaluation.py", "def f():\n    import torchvision.transforms as t"),
        ("evaluation.py", "import importlib\nimportlib.import_module('clip')"),
        ("evaluation.py", "from clipret.backbones import load_backbone"),
        ("evaluation.py", "from clipret import training"),
        ("heads.py", "import h5py"),
        ("metrics.py", "from clipret.extraction import extract"),
        ("losses.py", "from clipret import cli"),
        ("errors.py", "from clipret.config import SPLITS"),
        ("backbones/other.py", "import clip"),
    ],
)
def test_the_rules_catch_an_arrow_that_turns(path, source):
    assert violations(path, source)


def test_stage_two_runs_without_loading_clip_or_an_image_library():
    check = (
        "import sys, clipret\n"
        "clipret.train, clipret.evaluate, clipret.FeatureCache\n"
        f"loaded = {STAGE_ONE_LIBRARIES!r} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", check], check=True, timeout=120)


def test_the_public_names_are_these():
    assert clipret.__all__ == [
        "ClipretError",
        "CompareConfig",
        "DatasetConfig",
        "DownloadConfig",
        "EvalConfig",
        "ExtractConfig",
        "FailuresConfig",
        "FeatureCache",
        "MergeConfig",
        "ReproduceConfig",
        "SweepConfig",
        "TrainConfig",
        "VerifyConfig",
        "check_dataset",
        "compare",
        "download",
        "evaluate",
        "extract",
        "find_failures",
        "merge",
        "reproduce",
        "resume",
        "sweep",
        "train",
        "verify",
    ]
    assert all(callable(getattr(clipret, name)) for name in clipret.__all__)
