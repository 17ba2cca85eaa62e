"""What the page shows, in Gradio's components, and which answer each click has."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pair_detr.app import texts
from pair_detr.app.answers import Answers, AttentionView, View
from pair_detr.app.detection import Detected, PageModel
from pair_detr.app.gradio import require_gradio

if TYPE_CHECKING:
    import gradio

# For how many seconds the image of a visitor is kept.
_SECONDS = 3600
# Clicks that may wait for their turn.
_QUEUE = 64
CSS = """
.gradio-container {width: 100%; max-width: min(1280px, 100vw) !important; margin: 0 auto !important}
#title h1 {margin: 0}
#title p {margin: 0; opacity: 0.8; overflow-wrap: anywhere}
#status p, #about p {margin: 0; font-size: 1rem; overflow-wrap: anywhere}
.problem {color: #b91c1c; font-weight: 600}
.dark .problem {color: #f87171}
#picture img {cursor: crosshair}
/* A row is chosen by a click; Gradio offers to select whole rows and columns as well. */
#table .selection-button {display: none}
"""
_BUTTONS = ["download", "fullscreen"]


def build_page(model: PageModel, examples: Sequence[Path] = (), threshold: float = 0.5) -> "gradio.Blocks":
    """The page, ready to be served.

    Args:
        model: that detects.
        examples: images to choose from.
        threshold: least score that is shown at first.

    Raises:
        ImportError: Gradio is not installed.
    """
    gr = require_gradio()
    with gr.Blocks(
        title="Pair DETR", analytics_enabled=False, delete_cache=(_SECONDS, _SECONDS), fill_width=True
    ) as blocks:
        _Page(model).build(examples, threshold)
    # One model, and detection takes all cores of a machine.
    return blocks.queue(default_concurrency_limit=1, max_size=_QUEUE, api_open=False)


class _Page:
    """The components within a block of Gradio."""

    def __init__(self, model: PageModel) -> None:
        self._gr = require_gradio()
        self._model = model
        self._answers = Answers(model)

    def build(self, examples: Sequence[Path], threshold: float) -> None:
        gr = self._gr
        gr.Markdown(f"# Object detection\n{texts.plain(texts.summary(self._model))}", elem_id="title")
        self._detected, self._selected = (gr.State(time_to_live=_SECONDS) for _ in range(2))
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                self._add_inputs(examples, threshold)
            with gr.Column(scale=3, min_width=300):
                self._add_detections()
        self._add_attention()
        self._connect()

    def _add_inputs(self, examples: Sequence[Path], threshold: float) -> None:
        gr = self._gr
        self._image = gr.Image(label="Image", type="filepath", image_mode=None, height=280, elem_id="image")
        # Gradio's own would end in a traceback at a file that is no image.
        self._image.preprocess = _uploaded_file
        if examples:
            gr.Examples([[str(file)] for file in examples], self._image, examples_per_page=12, cache_examples=False)
        self._threshold = gr.Slider(0, 1, threshold, step=0.01, label="Score threshold", elem_id="threshold")
        takes = self._model.takes_vocabulary
        self._vocabulary = gr.Textbox(
            value="" if takes else ", ".join(self._model.own_classes),
            label="Classes to detect",
            info=texts.HOW_TO_CHOOSE if takes else texts.LINEAR,
            placeholder="cat, traffic cone",
            interactive=takes,
            max_lines=3,
            elem_id="vocabulary",
        )
        self._segments = gr.Checkbox(
            label="Panoptic segments in place of detections", visible=self._model.is_panoptic, elem_id="segments"
        )

    def _add_detections(self) -> None:
        gr = self._gr
        self._picture = gr.Image(label="Detections", interactive=False, buttons=_BUTTONS, elem_id="picture")
        self._status = gr.HTML(texts.paragraph(texts.WELCOME), elem_id="status")
        self._table = gr.Dataframe(
            headers=list(texts.TABLE_HEADERS),
            datatype=["number", "str", "number", "str"],
            type="array",
            interactive=False,
            visible=False,
            max_height=280,
            buttons=["copy"],
            show_label=False,
            elem_id="table",
        )

    def _add_attention(self) -> None:
        gr, model = self._gr, self._model
        self._about = gr.HTML(elem_id="about")
        with gr.Row():
            layers = [(str(i + 1), i) for i in range(model.num_layers)]
            self._layer = gr.Radio(layers, value=layers[-1][1], label="Decoder layer", visible=False, elem_id="layer")
            decoders = [(texts.DECODERS.get(name, name), name) for name in model.decoders]
            self._decoder = gr.Radio(decoders, value=decoders[0][1], label="Decoder", visible=False, elem_id="decoder")
        with gr.Row():
            self._maps = [
                gr.Image(
                    label=texts.KINDS[kind],
                    interactive=False,
                    visible=False,
                    buttons=_BUTTONS,
                    min_width=300,
                    elem_id=f"map-{kind}",
                )
                for kind in model.kinds
            ]

    def _connect(self) -> None:
        gr, answers = self._gr, self._answers
        shown = [self._picture, self._status, self._table]
        attention = [self._about, self._layer, self._decoder, *self._maps]
        chosen = [self._detected, self._layer, self._decoder]

        def detect(*inputs: Any) -> list[Any]:
            detected, view = answers.detect(*inputs)
            return [detected, None, *self._shown(view), *self._attention(AttentionView(""))]

        def redraw(detected: Detected | None, threshold: float, segments: bool) -> list[Any]:
            if detected is None:
                return [gr.skip()] * len(shown)
            return self._shown(answers.show(detected, threshold, segments))

        def on_picture(
            threshold: float, detected: Detected | None, layer: int, decoder: str, click: gr.SelectData
        ) -> list[Any]:
            index = detected and detected.at(*click.index, threshold)
            return [index, *self._attention(answers.attend(detected, index, layer, decoder))]

        def on_row(detected: Detected | None, layer: int, decoder: str, click: gr.SelectData) -> list[Any]:
            # The visitor may have sorted the table; the first column says which detection it is.
            index = int(click.row_value[0]) - 1
            return [index, *self._attention(answers.attend(detected, index, layer, decoder))]

        def attend(index: int | None, *of: Any) -> list[Any]:
            return self._attention(answers.attend(of[0], index, *of[1:]))

        inputs = [self._image, self._vocabulary, self._threshold, self._segments]
        results = [self._detected, self._selected, *shown, *attention]
        _listen(self._image.change, detect, inputs, results)
        _listen(self._vocabulary.submit, detect, inputs, results)
        for event in (self._threshold.change, self._segments.change):
            # Of the positions of a moving slider, the last one counts.
            options = {"show_progress": "hidden", "trigger_mode": "always_last"}
            _listen(event, redraw, [self._detected, self._threshold, self._segments], shown, **options)
        _listen(self._picture.select, on_picture, [self._threshold, *chosen], [self._selected, *attention])
        _listen(self._table.select, on_row, chosen, [self._selected, *attention])
        for event in (self._layer.input, self._decoder.input):
            _listen(event, attend, [self._selected, *chosen], attention)

    def _shown(self, view: View) -> list[Any]:
        table = self._gr.update(value=view.rows or None, visible=bool(view.rows))
        return [view.picture, view.status, table]

    def _attention(self, view: AttentionView) -> list[Any]:
        gr, model, is_there = self._gr, self._model, bool(view.maps)
        maps = view.maps or [None] * len(self._maps)
        return [
            view.status,
            gr.update(visible=is_there and model.num_layers > 1),
            gr.update(visible=is_there and len(model.decoders) > 1),
            *(gr.update(value=picture, visible=is_there) for picture in maps),
        ]


def _listen(event: Callable[..., Any], answer: Callable[..., Any], inputs: list, outputs: list, **options: Any) -> None:
    """Has an event answered; for the page alone, and not for programs as Gradio would offer it."""
    event(answer, inputs, outputs, api_visibility="private", **options)


def _uploaded_file(payload: Any) -> str | None:
    """The file that was uploaded, whatever is in it."""
    return None if payload is None else payload.path
