"""`python -m thothy_batch` is the same program as `thothy-batch`."""

from typing import NoReturn

from thothy_batch.cli import signals


def main() -> NoReturn:
    """Runs the command line. The signals come first: importing the rest takes a while."""
    signals.install()
    from thothy_batch.cli.main import main as program

    program()


if __name__ == "__main__":
    main()
