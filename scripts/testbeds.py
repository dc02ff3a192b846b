"""Make the data sets on which heads, losses and recipes are judged, as caches in build/testbeds.

    python scripts/testbeds.py                    # all of them: half an hour, mostly rendering
    python scripts/testbeds.py icons stamps

emoji      as in the demo: what tiny-emoji was trained to read
icons      one drawing for each distinct name among the icon sets of `@iconify/json` without emoji and flags, 100,000
           pairs unlike anything tiny-emoji was trained on; 2,000 val and 5,000 test
icons-20k  20,000 of its training pairs, the same val and test, for what costs much
stamps     drawings and photographs of Debian's `tuxpaint-stamps-default` with their English descriptions

`make testbeds` installs what it needs but npm, which icons need, and Debian's apt-get and dpkg-deb, which stamps need.
The licence of each icon set is in the archive's collections.json.
"""

import argparse
import csv
import hashlib
import io
import json
import re
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from tiny_clip_data import Source, as_svg, fetch

from clipret import ExtractConfig, extract

FOLDER = Path(__file__).resolve().parent.parent / "build" / "testbeds"
ICONS = Source("@iconify/json", "2.2.535", "1a545f86fa224d6531d8fb101dcbe83aac2b28689a21cbed6fc68318a5af4d91")
_SIDE, _STAMP = 72, 256
_VAL, _TEST, _FEW = 2_000, 5_000, 20_000
# Of what tiny-emoji was trained on there is something among these.
_LEFT_OUT = ("Emoji", "Flags / Maps")
# Words of a name that say how an icon is drawn, not what it shows.
_STYLES = frozenset(
    [
        "alt",
        "bold",
        "broken",
        "color",
        "duotone",
        "fill",
        "filled",
        "icon",
        "light",
        "line",
        "linear",
        "outline",
        "outlined",
        "regular",
        "round",
        "rounded",
        "sharp",
        "solid",
        "thin",
        "twotone",
    ]
)


class Pair(NamedTuple):
    """An image file, relative to the table, its caption and its split."""

    image: str
    caption: str
    split: str


def main() -> None:
    """Make the test beds that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["emoji", "icons", "icons-20k", "stamps"])
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.names:
        path = make(name, folder=arguments.out)
        print(f"{name}: {path}")


def make(name: str, *, folder: Path, tap: str = "none") -> Path:
    """The cache of a test bed, made or completed; with a tap it is another one."""
    cache, source = folder / f"{name}{'' if tap == 'none' else '-tap'}.h5", source_of(name, folder=folder)
    if name in _TABLES and not Path(source["dataset"]).exists():
        _TABLES[name](folder)
    extract(ExtractConfig(**source, model="tiny-emoji", out=cache, tap=tap))
    return cache


def source_of(name: str, *, folder: Path) -> dict[str, Any]:
    """The data set of a test bed, as settings of a config."""
    if name == "emoji":
        return {"dataset": "emoji"}
    return {"dataset": str(folder / f"{name}.csv"), "root": folder}


def _icons(folder: Path) -> None:
    """icons.csv and icons-20k.csv, and the drawings in icons/."""
    fetch([ICONS], folder=folder / "archives")
    drawings = sorted(_distinct(_named(folder / "archives" / ICONS.archive)).items(), key=lambda item: _order(item[0]))
    with ProcessPoolExecutor() as pool:
        drawn = list(pool.map(_draw, ((folder / "icons", name, svg) for name, svg in drawings), chunksize=200))
    # What a renderer makes nothing of, and names whose drawings equal an earlier one's, are no pairs to learn from.
    seen, pairs = set(), []
    for (name, _), digest in zip(drawings, drawn, strict=True):
        if digest is not None and digest not in seen:
            seen.add(digest)
            split = "test" if len(pairs) < _TEST else "val" if len(pairs) < _TEST + _VAL else "train"
            pairs.append(Pair(f"icons/{_file(name)}", name, split))
    _write(folder / "icons.csv", pairs)
    _write(folder / "icons-20k.csv", pairs[: _TEST + _VAL + _FEW])


def _named(archive: Path) -> Iterator[tuple[str, str, str]]:
    """Name in words, set and SVG of every icon."""
    with tarfile.open(archive) as tar:
        about = json.load(tar.extractfile("package/collections.json"))
        for member in tar:
            prefix = Path(member.name).stem
            if not member.name.startswith("package/json/") or about.get(prefix, {}).get("category") in _LEFT_OUT:
                continue
            icons = json.load(tar.extractfile(member))
            for name in icons["icons"]:
                words = [
                    word for word in re.split("[-_]+", name.lower()) if word and not re.fullmatch(r"\d+(px)?", word)
                ]
                plain = " ".join(word for word in words if word not in _STYLES)
                if plain:
                    yield plain, prefix, as_svg(icons, name)


def _distinct(icons: Iterable[tuple[str, str, str]]) -> dict[str, str]:
    """Name -> SVG: of one set for each name, drawn by lot, so that every set has its share."""
    best: dict[str, tuple[str, str]] = {}
    for name, prefix, svg in icons:
        lot = _order(f"{prefix}/{name}")
        if name not in best or lot < best[name][0]:
            best[name] = (lot, svg)
    return {name: svg for name, (_, svg) in best.items()}


def _draw(job: tuple[Path, str, str]) -> str | None:
    """Render an icon on white; the sha256 of its pixels, None where there is nothing to be seen."""
    folder, name, svg = job
    path = folder / _file(name)
    if not path.exists():
        layer = _rendered(svg, width=_SIDE, height=_SIDE)
        if layer is None:
            return None
        _save_on_white(layer, path)
    with Image.open(path) as image:
        plain = all(low == high for low, high in image.getextrema())
        return None if plain else hashlib.sha256(image.tobytes()).hexdigest()


def _file(name: str) -> str:
    digest = hashlib.sha256(name.encode()).hexdigest()[:16]
    return f"{digest[:2]}/{digest}.png"


def _order(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _stamps(folder: Path) -> None:
    """stamps.csv, and the package's files in stamps/."""
    archives = folder / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    if not (packages := sorted(archives.glob("tuxpaint-stamps-default_*.deb"))):
        subprocess.run(["apt-get", "download", "tuxpaint-stamps-default"], cwd=archives, check=True)
        packages = sorted(archives.glob("tuxpaint-stamps-default_*.deb"))
    subprocess.run(["dpkg-deb", "-x", str(packages[-1]), str(folder / "stamps")], check=True)
    texts = {path.with_suffix(""): _description(path) for path in (folder / "stamps").rglob("*.txt")}
    drawings = sorted(path for path in (folder / "stamps").rglob("*") if path.suffix in (".png", ".svg"))
    described = [(path, texts[path.with_suffix("")]) for path in drawings if texts.get(path.with_suffix(""))]
    first = {text: path for path, text in reversed(described)}
    ordered = sorted(first.items(), key=lambda item: _order(item[0]))
    drawn = [(file, text) for text, path in ordered if (file := _on_white(path, folder=folder))]
    splits = ("test", "test", "val", *["train"] * 7)
    pairs = [Pair(file, text, splits[place % 10]) for place, (file, text) in enumerate(drawn)]
    _write(folder / "stamps.csv", pairs)


def _description(path: Path) -> str:
    """The English description: a stamp's text begins with it, and goes on with translations."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[0].strip() if lines else ""


def _on_white(path: Path, *, folder: Path) -> str | None:
    """The drawing as an RGB file, relative to the table; None where it cannot be rendered."""
    out = folder / "stamps" / "white" / f"{_order(str(path.relative_to(folder)))[:16]}.png"
    if path.suffix == ".svg":
        layer = _rendered(path.read_text("utf-8"), width=_STAMP)
    else:
        layer = Image.open(path).convert("RGBA")
    if layer is None:
        return None
    _save_on_white(layer, out)
    return str(out.relative_to(folder))


def _rendered(svg: str, **size: int) -> Image.Image | None:
    """An SVG as a picture; None where the renderer makes nothing of it."""
    import resvg_py

    try:
        content = resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True, **size)
        return Image.open(io.BytesIO(bytes(content))).convert("RGBA")
    except (ValueError, OSError):
        return None


def _save_on_white(layer: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB").save(path)


def _write(path: Path, pairs: list[Pair]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(Pair._fields)
        table.writerows(pairs)


_TABLES = {"icons": _icons, "icons-20k": _icons, "stamps": _stamps}

if __name__ == "__main__":
    main()
