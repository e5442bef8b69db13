"""`python -m bbg` is the command `bbg`."""

from bbg.cli import main

if __name__ == "__main__":
    main()
