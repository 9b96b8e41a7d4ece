"""``python -m hub_fusion`` and ``accelerate launch -m hub_fusion``: the same commands as ``hub-fusion``."""

from hub_fusion.cli import main

if __name__ == "__main__":
    main()
