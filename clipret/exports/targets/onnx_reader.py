"""Embeds images and captions with image.onnx and text.onnx, as preprocessing.json beside them says.

    reader = Reader("exported-onnx")
    reader.embed_images([Image.open("a.jpg")]) @ reader.embed_texts(["two dogs"]).T

Needs numpy, Pillow, onnxruntime and tokenizers; and ftfy, where the captions have to be cleaned with it. An exported
folder has a copy, reader.py, which is yours to change.
"""

import html
import json
import string
import unicodedata
from pathlib import Path

import numpy as np
from PIL import Image

_BATCH = 32


class Reader:
    """The encoder and the trained head of a folder."""

    def __init__(self, folder):
        import onnxruntime
        from tokenizers import Tokenizer

        folder = Path(folder)
        about = json.loads((folder / "preprocessing.json").read_text(encoding="utf-8"))
        self.image, self.text = about["image"], about["text"]
        self._tokenizer = Tokenizer.from_file(str(folder / self.text["tokenizer"]))
        self._graphs = {side: onnxruntime.InferenceSession(folder / f"{side}.onnx") for side in ("image", "text")}

    def embed_images(self, images):
        """PIL images -> (n, E) float32, rows of norm 1."""
        return self._run("image", [image_values(crop(image, self.image), self.image) for image in images])

    def embed_cropped(self, images):
        """The same of PIL images of S x S, which are not resized."""
        return self._run("image", [image_values(image, self.image) for image in images])

    def embed_texts(self, captions):
        """Captions -> (n, E) float32, rows of norm 1: cleaned and put into the prompt, as for the training."""
        return self.embed_prompted([prompted(caption, self.text) for caption in captions])

    def embed_prompted(self, texts):
        """The same of texts that are as the encoder's tokenizer takes them."""
        return self._run("text", token_ids(texts, self._tokenizer, self.text))

    def _run(self, side, inputs):
        graph, parts = self._graphs[side], []
        for start in range(0, len(inputs), _BATCH):
            parts += graph.run(None, {graph.get_inputs()[0].name: np.stack(inputs[start : start + _BATCH])})
        return np.concatenate(parts) if parts else np.zeros((0, graph.get_outputs()[0].shape[1]), np.float32)


def crop(image, about):
    """A PIL image -> the PIL RGB image of S x S that the encoder sees."""
    see_through = image.mode in ("RGBA", "LA", "PA", "RGBa") or (
        "transparency" in image.info and image.mode in ("1", "L", "RGB", "P")
    )
    if about["background"] is not None and see_through:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, about["background"]), layer).convert("RGB")
    if about["pad_to_square"] is not None and image.width != image.height:
        side = max(image.size)
        image = _centred(image.convert("RGB"), side, colour=tuple(about["pad_to_square"]))
    if about["convert_to_rgb"] == "first":
        image = image.convert("RGB")
    width, height = _size_after(image.size, about["resize"])
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling[about["resize"]["interpolation"].upper()])
    size = about["size"]
    if about["fill"] is not None:
        bands = len(image.getbands())
        image = _centred(image, size, colour=about["fill"] if bands == 1 else (about["fill"],) * bands)
    # Half a pixel is rounded to the even one, or down.
    rounded = round if about["crop"] == "nearest" else int
    left, top = rounded((width - size) / 2), rounded((height - size) / 2)
    if (width, height) != (size, size) and about["fill"] is None:
        image = image.crop((left, top, left + size, top + size))
    return image.convert("RGB")


def image_values(image, about):
    """A PIL RGB image of S x S -> (3, S, S) float32, normalised."""
    values = np.asarray(image, dtype=np.float32) / np.float32(255)
    return ((values - np.float32(about["mean"])) / np.float32(about["std"])).transpose(2, 0, 1)


def prompted(caption, about):
    """A caption -> what the encoder's tokenizer takes."""
    if about["caption_clean"] == "lower":
        caption = caption.lower()
    if about["caption_clean"] == "strip-punctuation":
        caption = "".join(letter for letter in caption if not unicodedata.category(letter).startswith("P"))
    if about["caption_clean"] != "none":
        caption = " ".join(caption.split())
    return about["prompt"].replace("{}", caption)


def token_ids(texts, tokenizer, about):
    """Texts -> (n, L) int64."""
    for step in about["clean"]:
        texts = [_CLEANING[step](text) for text in texts]
    rows = [encoding.ids for encoding in tokenizer.encode_batch([about["prefix"] + text for text in texts])]
    length = about["length"] or max(map(len, rows), default=0)
    ids = np.full((len(rows), length), about["padding"], dtype=np.int64)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = tokens
    return ids


def _size_after(size, resize):
    if resize["to"] == "both":
        return tuple(resize["size"])
    short, long = sorted(size)
    if resize["to"] == "longest":
        return tuple(round(length / (long / resize["size"])) for length in size)
    # The long side is rounded down.
    other = int(resize["size"] * long / short)
    return (resize["size"], other) if size[0] <= size[1] else (other, resize["size"])


def _centred(image, side, *, colour):
    square = Image.new(image.mode, (side, side), colour)
    if image.mode == "P":
        square.putpalette(image.getpalette())
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _ftfy(text):
    # Plain text stays as it is.
    if text.isascii() and text.isprintable():
        return text
    import ftfy

    return ftfy.fix_text(text)


_CLEANING = {
    "ftfy": _ftfy,
    "unescape": lambda text: html.unescape(html.unescape(text)),
    "no-punctuation": lambda text: text.replace("_", " ").translate(str.maketrans("", "", string.punctuation)),
    "lower": str.lower,
    "spaces": lambda text: " ".join(text.split()),
}
