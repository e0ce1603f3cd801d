"""``python -m starquant_fx``: the command line."""

from starquant_fx.cli import main

if __name__ == "__main__":
    main()
