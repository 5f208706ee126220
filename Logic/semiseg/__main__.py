"""`python -m semiseg` is the `semiseg` program."""

from semiseg.cli.app import main

if __name__ == "__main__":
    main()
