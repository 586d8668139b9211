"""Runs the tools: ``python -m mmretrieval``."""

from mmretrieval.tools.main import main

if __name__ == "__main__":
    main()
