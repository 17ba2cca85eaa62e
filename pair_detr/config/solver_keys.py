"""The keys of optimizer and schedule."""

from detectron2.config import CfgNode as CN


def add_solver_keys(cfg: CN) -> None:
    """Adds the keys to ``cfg`` in place, and adapts those of Detectron2."""
    # "ADAMW", as in DETR's recipe, or "SGD" (with SOLVER.MOMENTUM and NESTEROV), for every parameter. "MUON" is Muon
    # (Keller Jordan et al., 2024; with SOLVER.MOMENTUM) for the matrices of encoder and decoders, and for what
    # MUON_BACKBONE_MULTIPLIER says, and AdamW for the others. Own.
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    # Muon's learning rate is that of AdamW times this. Own.
    cfg.SOLVER.MUON_MULTIPLIER = 20.0
    # The same for the backbone's convolutions; 0 leaves them to AdamW, as its linear layers are. High values suit
    # backbones that still have much to learn, and spoil what ImageNet has taught one. Own.
    cfg.SOLVER.MUON_BACKBONE_MULTIPLIER = 0.0
    # Beside Detectron2's, "WarmupStableDecayLR" keeps the rate until the first of SOLVER.STEPS, and then lowers it on a
    # line to BASE_LR_END. Detectron2's key.
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupMultiStepLR"
    # DETR's, for 16 images a batch. No key follows SOLVER.IMS_PER_BATCH by itself, except where Detectron2's
    # SOLVER.REFERENCE_WORLD_SIZE is set.
    cfg.SOLVER.BASE_LR = 1e-4
    cfg.SOLVER.WEIGHT_DECAY = 1e-4
    # DETR decays normalization parameters like all others.
    cfg.SOLVER.WEIGHT_DECAY_NORM = 1e-4
    cfg.SOLVER.WARMUP_ITERS = 0
    # The backbone's learning rate is BASE_LR times this (DETR: 1e-5 beside 1e-4).
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1
    # "full_model" clips the norm of all gradients together (DETR: 0.1); "value" and "norm" are Detectron2's, which act
    # on each parameter alone. Detectron2's DefaultTrainer lacks "full_model": docs/detectron2.md has what to override.
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.1
    # Exponential moving average of the weights, which is evaluated and saved in the place of the last weights; 0 is
    # none. 0.9997 is usual for schedules of 100,000 iterations, 0.99 for some hundreds. Own.
    cfg.SOLVER.EMA_DECAY = 0.0
    # How many of the checkpoints that are called after their iteration stay in OUTPUT_DIR, the last ones; 0 keeps all.
    # Next to them stay model_final.pth and, with evaluations during the training, model_best.pth. With 1 there is none
    # to fall back to where the last is damaged. Own.
    cfg.SOLVER.KEEP_CHECKPOINTS = 2
    # Gradient accumulation, for batches that do not fit into memory: the SOLVER.IMS_PER_BATCH images of an optimizer
    # step are computed in so many parts, one after the other. Iterations, schedule, learning rate and checkpoints stay
    # what they are. The losses of a part are normalized by the objects of that part (in all processes), and the
    # gradients of the parts are averaged; of one large batch, they would be normalized by the objects of all. Own.
    cfg.SOLVER.ACCUMULATE_STEPS = 1
    # torch.compile for the network in training, not for its losses. Needs INPUT.FIXED_SIZE, for which it compiles once,
    # or INPUT.SIZE_BUCKETS, once for each. With denoising queries, whose number varies, it compiles a few times in all,
    # for any number and, with buckets, any size. Dropout draws other random numbers. Own.
    cfg.SOLVER.COMPILE = False
    # Also replay the compiled network as CUDA graphs, one for each size: the host then launches a graph instead of some
    # thousand kernels, which is what small batches wait for. Takes more memory of the GPU. Needs SOLVER.COMPILE, and a
    # number of queries that does not vary, as that of denoising queries does. Own.
    cfg.SOLVER.CUDA_GRAPHS = False
    # Autocast type where SOLVER.AMP.ENABLED: "bfloat16" (no loss scaling) or "float16". Losses and matching stay fp32.
    # Own.
    cfg.SOLVER.AMP.DTYPE = "bfloat16"

    # The schedule in epochs of the training set. Where MAX is set it replaces MAX_ITER, STEPS, CHECKPOINT_PERIOD and
    # TEST.EVAL_PERIOD, so that a schedule holds for any batch size and any dataset. MAX_ITER or STEPS on the command
    # line, or in a file over its _BASE_, replace an inherited MAX in turn. Own, in DETR's unit.
    cfg.SOLVER.EPOCHS = CN()
    # Length of the training; 0 counts in iterations.
    cfg.SOLVER.EPOCHS.MAX = 0
    # Epochs at which the learning rate is multiplied with SOLVER.GAMMA, or the first of which its decay starts at.
    cfg.SOLVER.EPOCHS.STEPS = []
    # Epochs between two checkpoints, and between two evaluations (0: at the end only).
    cfg.SOLVER.EPOCHS.CHECKPOINT_PERIOD = 1
    cfg.SOLVER.EPOCHS.EVAL_PERIOD = 0
