"""What several tests use: small inputs, naive references, servers, and programs that run as processes of their own."""

from pathlib import Path

# Where the programs child_*.py are.
HELPERS = Path(__file__).resolve().parent
REPOSITORY = HELPERS.parent.parent
