"""`python -m invertible` is the command `invertible`."""

import sys

from invertible.cli import main

if __name__ == "__main__":
    sys.exit(main())
