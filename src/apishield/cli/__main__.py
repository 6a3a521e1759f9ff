"""``python -m apishield.cli``: the same as the command ``apishield``."""

from apishield.cli import main

if __name__ == "__main__":
    main()
