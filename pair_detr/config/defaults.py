"""Every configuration key that this project adds to Detectron2's defaults.

The comment over a key has its meaning and where it comes from: DETR (arXiv 2005.12872; its main.py and
datasets/coco.py), Conditional DETR (arXiv 2108.06152), Pair DETR (arXiv 2210.16476), or "own" where it is this
project's. The value in the line is the default.
"""

import torch
from detectron2.config import CfgNode as CN

from pair_detr.config.clip_keys import add_clip_keys
from pair_detr.config.query_keys import add_query_keys
from pair_detr.config.renamed import register_renamed_keys
from pair_detr.config.solver_keys import add_solver_keys


def add_pair_detr_config(cfg: CN) -> None:
    """Adds the project's keys to ``cfg`` in place, and adapts a few of Detectron2's defaults to DETR.

    Args:
        cfg: the config returned by :func:`detectron2.config.get_cfg`.
    """
    _adapt_detectron2_defaults(cfg)
    _add_model_keys(cfg)
    add_query_keys(cfg)
    _add_mask_keys(cfg)
    add_clip_keys(cfg)
    _add_backbone_keys(cfg)
    _add_input_keys(cfg)
    _add_multi_dataset_keys(cfg)
    add_solver_keys(cfg)
    register_renamed_keys(cfg)


def _adapt_detectron2_defaults(cfg: CN) -> None:
    # The only meta-architecture of this project, for all of its variants.
    cfg.MODEL.META_ARCHITECTURE = "DetectionTransformer"
    # Detectron2 defaults to "cuda" and fails without a GPU; the same config should run on both.
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    # torchvision's convention, in which all published DETR checkpoints are trained: RGB, ImageNet statistics in
    # 0..255, stride in the 3x3 convolution of a bottleneck. Images may also be read as BGR, L (gray), LA, RGBA, HSV or
    # YCbCr, with a value of PIXEL_MEAN and of PIXEL_STD for each channel.
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    # DETR trains on images without objects, too; they are negatives for every query.
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    # Programs that losses and results are also sent to, "wandb" (Weights & Biases) and "mlflow", which are to be
    # installed and set up by their own means. Own.
    cfg.TRACKERS = ()


def _add_model_keys(cfg: CN) -> None:
    cfg.MODEL.DETR = CN()
    # Which detector to build: "pair_detr" (arXiv 2210.16476), "conditional_detr" (arXiv 2108.06152) or "detr"
    # (arXiv 2005.12872). This is the only switch between them; the keys below apply to all unless they say otherwise.
    cfg.MODEL.DETR.VARIANT = "pair_detr"
    # Number of classes; 0 takes it from the `thing_classes` of the first dataset in DATASETS.TRAIN. Own.
    cfg.MODEL.DETR.NUM_CLASSES = 0
    # Boxes only: all classes of the data are one, "object", in training and in evaluation.
    cfg.MODEL.DETR.CLASS_AGNOSTIC = False
    # Object queries, the most objects that an image can be given. DETR: 100, Conditional DETR: 300.
    cfg.MODEL.DETR.NUM_QUERIES = 300
    # Width of the transformer (divisible by 4 and by NUM_HEADS), its attention heads, and its depth: DETR's.
    cfg.MODEL.DETR.HIDDEN_DIM = 256
    cfg.MODEL.DETR.NUM_HEADS = 8
    cfg.MODEL.DETR.ENC_LAYERS = 6
    cfg.MODEL.DETR.DEC_LAYERS = 6
    # Hidden units of the feed-forward blocks: DETR's.
    cfg.MODEL.DETR.FFN_DIM = 2048
    # Dropout on residuals and inside the feed-forward blocks (DETR, appendix A.4).
    cfg.MODEL.DETR.DROPOUT = 0.1
    # Dropout on attention weights; -1 takes DROPOUT, as DETR does. 0 saves the random numbers for all of them, and lets
    # attention run on torch's fused kernel, which knows no dropout on CPUs. Own.
    cfg.MODEL.DETR.ATTENTION_DROPOUT = -1.0

    # Cost of matching a query with an object (Hungarian matching, DETR section 3.1).
    cfg.MODEL.DETR.COST = CN()
    # Weight of the class cost; -1 takes the variant's published one: 2 with sigmoid focal, 1 with softmax.
    cfg.MODEL.DETR.COST.CLASS = -1.0
    # Weights of the L1 distance of normalized cxcywh boxes and of the negative generalized IoU: DETR's.
    cfg.MODEL.DETR.COST.L1 = 5.0
    cfg.MODEL.DETR.COST.GIOU = 2.0

    cfg.MODEL.DETR.LOSS = CN()
    # "focal" (sigmoid, no background column), "softmax" (with a no-object column), "mal" (sigmoids that learn how well
    # the box fits, DEIM, arXiv 2412.04234) or "auto": what the variant's paper uses, softmax for detr and focal for the
    # others.
    cfg.MODEL.DETR.LOSS.CLASSIFICATION = "auto"
    # Weight of the classification loss; -1 as for COST.CLASS.
    cfg.MODEL.DETR.LOSS.CLASS = -1.0
    # Weights of the L1 and the generalized IoU loss of matched boxes: DETR's.
    cfg.MODEL.DETR.LOSS.L1 = 5.0
    cfg.MODEL.DETR.LOSS.GIOU = 2.0
    # Focal loss (arXiv 1708.02002, whose values these are), also the form of the class cost.
    cfg.MODEL.DETR.LOSS.FOCAL_ALPHA = 0.25
    cfg.MODEL.DETR.LOSS.FOCAL_GAMMA = 2.0
    # "mal" alone: exponent of the IoU in the target, and of the probability in the weight of negatives (DEIM's).
    cfg.MODEL.DETR.LOSS.IOU_GAMMA = 1.5
    # Probability that the classifier gives every class at the start (focal only; arXiv 1708.02002).
    cfg.MODEL.DETR.LOSS.PRIOR_PROB = 0.01
    # Relative weight of the no-object column (softmax only; DETR section 4).
    cfg.MODEL.DETR.LOSS.NO_OBJECT_WEIGHT = 0.1
    # Weights of the focal loss (alpha 0.25, gamma 2) and of the dice loss of the last layer's masks (MODEL.MASK_ON):
    # DETR's.
    cfg.MODEL.DETR.LOSS.MASK = 1.0
    cfg.MODEL.DETR.LOSS.DICE = 1.0
    # Federated loss (arXiv 2104.05892), for datasets that annotate a class in some of their images only, as LVIS: the
    # number of classes in the classification loss of a batch, those of its objects and a sample of the others (LVIS:
    # 50; 0 is all), drawn in proportion to the number of their images to the given power (Detic's). Classes without
    # annotations, the dataset's novel ones, are never negatives.
    cfg.MODEL.DETR.LOSS.FEDERATED_CLASSES = 0
    cfg.MODEL.DETR.LOSS.FEDERATED_POWER = 0.5
    # Supervise the output of every decoder layer, each with a matching of its own, rather than the last alone
    # (DETR's auxiliary losses).
    cfg.MODEL.DETR.LOSS.DEEP_SUPERVISION = True

    # Images with labels, but no boxes, as in Detic (arXiv 2201.02605); DATALOADER.SAMPLER_TRAIN MultiDatasetSampler.
    cfg.MODEL.DETR.IMAGE_LABELS = CN()
    # Which query takes a label: that of the largest box ("max_size"), the highest score for it ("max_score") or for any
    # class ("first"), the least loss ("min_loss"), on whose object both decoders of Pair DETR agree most
    # ("pair_score"), or which is most likely an object by its score and by that agreement, of any class ("objectness")
    # or of the label's ("object_score"; both are for MODEL.CLIP.OBJECTNESS). "image" gives it to the mean of all,
    # "wsddn" to all in proportion to their scores.
    cfg.MODEL.DETR.IMAGE_LABELS.LOSS = "max_size"
    # Weight of the loss (Detic's), which is a sum over decoder layers. Where gradients are clipped to a norm that they
    # always exceed, it matters little: DATALOADER.DATASET_RATIO does.
    cfg.MODEL.DETR.IMAGE_LABELS.WEIGHT = 0.1
    # Let image labels train the classifier alone, and not the states that it classifies, which boxes are made
    # of, too. It taught next to nothing in the trials of docs/results.md. Own.
    cfg.MODEL.DETR.IMAGE_LABELS.CLASSIFIER_ONLY = False
    # Learn also that the query which takes a label is an object. The classifier alone does, of states as they are. For
    # a LOSS that chooses by boxes (max_size, pair_score), and MODEL.CLIP.OBJECTNESS. Own.
    cfg.MODEL.DETR.IMAGE_LABELS.OBJECTNESS = False
    # Let BatchNorm normalize batches with labels as in inference, and not by their own statistics, by which photos
    # that all show blue things are not blue. It decided about new colors, and cost a fourth of the gain on new shapes,
    # in docs/results.md. For backbones with BatchNorm, not frozen and not synchronized among processes. Own.
    cfg.MODEL.DETR.IMAGE_LABELS.FIXED_STATISTICS = False

    # Pair DETR alone. The paper leaves these choices open: the defaults are what docs/results.md measured, where the
    # differences were mostly within the spread of seeds.
    cfg.MODEL.DETR.PAIR = CN()
    # "center": the center decoder predicts cx, cy, w, h and the top-left decoder is trained beside it (and skipped at
    # inference). "pair": the box is assembled from the two points, w = 2 (cx - tlx), h = 2 (cy - tly).
    cfg.MODEL.DETR.PAIR.BOX_DECODING = "center"
    # Decoder whose states are classified: "center" or "top_left".
    cfg.MODEL.DETR.PAIR.CLASS_DECODER = "center"
    # Let both decoders use the same layers; they keep their own reference points and heads.
    cfg.MODEL.DETR.PAIR.SHARED_DECODER = False
    # Above 1, the top-left decoder is a one-to-many branch, as the C-decoder of DAC-DETR (NeurIPS 2023; 4): its queries
    # do not attend to each other, each object is matched with so many of them, and they learn classes and boxes, too.
    cfg.MODEL.DETR.PAIR.QUERIES_PER_OBJECT = 1
    cfg.MODEL.DETR.PAIR.ONE_TO_MANY_WEIGHT = 1.0
    # Weight of the L1 loss on the normalized top-left corner.
    cfg.MODEL.DETR.PAIR.TOP_LEFT_WEIGHT = 5.0
    # Pair association loss: "nt_xent" (all other 2N - 2 outputs of the image are negatives) or "cross" (symmetric cross
    # entropy over the N x N matrix of centers and corners).
    cfg.MODEL.DETR.PAIR.CONTRASTIVE_LOSS = "nt_xent"
    # Its weight (0 leaves it out), its temperature, by which similarities are divided, and the decoder layers that it
    # acts on ("last" or "all").
    cfg.MODEL.DETR.PAIR.CONTRASTIVE_WEIGHT = 0.2
    cfg.MODEL.DETR.PAIR.TEMPERATURE = 0.1
    cfg.MODEL.DETR.PAIR.CONTRASTIVE_LAYERS = "last"
    # Width of a linear projection of each decoder's output before the comparison; 0 compares the outputs themselves.
    cfg.MODEL.DETR.PAIR.PROJECTION_DIM = 0


def _add_mask_keys(cfg: CN) -> None:
    # DETR's mask head (its section 4.4 and appendix A.3) on any variant; Detectron2's key. Training data need masks.
    cfg.MODEL.MASK_ON = False
    cfg.MODEL.DETR.MASK = CN()
    # Pair DETR: the decoder whose last state asks for the mask, "center" or "top_left".
    cfg.MODEL.DETR.MASK.QUERY_DECODER = "center"
    # Conditional DETR and Pair DETR: add the spatial part of the query, the sine embedding of its reference point, to
    # the state, as their cross-attention does. Own.
    cfg.MODEL.DETR.MASK.SPATIAL_QUERY = False
    # Train the mask head alone, on a detector that stays as it is (no dropout, no own losses): the second stage of
    # DETR's schedule, whose MODEL.WEIGHTS is the result of the first.
    cfg.MODEL.DETR.MASK.FREEZE_DETECTOR = False

    # Panoptic segmentation from the masks (needs MODEL.MASK_ON, and datasets whose classes are things and stuff).
    cfg.MODEL.DETR.PANOPTIC = CN()
    # Whether inference returns "panoptic_seg" and "sem_seg" beside "instances".
    cfg.MODEL.DETR.PANOPTIC.ENABLED = False
    # DETR's merging: queries with a lower score and segments of at most so many pixels are left out.
    cfg.MODEL.DETR.PANOPTIC.SCORE_THRESHOLD = 0.85
    cfg.MODEL.DETR.PANOPTIC.MIN_AREA = 4


def _add_backbone_keys(cfg: CN) -> None:
    # MODEL.BACKBONE.NAME = "build_timm_backbone": any timm model that supports `features_only`. Own, all of TIMM.
    cfg.MODEL.TIMM = CN()
    # Name of the model in timm.
    cfg.MODEL.TIMM.NAME = "mobilenetv2_100"
    # File with the model's state dict, or hub://owner/name/model.safetensors; "" starts from random weights.
    # MODEL.WEIGHTS, if set, is loaded later.
    cfg.MODEL.TIMM.WEIGHTS = ""
    # Further keyword arguments of timm.create_model, for example {output_stride: 16, pad_type: same}; in a config file,
    # as the command line takes no dictionaries. Transformers made for one image size need {dynamic_img_size: True}.
    # Refused are those by which timm would read or download files of its own choice: pretrained, pretrained_cfg,
    # pretrained_cfg_overlay, checkpoint_path and cache_dir. Weights are those of WEIGHTS alone.
    cfg.MODEL.TIMM.KWARGS = CN(new_allowed=True)
    # Stages to emit, counted from 0 as timm does (negative ones from the end); they are named "stage0", "stage1", ...
    cfg.MODEL.TIMM.OUT_INDICES = [-1]
    # "FrozenBN" (running statistics and affine parameters fixed, as DETR does for ResNets) or "BN", which normalizes by
    # the images of one process; with several, all take the running statistics of the first. Models without batch
    # normalization ignore it. MODEL.BACKBONE.FREEZE_AT, by default 2, is the number of stages, from the image on, whose
    # parameters are fixed.
    cfg.MODEL.TIMM.NORM = "FrozenBN"

    # MODEL.BACKBONE.NAME = "build_convnet_backbone": stages of two 3x3 convolutions, the first with stride 2. Small
    # enough to train from scratch on a CPU. Own.
    cfg.MODEL.CONVNET = CN()
    # Channels of each stage; the last stage is the output, at stride 2 ** number of stages.
    cfg.MODEL.CONVNET.CHANNELS = [16, 32, 64, 128]


def _add_input_keys(cfg: CN) -> None:
    # Flip with probability 0.5 along both axes rather than along INPUT.RANDOM_FLIP's single one. For images without an
    # upright direction, such as microscopy. Own.
    cfg.INPUT.FLIP_BOTH_AXES = False
    # DETR's second branch of augmentation (make_coco_transforms in its datasets/coco.py, with these values), taken with
    # probability PROB: resize the short side to one of SCALES, crop a window whose sides are drawn from SIZE_RANGE, all
    # in pixels, then resize as INPUT.MIN_SIZE_TRAIN says. DETR's first resize has no limit; here the long side is at
    # most INPUT.MAX_SIZE_TRAIN (or twice the largest of SCALES, if that is more), for images of 3000x20 pixels.
    cfg.INPUT.RESIZE_CROP = CN()
    cfg.INPUT.RESIZE_CROP.ENABLED = True
    cfg.INPUT.RESIZE_CROP.PROB = 0.5
    cfg.INPUT.RESIZE_CROP.SCALES = [400, 500, 600]
    cfg.INPUT.RESIZE_CROP.SIZE_RANGE = [384, 600]
    # Letterbox: height and width in pixels of the model's input, () for sizes that follow from the image. Images are
    # resized to fit (in place of INPUT.MIN_SIZE_* and MAX_SIZE_*), for testing too, and padded at the right and at the
    # bottom. There is no padding mask: the padding is a part of the image, and attention runs unmasked. Own.
    cfg.INPUT.FIXED_SIZE = ()
    # Heights and widths, as [[800, 1344], [1344, 800], [1344, 1344]]: a training batch is padded to the smallest that
    # holds its images, and the padding masked, for SOLVER.COMPILE. One must hold any batch; [] pads to the largest
    # image. Own.
    cfg.INPUT.SIZE_BUCKETS = []
    # Large-scale jitter (arXiv 2012.07177, whose range this is): resize so that the image fits into INPUT.FIXED_SIZE
    # times a factor drawn from SCALE_RANGE, and crop what is larger than INPUT.FIXED_SIZE. Excludes RESIZE_CROP.
    cfg.INPUT.LARGE_SCALE_JITTER = CN()
    cfg.INPUT.LARGE_SCALE_JITTER.ENABLED = False
    cfg.INPUT.LARGE_SCALE_JITTER.SCALE_RANGE = [0.1, 2.0]
    # Mosaic (YOLOv4, arXiv 2004.10934), with probability PROB and before all other augmentation: four images on a
    # canvas of twice the sides of the first one, around a point drawn from CENTER_RANGE of them. SCALE_RANGE is of
    # their sizes, where 1 fits into the first one's. Not with MultiDatasetSampler. The values are own.
    cfg.INPUT.MOSAIC = CN()
    cfg.INPUT.MOSAIC.ENABLED = False
    cfg.INPUT.MOSAIC.PROB = 0.5
    cfg.INPUT.MOSAIC.CENTER_RANGE = [0.25, 0.75]
    cfg.INPUT.MOSAIC.SCALE_RANGE = [0.5, 1.5]
    # torchvision's ColorJitter, with probability PROB: factors of brightness, contrast and saturation from 1 - value to
    # 1 + value, and shifts of the hue up to HUE turns. The values are own.
    cfg.INPUT.COLOR_JITTER = CN()
    cfg.INPUT.COLOR_JITTER.ENABLED = False
    cfg.INPUT.COLOR_JITTER.PROB = 0.5
    cfg.INPUT.COLOR_JITTER.BRIGHTNESS = 0.4
    cfg.INPUT.COLOR_JITTER.CONTRAST = 0.4
    cfg.INPUT.COLOR_JITTER.SATURATION = 0.4
    cfg.INPUT.COLOR_JITTER.HUE = 0.1
    # Probability that the color channels of an image with boxes change places at random. Such an image teaches where
    # objects are, of colors that no annotated one has, and not what they are; it needs MODEL.CLIP.OBJECTNESS. Own.
    cfg.INPUT.CHANNEL_PERMUTATION = 0.0
    # Own data to put into Detectron2's catalogs, a list of {NAME: my_train, FORMAT: coco, JSON: file, IMAGES: folder},
    # {NAME: my_train, FORMAT: yolo, ROOT: folder with data.yaml, SPLIT: train} and {NAME: my_train, FORMAT: voc, ROOT:
    # folder, SPLIT: train}, the last one optionally with CLASSES (default: all names in the annotations, sorted) and
    # YEAR (2007 or 2012, the default: how the VOC evaluator computes AP). Where there is only one set, SPLIT: {VAL:
    # 0.2, SEED: 0} registers my_train and my_val of NAME: my; for all formats but coco_panoptic. With
    # NOVEL_CLASSES: [names] a coco set is evaluated for these apart from the others. Panoptic data are {NAME: my_train,
    # FORMAT: coco_panoptic, JSON: file, SEGMENTS: folder of PNG files, IMAGES: folder}, optionally with INSTANCES, the
    # things in a COCO JSON file of their own, for their AP. Image labels are {NAME: my_labels,
    # FORMAT: image_labels, JSON: file, IMAGES: folder} or, with one folder per class, {NAME: my_photos, FORMAT:
    # image_folder, ROOT: folder}, optionally with CLASSES ({folder: class name} or a file with such lines). Paths are
    # relative to the working directory. Detectron2's datasets, bccd_* and shapes_* need no entry. Own.
    cfg.DATASETS.REGISTER = []
    # Evaluator of the test sets: "auto" follows the dataset's metadata (`evaluator_type`); "coco", "pascal_voc" (both
    # COCO's AP, as "bbox", and Pascal VOC's, as "voc"), "lvis" or "coco_panoptic_seg" forces one. Own.
    cfg.TEST.EVALUATOR = "auto"
    # The most detections of a class in an image (LVIS: of an image) that AP counts; 0 is the evaluator's own limit, 100
    # and LVIS's 300. For images with more objects raise it together with TEST.DETECTIONS_PER_IMAGE; the AP is then no
    # longer the one that others report. Own.
    cfg.TEST.MAX_DETECTIONS = 0
    # Detect each query under its best class alone; by default a query of a classification by sigmoids can be detected
    # under several, as AP rewards. Of a softmax it always is one. Own.
    cfg.TEST.ONE_CLASS_PER_QUERY = False
    # Exponent of objectness in the scores of MODEL.CLIP.OBJECTNESS: 1 is the product of both factors; less finds more
    # of what is an object like no annotated one, and 0 scores by class alone. Own.
    cfg.TEST.OBJECTNESS_POWER = 1.0
    # Leave out a detection whose box has a larger IoU than this with a better one of its class. Models that have been
    # trained for long find an object once, and 1.0 leaves out none, as published; those that have been trained for
    # minutes find many twice. It is YOLACT's "Fast NMS" (arXiv 1904.02689), which needs no loop. Own.
    cfg.TEST.NMS_THRESH = 1.0
    # Images of an inference batch, in one process. Detectron2 always takes 1; more are faster where images are small or
    # of one size. Own.
    cfg.TEST.IMS_PER_BATCH = 1
    # Precision of the network in evaluation and prediction: "fp32", "bf16", "fp16", or "auto", bf16 where a measurement
    # of a millisecond finds that the device multiplies it faster, and fp32 elsewhere: results then depend on the
    # machine. Boxes and scores are fp32 in all. Training has SOLVER.AMP. Own.
    cfg.TEST.PRECISION = "fp32"
    # The metric of which the best evaluation's weights are kept, as model_best.pth, where TEST.EVAL_PERIOD is set: its
    # name in metrics.json, such as "bbox/AP50". "" takes PQ of panoptic models, else AP of masks or else that of boxes,
    # on the first of DATASETS.TEST. Own.
    cfg.TEST.BEST_METRIC = ""
    # Early stopping: so many evaluations in a row that are not better than the best end the training; 0 never does.
    # Own.
    cfg.TEST.PATIENCE = 0
    # How many images of the first of DATASETS.TEST TensorBoard shows with their detections after each evaluation; 0 is
    # none. Own.
    cfg.TEST.PICTURES = 4


def _add_multi_dataset_keys(cfg: CN) -> None:
    # DATALOADER.SAMPLER_TRAIN = "MultiDatasetSampler" mixes the datasets of DATASETS.TRAIN, with boxes or with image
    # labels: every batch is of one dataset, and all have the classes of the first, found by name. The keys are those
    # of Detic; each has an entry a dataset, or [] for the default.
    # "box", or "image" for labels of whole images: pos_category_ids or, where there are none, the classes of the boxes.
    # Default: what the dataset is registered as.
    cfg.DATALOADER.DATASET_ANN = []
    # Images drawn from each dataset, in proportion. Default: as many from each.
    cfg.DATALOADER.DATASET_RATIO = []
    # Images of a batch in one process. Default: SOLVER.IMS_PER_BATCH, divided over the processes.
    cfg.DATALOADER.DATASET_BS = []
    # INPUT.MIN_SIZE_TRAIN and INPUT.MAX_SIZE_TRAIN of each dataset, for example [[480, 800], [240, 400]] and
    # [1333, 667]. Default: those. INPUT.RESIZE_CROP is for boxes only: it might cut off what an image label is about.
    cfg.DATALOADER.DATASET_MIN_SIZES = []
    cfg.DATALOADER.DATASET_MAX_SIZES = []
    # Whether images of rare classes are repeated, as DATALOADER.REPEAT_THRESHOLD says. Default: they are not.
    cfg.DATALOADER.USE_RFS = []
