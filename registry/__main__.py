"""`python -m registry` is `pierhead`."""

from registry.cli.main import main

if __name__ == "__main__":
    main()
