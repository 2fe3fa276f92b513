"""`python -m thothy_batch` is the same program as `thothy-batch`."""

from thothy_batch.cli.main import main

if __name__ == "__main__":
    main()
