"""Trains and evaluates Pair DETR, Conditional DETR and DETR.

python train_net.py --config-file configs/r50.yaml --num-gpus 8
python train_net.py --config-file configs/r50.yaml --eval-only MODEL.WEIGHTS output/pair_detr/r50/model_final.pth
"""

from pair_detr.engine import argument_parser, run, run_program

if __name__ == "__main__":
    run_program(lambda: run(argument_parser().parse_args()))
