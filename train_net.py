"""Trains and evaluates Pair DETR, Conditional DETR and DETR; ``pair-detr train``, where only the package is installed.

python train_net.py --config-file configs/r50.yaml --num-gpus 8
python train_net.py --config-file configs/r50.yaml --eval-only MODEL.WEIGHTS output/pair_detr/r50/model_final.pth
"""

from pair_detr.engine import run_program
from pair_detr.tools.train import main

if __name__ == "__main__":
    run_program(lambda: main(program="python train_net.py"))
