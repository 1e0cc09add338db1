"""`python -m primed.node` is the command `primed`."""

from primed.node.cli import main

if __name__ == "__main__":
    main()
