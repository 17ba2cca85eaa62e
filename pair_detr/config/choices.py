"""What keys can be chosen from, where more than one package has to know it."""

# INPUT.FORMAT, and the channels of each.
IMAGE_CHANNELS = {"RGB": 3, "BGR": 3, "L": 1, "LA": 2, "RGBA": 4, "HSV": 3, "YCbCr": 3}

# TEST.PRECISION; the last is measured.
PRECISIONS = ("fp32", "bf16", "fp16", "auto")

# DATALOADER.SAMPLER_TRAIN; the last trains on several datasets, with boxes or with image labels.
REPEAT_FACTOR_SAMPLER = "RepeatFactorTrainingSampler"
MULTI_DATASET_SAMPLER = "MultiDatasetSampler"
SAMPLERS = ("TrainingSampler", REPEAT_FACTOR_SAMPLER, MULTI_DATASET_SAMPLER)

# SOLVER.LR_SCHEDULER_NAME: Detectron2's, and one of our own.
COSINE, FIXED_GAMMA, STABLE_DECAY = "WarmupCosineLR", "WarmupStepWithFixedGammaLR", "WarmupStableDecayLR"
LR_SCHEDULERS = ("WarmupMultiStepLR", COSINE, FIXED_GAMMA, STABLE_DECAY)
# Of MODEL.BACKBONE.NAME: one of CLIP's image encoders, frozen.
CLIP_BACKBONE = "build_clip_backbone"
