"""`python -m ops.cli`, where the `ragstone` script is not at hand."""

from ops.cli import main

if __name__ == "__main__":
    main()
