"""``python -m pair_detr_cli``: as ``pair-detr``, where that is not on the PATH."""

from pair_detr_cli.main import main

if __name__ == "__main__":
    main()
