"""``python -m canet_mobile``, and what torchrun starts."""

from canet_mobile.cli.main import main

if __name__ == "__main__":
    main()
