"""``python -m transferkit``: the command line."""

from transferkit.cli import main

if __name__ == "__main__":
    main()
