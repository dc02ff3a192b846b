import subprocess
import sys

from clipret.heads import HEADS, load_head_kind
from clipret.losses import LOSSES, load_loss
from clipret.losses.values import Loss


def test_the_tables_load_neither_torch_nor_other_rooms():
    """Settings are made of them, and `clipret --help` shows their names."""
    check = (
        "import sys, clipret.losses, clipret.heads\n"
        "ours = {name for name in sys.modules if name.startswith('clipret')}\n"
        "assert ours == {'clipret', 'clipret.losses', 'clipret.heads'}, ours\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", check], check=True, timeout=120)


def test_every_row_has_its_declaration():
    assert all(isinstance(load_loss(name), Loss) for name in LOSSES)
    assert all(load_head_kind(name).kind == name for name in HEADS)
