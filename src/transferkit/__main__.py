"""``python -m transferkit``: the command line."""

from importlib import import_module

if __name__ == "__main__":
    import_module("transferkit.cli").main()  # by name: the package stands below its rooms
