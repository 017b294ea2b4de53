"""`python -m mmbal_cli` and the console script `mmbal`."""

from mmbal_cli.cli.app import main

if __name__ == "__main__":
    main()
