"""python -m clipret"""

import sys

from clipret.cli import main

if __name__ == "__main__":
    sys.exit(main())
