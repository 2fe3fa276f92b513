"""Entry point of `thothy-batch` and `python -m thothy_batch`."""

from typing import NoReturn

from thothy_batch.cli import signals


def main() -> NoReturn:
    """Installs the signal handlers, then imports and runs the command line, which takes a while."""
    signals.install()
    from thothy_batch.cli.main import main as program

    program()


if __name__ == "__main__":
    main()
