"""Names of what is written about each input."""

from pathlib import Path

from pair_detr.prediction.names import name_outputs, unique_names


def test_names_of_files_and_addresses() -> None:
    sources = [
        Path("a/x.jpg"),
        Path("b/x.png"),
        Path("x.mp4"),
        "https://a.org/b/x.jpg?size=5",
        "https://a.org/..%2F..%2Fetc%2Fsh%3A%20dow",
        "https://a.org/",
    ]
    assert unique_names(sources) == ["x", "x_2", "x_3", "x_4", "sh_ dow".replace(" ", "_"), "image"]
    pictures = [path.relative_to("out").as_posix() for path in name_outputs(sources, Path("out"))]
    # That of a picture is that of its labels.
    assert pictures == ["x.jpg", "x_2.png", "x_3.mp4", "x_4.jpg", "sh__dow.png", "image.png"]
