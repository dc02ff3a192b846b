"""The arrows of the architecture, read from the imports themselves. Every rule is said by path."""

import ast
import subprocess
import sys
from collections import defaultdict
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

import clipret

PACKAGE = Path(clipret.__file__).parent
PATHS = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
# What the package's front doors may import is not held against them: they are where everything is found from.
FRONT_DOORS = ("__init__.py", "__main__.py")
MOST_NAMES = 25

# Where the functions of the stages are, each from a config to the path or the dict that it made.
STAGES = (
    "cache/importing/*",
    "cache/merging.py",
    "datasets/downloads/stage.py",
    "evaluation/comparison/*",
    "evaluation/failures.py",
    "evaluation/findings/*",
    "evaluation/looking/*",
    "evaluation/reproduction/*",
    "evaluation/stage.py",
    "exports/checkpoints/*",
    "exports/embeddings/*",
    "extraction/*",
    "reporting/pages/*",
    "service/*",
    "sweeps/*",
    "training/*",
)
# Stages that are made of others.
MADE_OF = {
    "evaluation/findings/*": ("evaluation/stage.py", "evaluation/failures.py", "evaluation/reproduction/*"),
    "reporting/pages/*": ("evaluation/findings/*", "evaluation/looking/*", "sweeps/*"),
    "service/*": ("exports/embeddings/*",),
    "sweeps/*": ("training/*", "evaluation/stage.py"),
}
STAGE_ONE = ("backbones/*", "datasets/*", "extraction/*", "images/*")
# Stage 3 encodes what is new: with the encoders of stage 1, and other libraries', which open what was exported.
ENCODERS = (
    "exports/encoder.py",
    "exports/model.py",
    "exports/checkpoints/*",
    "exports/targets/*",
    "reporting/pages/pictures.py",
    "service/web/pictures.py",
)
STAGE_ONE_LIBRARIES = {"clip", "open_clip", "PIL", "sentence_transformers", "timm", "torchvision", "transformers"}
ONLY_IMPORTER = {
    "clip": ("backbones/clip_package.py",),
    "faiss": ("exports/indexes/faiss*.py",),
    "h5py": ("cache/*",),
    "huggingface_hub": ("backbones/hub.py",),
    "onnx": ("exports/targets/onnx*",),
    "onnxruntime": ("exports/targets/onnx*",),
    "open_clip": ("backbones/open_clip*", "exports/targets/open_clip*"),
    "prometheus_client": ("service/web/*",),
    "pycocotools": ("datasets/coco_json.py",),
    "requests": ("datasets/downloads/transfer.py",),
    "sentence_transformers": ("backbones/sentences.py", "exports/targets/*"),
    "starlette": ("service/web/*",),
    "timm": ("backbones/unimodal_timm.py",),
    "tokenizers": ("exports/targets/*",),
    "usearch": ("exports/indexes/usearch.py",),
    "uvicorn": ("service/server.py", "service/web/*"),
}
# The ground: what these may import of the package.
GROUND = {
    "errors.py": (),
    # The tables of what can be named, which are light.
    "config/*": ("config/*", "errors.py", "heads/__init__.py", "losses/__init__.py", "metrics/*"),
    "losses/*": ("losses/*", "machine/*", "errors.py"),
    "metrics/*": ("metrics/*", "errors.py"),
    "machine/*": ("machine/*", "errors.py"),
    "runs.py": ("machine/*", "errors.py"),
}
PRINTERS = {"print", "input", "exit", "quit"}


def is_in(path: str, patterns: tuple[str, ...]) -> bool:
    """Whether a path is one of those, `*` being any of what is below a folder."""
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def dotted_names(source: str) -> set[str]:
    """Dotted names of everything a module imports, also inside functions and through importlib."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            names |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
    return names


def paths_of(names: set[str]) -> set[str]:
    """The files of the package that those dotted names are or are in; a room's __init__.py where it is the room."""
    paths = set()
    for name in names:
        parts = name.split(".")[1:] if name.startswith("clipret.") else []
        for end in range(len(parts), 0, -1):
            stem = "/".join(parts[:end])
            path = next((path for path in (f"{stem}.py", f"{stem}/__init__.py") if path in PATHS), None)
            if path:
                paths.add(path)
                break
    return paths


def prints(source: str) -> set[str]:
    """What of a module writes to the terminal, reads from it or ends the process."""
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = {func.id for func in calls if isinstance(func, ast.Name)} & (PRINTERS | {"Console"})
    ours = ("sys.exit", "sys.stdout.write", "sys.stderr.write", "typer.echo", "typer.confirm")
    return names | ({ast.unparse(func) for func in calls} & set(ours))


def violations(path: str, source: str) -> list[str]:
    """What the module at `path`, relative to the package, does against the rules."""
    names = dotted_names(source)
    libraries = {name.split(".")[0] for name in names}
    ours = paths_of(names) - {path}
    broken = [
        f"{path}: only {' or '.join(owner)} imports {name}"
        for name, owner in ONLY_IMPORTER.items()
        if name in libraries and not is_in(path, owner)
    ]
    if not is_in(path, (*STAGE_ONE, *ENCODERS, "cli/*", *FRONT_DOORS)):
        broken += [f"{path}: stage 2 imports {other}" for other in ours if is_in(other, STAGE_ONE)]
    if not is_in(path, (*STAGE_ONE, *ENCODERS)):
        broken += [f"{path}: stage 2 imports {name}" for name in libraries & STAGE_ONE_LIBRARIES]
    if not is_in(path, ("cli/*", *FRONT_DOORS)):
        broken += [f"{path}: imports the stage {other}" for other in ours if not may_use(path, other)]
        broken += [f"{path}: only cli imports {other}" for other in ours if is_in(other, ("cli/*",))]
        broken += [f"{path}: only cli prints, and here is {call}" for call in prints(source)]
    if not is_in(path, ("cli/*", "reporting/*", *FRONT_DOORS)):
        broken += [f"{path}: only cli imports {other}" for other in ours if is_in(other, ("reporting/*",))]
    for pattern, allowed in GROUND.items():
        if is_in(path, (pattern,)):
            broken += [f"{path}: imports {other}" for other in ours if not is_in(other, allowed)]
    return broken


def may_use(path: str, other: str) -> bool:
    """Whether a stage may import a module: none of another stage, but those that it is made of."""
    theirs = next((pattern for pattern in STAGES if is_in(other, (pattern,))), None)
    mine = next((pattern for pattern in STAGES if is_in(path, (pattern,))), None)
    # Stage 1 is checked as a whole elsewhere: what is in `extraction` that is no stage is its own.
    return theirs is None or theirs == mine or theirs in MADE_OF.get(mine, ())


def circle(arrows: dict[str, set[str]]) -> list[str] | None:
    """Rooms that import each other in a circle, the first of them twice; None where there are none."""

    def walk(room: str, way: list[str]) -> list[str] | None:
        if room in way:
            return [*way[way.index(room) :], room]
        return next((circle for other in sorted(arrows.get(room, ())) if (circle := walk(other, [*way, room]))), None)

    return next((circle for room in sorted(arrows) if (circle := walk(room, []))), None)


def rooms(sources: dict[str, str]) -> dict[str, set[str]]:
    """Room -> the rooms that its modules import; a module at the top is a room."""
    arrows = defaultdict(set)
    for path, source in sources.items():
        if path not in FRONT_DOORS:
            room = path.split("/")[0]
            arrows[room] |= {other.split("/")[0] for other in paths_of(dotted_names(source))} - {room}
    return dict(arrows)


def package_sources() -> dict[str, str]:
    return {path: (PACKAGE / path).read_text(encoding="utf-8") for path in PATHS}


@pytest.mark.parametrize("path", PATHS)
def test_every_arrow_points_one_way(path):
    assert violations(path, (PACKAGE / path).read_text(encoding="utf-8")) == []


def test_no_rooms_import_each_other_in_a_circle():
    assert circle(rooms(package_sources())) is None


def test_the_hall_stays_small():
    # py.typed is a mark for type checkers.
    names = [path.name for path in PACKAGE.iterdir() if path.name not in ("__pycache__", "py.typed")]
    assert len(names) <= MOST_NAMES, sorted(names)


TURNED = {
    "stage 2 loads clip": ("training/stage.py", "import clip"),
    "a stage imports a stage": ("training/stage.py", "from clipret.sweeps import sweep"),
    "merging reaches for training": ("cache/merging.py", "from clipret.training import train"),
    "stage 2 opens images": ("retrieval/gallery.py", "from PIL import Image"),
    "stage 2 loads torchvision, inside a function": (
        "evaluation/stage.py",
        "def f():\n    import torchvision.transforms as t",
    ),
    "stage 2 loads clip by importlib": ("evaluation/inputs.py", "import importlib\nimportlib.import_module('clip')"),
    "stage 2 imports stage 1": ("evaluation/stage.py", "from clipret.backbones import load_backbone"),
    "another room opens HDF5": ("heads/files.py", "import h5py"),
    "a room below imports the command line": ("losses/margin.py", "from clipret import cli"),
    "a room below draws tables": ("sweeps/stage.py", "from clipret.reporting.sweep import sweep_tables"),
    "the ground imports a room": ("errors.py", "from clipret.config import SPLITS"),
    "another encoder imports clip": ("backbones/other.py", "import clip"),
    "a stage prints": ("training/loop.py", "print('loss')"),
    "a report ends the process": ("reporting/metrics.py", "import sys\nsys.exit(1)"),
}


@pytest.mark.parametrize(("path", "source"), TURNED.values(), ids=TURNED.keys())
def test_the_rules_catch_an_arrow_that_turns(path, source):
    assert violations(path, source)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("cache/layout.py", "from clipret.protocols.leakage import check_images"),
        ("machine/files.py", "from clipret import runs"),
        ("heads/files.py", "from clipret.training.starting import initial_tensors"),
    ],
)
def test_the_rule_of_circles_catches_an_arrow_that_turns(path, source):
    assert circle(rooms(package_sources() | {path: source})) is not None


@pytest.mark.ci
def test_stage_two_runs_without_loading_clip_or_an_image_library():
    check = (
        "import sys, clipret\n"
        "clipret.train, clipret.evaluate, clipret.FeatureCache\n"
        f"loaded = {STAGE_ONE_LIBRARIES!r} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", check], check=True, timeout=120)


@pytest.mark.ci
def test_embeddings_are_made_without_loading_the_compiler():
    check = "import sys, clipret.exports.embeddings.stage\nassert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=120)


def test_the_public_names_are_these():
    assert clipret.__all__ == [
        "CheckConfig",
        "Client",
        "ClipretError",
        "CompareConfig",
        "DatasetConfig",
        "DownloadConfig",
        "EmbedConfig",
        "EvalConfig",
        "ExportConfig",
        "ExtractConfig",
        "FailuresConfig",
        "FeatureCache",
        "FeaturesConfig",
        "ImportConfig",
        "LookConfig",
        "MergeConfig",
        "ReportConfig",
        "ReproduceConfig",
        "SearchConfig",
        "ServeConfig",
        "SweepConfig",
        "TrainConfig",
        "VerifyConfig",
        "check_dataset",
        "compare",
        "download",
        "embed",
        "evaluate",
        "export",
        "extract",
        "find_failures",
        "import_features",
        "load_head",
        "look",
        "merge",
        "open_features",
        "open_run",
        "recipe_settings",
        "report",
        "reproduce",
        "resume",
        "search",
        "serve",
        "sweep",
        "train",
        "verify",
        "write_cache",
        "zero_shot",
    ]
    assert all(callable(getattr(clipret, name)) for name in clipret.__all__)
