"""Class lists and text weights: what loads, what is refused, and what the published files contain."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from model_helpers import tiny_cfg
from open_vocabulary_helpers import NAMES, PUBLISHED, make_texts, make_vocabulary

from pair_detr.data import datasets_in_label_space
from pair_detr.open_vocabulary import (
    UnnamedClassesError,
    Vocabulary,
    check_vocabulary,
    load_vocabulary,
    read_class_list,
)


def test_builtin_lists_are_detectron2s() -> None:
    for name, dataset, count in (
        ("coco", "coco_2017_val", 80),
        ("lvis", "lvis_v1_val", 1203),
        ("voc", "voc_2007_test", 20),
    ):
        classes = read_class_list(name)
        assert len(classes) == count
        metadata = MetadataCatalog.get(dataset)
        if metadata.get("thing_classes"):
            assert list(classes) == list(metadata.thing_classes)
        assert all(words[0] == key for key, words in classes.items())
    assert read_class_list("lvis")["aerosol_can"] == ("aerosol_can", "spray_can")


def test_lists_from_text_and_files(tmp_path: Path) -> None:
    expected = {"sofa": ("sofa", "couch"), "traffic cone": ("traffic cone",)}
    assert read_class_list("sofa|couch, traffic cone") == expected
    (tmp_path / "a.txt").write_text("sofa|couch\n\ntraffic cone\n")
    assert read_class_list(str(tmp_path / "a.txt")) == expected
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "a.txt").write_bytes("sofa|couch\r\ntraffic cone\r\nnaïve 猫".encode(encoding))
        assert read_class_list(str(tmp_path / "a.txt")) == expected | {"naïve 猫": ("naïve 猫",)}
    (tmp_path / "a.txt").write_bytes("naïve".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.txt is not text in utf-8: byte 0xef at position 2"):
        read_class_list(str(tmp_path / "a.txt"))
    (tmp_path / "b.json").write_text(json.dumps(["sofa", "traffic cone"]))
    assert list(read_class_list(str(tmp_path / "b.json"))) == list(expected)
    # In the order of the ids, not of the file.
    categories = [{"id": 9, "name": "traffic cone"}, {"id": 2, "name": "sofa", "synonyms": ["couch"]}]
    (tmp_path / "c.json").write_text(json.dumps({"images": [], "categories": categories}))
    assert read_class_list(str(tmp_path / "c.json")) == expected
    assert list(read_class_list(str(tmp_path / "c.json"))) == list(expected)


def test_names_in_the_annotations_of_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"DETECTRON2_DATASETS.*a \.txt file with one class per line"):
        read_class_list("openimages")
    folder = tmp_path / "oid/annotations"
    folder.mkdir(parents=True)
    categories = [{"id": 3, "name": "Bench"}, {"id": 1, "name": "Bench"}, {"id": 2, "name": "Tea "}]
    (folder / "oid_challenge_2019_train_bbox.json").write_text(json.dumps({"categories": categories}))
    # In the order of the ids; two classes of one name are told apart, but have the same text.
    assert list(read_class_list("openimages").items()) == [
        ("Bench (1)", ("Bench",)),
        ("Tea", ("Tea",)),
        ("Bench (3)", ("Bench",)),
    ]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("cat,dog,cat", 'class "cat" occurs twice'),
        ("cat,,dog", "class 1 has an empty name"),
        ("traffic light,Traffic_Light", 'class "Traffic_Light" occurs twice, as "traffic light"'),
        ("{folder}/names.csv", r"names\.csv.*does not end with \.txt"),
        ("{folder}/empty.txt", "there are no class names"),
        ("{folder}/other.json", "neither a list of names nor"),
        ("{folder}/number.json", "cannot be read as a list of classes"),
        ("{folder}/broken.json", "not valid JSON"),
    ],
)
def test_bad_lists(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "names.csv").write_text("cat\ndog\n")
    (tmp_path / "other.json").write_text('{"images": []}')
    (tmp_path / "number.json").write_text("3")
    (tmp_path / "broken.json").write_text('{"names": [')
    with pytest.raises(ValueError, match=message):
        read_class_list(source.format(folder=tmp_path))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt does not exist"):
        read_class_list(str(tmp_path / "nowhere.txt"))


def test_weights_are_normalized_whatever_they_are_given_as() -> None:
    texts = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0]])
    expected = torch.tensor([[0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    for weights in (texts.astype(np.float16), torch.from_numpy(texts), texts.tolist()):
        vocabulary = Vocabulary(["a", "b"], weights)
        assert vocabulary.weights.dtype == torch.float32
        torch.testing.assert_close(vocabulary.weights, expected)
    assert (len(vocabulary), vocabulary.dim, vocabulary.names) == (2, 3, ("a", "b"))


def test_file_round_trip(tmp_path: Path) -> None:
    vocabulary = make_vocabulary()
    path = tmp_path / "new" / "texts.npy"
    vocabulary.save(path)
    assert sorted(p.name for p in path.parent.iterdir()) == ["texts.json", "texts.npy"]
    loaded = Vocabulary.load(path)
    assert loaded.names == NAMES
    torch.testing.assert_close(loaded.weights, vocabulary.weights)
    assert loaded.metadata == {"encoder": "test"}
    described = json.loads(path.with_suffix(".json").read_text())
    assert described["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (described["names"], described["dimension"]) == (list(NAMES), 12)


def test_weights_and_description_belong_together(tmp_path: Path) -> None:
    path = tmp_path / "texts.npy"
    make_vocabulary().save(path)
    np.save(path, make_texts(3, seed=1).numpy())
    with pytest.raises(ValueError, match=r"texts\.npy is not the file that texts\.json describes"):
        Vocabulary.load(path)
    # It is not ours any more.
    with pytest.raises(FileExistsError, match=r"texts\.npy exists, and was not made by this program"):
        make_vocabulary().save(path)
    make_vocabulary().save(path, overwrite=True)
    make_vocabulary(seed=1).save(path)
    with pytest.raises(ValueError, match=r"class names .*VOCABULARY.*does not agree with.*texts\.json.*another order"):
        Vocabulary.load(path, ["forklift", "helmet", "traffic cone"])
    path.with_suffix(".json").write_text('{"names": "helmet"}')
    with pytest.raises(ValueError, match=r"texts\.json does not describe.*names are not a list"):
        Vocabulary.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.ones((2, 4)), "2 text weights do not agree with 3 classes.*row, in the order"),
        (np.ones(3), "single matrix"),
        (np.array([[1.0, 1], [0, 0], [1, 0]]), r"zero in 1 rows: 1 \(forklift\)"),
        (np.array([[1.0, 1], [1, 0], [np.nan, 0]]), r"not finite in 1 rows: 2 \(traffic cone\)"),
        (np.array([[np.inf, 1], [1, 0], [0, 1]]), r"not finite in 1 rows: 0 \(helmet\)"),
        (np.ones((3, 0)), r"shape \(3, 0\)"),
        (np.array([["a"], ["b"], ["c"]]), "not numbers"),
        (np.ones((3, 4), dtype=complex), "complex"),
    ],
)
def test_bad_weights_name_the_file(tmp_path: Path, content: np.ndarray, message: str) -> None:
    path = tmp_path / "texts.npy"
    np.save(path, content)
    with pytest.raises(ValueError, match=rf"texts\.npy.*{message}.*pair_detr\.tools\.text_weights"):
        Vocabulary.load(path, NAMES)


def test_files_that_are_no_matrix(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npy do not exist.*MODEL\.CLIP\.TEXT_WEIGHTS"):
        Vocabulary.load(tmp_path / "nowhere.npy")
    path = tmp_path / "texts.npy"
    path.write_bytes(b"not an array")
    with pytest.raises(ValueError, match=r"texts\.npy cannot be read as a \.npy file"):
        Vocabulary.load(path, NAMES)
    np.save(path, make_texts(3).numpy())
    with pytest.raises(UnnamedClassesError, match=r"3 text weights in .*texts\.npy are not known.*VOCABULARY"):
        Vocabulary.load(path)
    with pytest.raises(ValueError, match=r"change its name"):
        make_vocabulary().save(tmp_path / "texts.pt")
    path.with_suffix(".json").write_text('{"images": []}')
    with pytest.raises(FileExistsError, match=r"texts\.json would be overwritten"):
        make_vocabulary().save(path)
    with pytest.raises(ValueError, match="give a list of class names"):
        Vocabulary("cat", np.ones((3, 2)))


def test_selection_by_name() -> None:
    vocabulary = make_vocabulary()
    chosen = vocabulary.select(["Traffic_Cone", "helmet"])
    assert chosen.names == ("Traffic_Cone", "helmet")
    torch.testing.assert_close(chosen.weights, vocabulary.weights[[2, 0]])
    with pytest.raises(ValueError, match=r"has no cat, dog among its 3 classes \(helmet, forklift, traffic cone\)"):
        vocabulary.select(["cat", "helmet", "dog"])


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_load_as_they_are(shared_dir: Path, name: str) -> None:
    file, count = PUBLISHED[name]
    path = shared_dir / "clip_text_weights" / file
    names = [f"{i}" for i in range(count)] if name in ("objects365", "openimages") else list(read_class_list(name))
    vocabulary = Vocabulary.load(path, names)
    assert vocabulary.weights.shape == (count, 512)
    raw = np.load(path)
    assert raw.dtype == np.float16
    cosine = (raw[7].astype(np.float64) @ vocabulary.weights[7].double().numpy()) / np.linalg.norm(raw[7].astype(float))
    assert cosine == pytest.approx(1, abs=1e-6)


def test_nearest_classes_of_coco_are_cat_and_dog(shared_dir: Path) -> None:
    """Names and rows belong together: an independent fact about the published weights."""
    path = shared_dir / "clip_text_weights" / PUBLISHED["coco"][0]
    vocabulary = Vocabulary.load(path, list(read_class_list("coco")))
    cosines = vocabulary.weights @ vocabulary.weights.T
    cosines.fill_diagonal_(0)
    a, b = divmod(int(cosines.argmax()), 80)
    assert (vocabulary.names[a], vocabulary.names[b]) == ("cat", "dog")
    assert cosines.max().item() == pytest.approx(0.936, abs=5e-4)
    assert cosines.sum().item() / (80 * 79) == pytest.approx(0.80, abs=5e-3)


def register(name: str, classes: list[str], **metadata: Any) -> str:
    MetadataCatalog.pop(name, None)
    MetadataCatalog.get(name).set(thing_classes=classes, **metadata)
    return name


def test_names_come_from_the_config_or_from_the_data(tmp_path: Path) -> None:
    cfg = tiny_cfg()
    assert load_vocabulary(cfg) is None
    path = tmp_path / "texts.npy"
    np.save(path, make_texts(3).numpy())
    cfg.MODEL.CLIP.TEXT_WEIGHTS = str(path)
    with pytest.raises(UnnamedClassesError):
        load_vocabulary(cfg)
    cfg.DATASETS.TRAIN = (register("vocabulary_two", ["a", "b"]),)
    cfg.DATASETS.TEST = (register("vocabulary_three", ["x", "y", "z"]), "not_registered")
    assert load_vocabulary(cfg).names == ("x", "y", "z")
    cfg.MODEL.CLIP.VOCABULARY = "cat,dog,owl"
    assert load_vocabulary(cfg).names == ("cat", "dog", "owl")
    cfg.MODEL.CLIP.VOCABULARY = "cat,dog"
    with pytest.raises(ValueError, match=re.escape(str(path)) + r": 3 text weights do not agree with 2 classes"):
        load_vocabulary(cfg)


def test_data_have_the_classes_of_the_vocabulary() -> None:
    vocabulary = make_vocabulary()
    same = register("vocabulary_same", ["Helmet", "forklift", "traffic_cone"])
    swapped = register("vocabulary_swapped", ["forklift", "helmet", "traffic cone"])
    fewer = register("vocabulary_fewer", ["helmet"])
    check_vocabulary(vocabulary, (same, "not_registered"), (same,))
    check_vocabulary(None, (fewer,), ())
    with pytest.raises(ValueError, match=r'"vocabulary_swapped" does not agree.*2 names differ.*class 0: "forklift"'):
        check_vocabulary(vocabulary, (swapped, same), ())
    # Labels of further training sets are brought to the order of the first, detections to that of test sets.
    check_vocabulary(vocabulary, (same, swapped), (swapped,))
    with pytest.raises(ValueError, match=r'"vocabulary_fewer" does not agree.*1 class \(helmet\) and 3 classes'):
        check_vocabulary(vocabulary, (same, fewer), ())
    with pytest.raises(ValueError, match=r'"vocabulary_fewer" does not agree.*1 class \(helmet\) and 3 classes'):
        check_vocabulary(vocabulary, (fewer,), ())
    with pytest.raises(ValueError, match=r'"vocabulary_fewer" has 1 class.*one vocabulary: take vocabulary_fewer out'):
        check_vocabulary(vocabulary, (), (same, fewer))
    # Images with labels also decide what the indices are, where they come first.
    labels = register("vocabulary_labels", ["forklift", "helmet", "traffic cone"], annotation_type="image")
    with pytest.raises(ValueError, match='"vocabulary_labels" does not agree'):
        check_vocabulary(vocabulary, (labels,), ())


def test_data_sets_that_are_mixed_by_name_may_differ_from_the_vocabulary() -> None:
    cfg = tiny_cfg()
    cfg.DATASETS.TRAIN = ("first", "second")
    assert datasets_in_label_space(cfg) == ("first", "second")
    cfg.DATALOADER.SAMPLER_TRAIN = "MultiDatasetSampler"
    assert datasets_in_label_space(cfg) == ("first",)
