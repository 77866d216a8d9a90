"""`python -m launcher` is `launcher`."""

from launcher.cli import main

if __name__ == "__main__":
    main()
