"""`python -m longshort`: the command line."""

from longshort.cli import main

if __name__ == "__main__":
    main()
