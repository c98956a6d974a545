"""`python -m lrbench`: the command line, as `torchrun -m lrbench` starts it too."""

from lrbench.cli import main

if __name__ == "__main__":
    main()
