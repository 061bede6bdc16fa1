"""`ltpl` and `python -m ltpl`: the command over modules of `pytorch_lightning`."""

import pytorch_lightning  # noqa: F401  # loaded first, it is the only package that is meant

from ltpl.cli import main

if __name__ == "__main__":
    main()
