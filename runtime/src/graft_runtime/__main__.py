"""`python -m graft_runtime`, the same as `graft-runtime`."""

from graft_runtime.cli import main

if __name__ == "__main__":
    main()
