"""How the encoder was given images and captions, as Python that anybody can run: of the model card.

The lines define `pictures`, PIL images, and `captions`, texts, as the code of a way of opening takes them.
"""

_WHITE = '''def on_white(image):
    """Transparency painted over white."""
    if not image.has_transparency_data:
        return image
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
'''
_PADDED = '''def padded(image):
    """Padded to a square."""
    side = max(image.size)
    square = Image.new("RGB", (side, side), {colour})
    square.paste(image.convert("RGB"), ((side - image.width) // 2, (side - image.height) // 2))
    return square
'''
_LOWER = """def cleaned(caption):
    return " ".join(caption.lower().split())
"""
_STRIPPED = """def cleaned(caption):
    letters = (letter for letter in caption if not unicodedata.category(letter).startswith("P"))
    return " ".join("".join(letters).split())
"""
_CLEANINGS = {"lower": _LOWER, "strip-punctuation": _STRIPPED}


def preparation_code(images: dict, captions: dict) -> str:
    """Python that reads photo.jpg into `pictures` and makes `captions`, as the cache of this record had them.

    images    background and padding, as description.describe returns them
    captions  prompt and cleaning
    """
    functions, picture, caption = [], 'Image.open("photo.jpg")', "caption"
    if images["background"] == "white":
        functions, picture = [*functions, _WHITE], f"on_white({picture})"
    if images["padding"]:
        functions.append(_PADDED.replace("{colour}", str(tuple(images["padding"]))))
        picture = f"padded({picture})"
    if captions["cleaning"] != "none":
        functions, caption = [*functions, _CLEANINGS[captions["cleaning"]]], f"cleaned({caption})"
    if captions["prompt"] != "{}":
        caption = f'{captions["prompt"]!a}.replace("{{}}", {caption})'
    texts = '["two dogs", "a red car"]'
    if caption != "caption":
        texts = f"[{caption} for caption in {texts}]"
    head = "import unicodedata\n\n" if captions["cleaning"] == "strip-punctuation" else ""
    parts = [f"{head}from PIL import Image\n", *functions, f"pictures = [{picture}]\ncaptions = {texts}\n"]
    return ("\n\n" if functions else "\n").join(parts)


def preparation_words(images: dict, captions: dict) -> list[str]:
    """What is done before the library's own preprocessing and tokenizer: a sentence each, without markup."""
    lines = []
    if images["background"] == "white":
        lines.append("Transparent pixels of an image are painted over white.")
    if images["padding"]:
        colour = ", ".join(map(str, images["padding"]))
        lines.append(f"An image is padded to a square, equally on both sides, with the colour ({colour}).")
    if captions["cleaning"] != "none":
        how = {"lower": "put in lower case", "strip-punctuation": "rid of punctuation"}[captions["cleaning"]]
        lines.append(f"A caption is {how}, and white space in it is one blank.")
    if captions["prompt"] != "{}":
        lines.append(f"A caption stands in a prompt, in place of the braces: {captions['prompt']}")
    return lines or ["Nothing is done to images and captions before the library's own preprocessing and tokenizer."]
