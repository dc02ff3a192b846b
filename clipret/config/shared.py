"""Settings that several configs have."""

from clipret.config.checks import MOST_SEED
from clipret.config.choices import ALL_SPLITS, DEVICES, DTYPES, PROTOCOLS, RUNS_DIR, SEED, SPLITS, TRAIN_PRECISIONS
from clipret.config.settings import setting

_BLOCK = 512
_MOST_BLOCK = 1_000_000


def device(**rules):
    """The device."""
    return setting(
        "auto", "auto, cpu or cuda; auto takes CUDA where there is one.", choices=DEVICES, swept=False, **rules
    )


def seed(decides: str, **rules):
    """The seed; decides: its help text."""
    return setting(SEED, decides, between=(0, MOST_SEED), swept=False, **rules)


def runs_dir(**rules):
    """The folder of the runs."""
    return setting(RUNS_DIR, "Folder that holds the runs.", swept=False, **rules)


def memory_limit(**rules):
    """The memory that features may take."""
    return setting(
        None,
        "GiB that features may take.",
        shown="most of what is free",
        above=0,
        at_most=1_000_000,
        swept=False,
        **rules,
    )


def block():
    """The block size of ranking."""
    return setting(_BLOCK, "Images per block; affects memory only.", at_least=1, at_most=_MOST_BLOCK)


def embedding_precision():
    """The precision that embeddings are rounded to before ranking."""
    return setting(
        "fp32", "Of the embeddings that are ranked: fp32, or rounded to tf32 or bf16 first.", choices=TRAIN_PRECISIONS
    )


def measured_split():
    """The split, for protocols that take any."""
    return setting(
        None, f"Split of protocol split or split-equal-texts: {', '.join(SPLITS)}.", shown="test", choices=SPLITS
    )


def download_root():
    """The folder of downloaded weights."""
    return setting(
        None,
        "Folder of downloaded weights: OpenAI's, open_clip's and the Hugging Face hub's.",
        shown="~/.cache/clip; of the hub ~/.cache/huggingface/hub",
    )


def one_protocol(shown: str):
    """The name of one protocol; shown: the default as --help shows it."""
    return setting(None, f"One of {', '.join(PROTOCOLS)}.", shown=shown, choices=PROTOCOLS)


def gallery_split():
    """The split that is searched."""
    return setting(
        ALL_SPLITS,
        f"Images of which split are searched, and their captions: {ALL_SPLITS}, or one of {', '.join(SPLITS)}.",
        choices=(ALL_SPLITS, *SPLITS),
        swept=False,
    )


def kept_dtype():
    """The type of the embeddings that a search keeps."""
    return setting("float32", "Type of the kept embeddings: float32 or float16, half the size.", choices=DTYPES)


def kept_in():
    """The folder of the embeddings that a search keeps."""
    return setting(
        None, "Folder that keeps the embeddings of the gallery.", shown="the run's; of zero-shot the cache's"
    )


def images_root(what: str):
    """The folder of the images; what: its help text."""
    return setting(None, what, shown="where they were")


def encoder_place():
    """The encoder, where the cache's name of it is no longer right."""
    return setting(
        None, "Where the encoder is now: the same weights under another name.", shown="as the cache names it"
    )


def page_bytes():
    """The size of a page with pictures."""
    return setting(
        5_000_000,
        "Pictures are left out beyond this size of the page.",
        at_least=100_000,
        at_most=200_000_000,
        swept=False,
    )
