"""A Gradio app for one model: upload a radiograph, see what the model says about it and what it saw.

    pip install -r requirements.txt
    python app.py

It predicts by `model.onnx` beside this file and the modules in `mlcak_hf/`, which need neither torch nor transformers.
Research use only.
"""

import base64
import html
import io
import os
import tempfile
from functools import cache
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
import numpy as np
from PIL import Image

from mlcak_hf import OnnxPredictor, Prediction
from mlcak_hf.prediction.reading import ReadFile, read_file

HERE = Path(__file__).resolve().parent
MAX_BYTES = 50_000_000
# Uploads are deleted after 15 minutes.
KEEP_S = 900
NO_FILE = "Choose a radiograph first: a DICOM, PNG or JPEG file."
RULES = {"youden": "Balanced (Youden)", "sensitivity": "High sensitivity", "specificity": "High specificity"}
SUSPECT = {"warn": "Predict with a warning", "refuse": "Refuse"}
KINDS = {"positive": "positive", "negative": "negative", "": "open"}

EMPTY = '<p class="empty">The result appears here.</p>'


@cache
def predictor_for(rule: str, suspect: str) -> OnnxPredictor:
    """Load the model once for each choice of settings."""
    return OnnxPredictor(HERE, operating_point=rule, on_suspect=suspect)


ABOUT = predictor_for("youden", "warn").about


def predict(file: str | None, rule: str, suspect: str) -> str:
    """Return the result for one file as HTML; every problem is a sentence in it."""
    if file is None:
        return message("stopped", "No file", NO_FILE)
    predictor = predictor_for(rule, suspect)
    with tempfile.TemporaryDirectory() as folder:
        (prediction,) = predictor.predict([file], heatmaps_dir=folder if predictor.has_attention else None)
        heatmap = None if prediction.heatmap is None else Image.open(prediction.heatmap).convert("RGB")
    if prediction.error:
        return message("stopped", "Not read", prediction.error)
    if prediction.refused_because:
        return message("stopped", "Refused", f"{prediction.refused_because}.")
    model_input = predictor.model_input
    read = read_file(Path(file), model_input.read_px, model_input.fit, predictor.voi, None, "warn", with_picture=True)
    warning = message("open", "Warning", f"{prediction.warning}. Nothing is decided.") if prediction.warning else ""
    return warning + scores(prediction) + pictures(read, heatmap)


def message(kind: str, title: str, text: str) -> str:
    """Return a box with one sentence."""
    sentence = html.escape(text[0].upper() + text[1:])
    return f'<div class="box {kind}" role="status"><b>{title}.</b> {sentence}</div>'


def scores(prediction: Prediction) -> str:
    """Return a bar for each label, with its threshold, and a list of findings."""
    parts = [row(prediction, "global", name, value) for name, value in prediction.probabilities.items()]
    if prediction.findings:
        known = {name: value for name, value in prediction.findings.items() if value == value}
        ordered = sorted(known.items(), key=lambda item: -item[1])
        rows = [row(prediction, "finding", name, value) for name, value in ordered]
        unknown = [html.escape(name) for name in prediction.findings if name not in known]
        note = f"<p>Never seen in training, so not predicted: {', '.join(unknown)}.</p>" if unknown else ""
        parts.append(f"<h2>Findings</h2>{''.join(rows)}{note}")
    return f'<div class="scores">{"".join(parts)}</div>'


def row(prediction: Prediction, head: str, name: str, value: float) -> str:
    """Return the bar of one label."""
    decision = prediction.decisions.get(f"{head}/{name}")
    facts, mark, badge = [f"probability <b>{value:.3f}</b>"], "", ""
    if decision is not None and decision.calibrated is not None:
        facts.append(f"calibrated {decision.calibrated:.3f}")
    if decision is not None and decision.threshold is not None:
        facts.append(f"threshold {decision.threshold:.3f}")
        mark = f'<i style="left:{100 * decision.threshold:.2f}%"></i>'
        badge = f'<span class="badge {KINDS[decision.decision]}">{decision.decision or "not decided"}</span>'
    title = f'<div class="name">{html.escape(name)} {badge}</div>'
    bar = f'<div class="bar" aria-hidden="true"><span style="width:{100 * value:.2f}%"></span>{mark}</div>'
    return f'<div class="row">{title}{bar}<div class="facts">{", ".join(facts)}</div></div>'


def pictures(read: ReadFile, heatmap: Image.Image | None) -> str:
    """Return the radiograph, what the model saw of it, and where it attended."""
    side = ABOUT.lowres or ABOUT.size_px
    shown = [figure(grey(read.picture), "The radiograph", "original")]
    if read.radiograph is not None:
        shown.append(figure(grey(read.radiograph.pixels), f"What the model saw: {side} x {side} px", "seen"))
    if heatmap is not None:
        shown.append(figure(heatmap, "Where the class token attends", "heatmap"))
    return f'<div class="pictures">{"".join(shown)}</div>'


def grey(pixels: np.ndarray | None) -> Image.Image:
    """Make an 8-bit image of grey values in [0, 1]."""
    return Image.fromarray(np.rint(np.asarray(pixels) * 255).astype(np.uint8))


def figure(image: Image.Image, caption: str, kind: str) -> str:
    """Return an image as part of the page, so that no file of it stays on the server."""
    if max(image.size) > 1100:
        image.thumbnail((1100, 1100))
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=6)
    source = f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
    return f'<figure class="{kind}"><img src="{source}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'


def build() -> gr.Blocks:
    """Put the page together."""
    name = html.escape(ABOUT.model)
    with gr.Blocks(title=f"{ABOUT.model}: chest radiographs", delete_cache=(60, KEEP_S)) as page:
        gr.HTML(
            f"<h1>{name}</h1><p>Predicts {html.escape(' or '.join(ABOUT.global_labels))} from a chest radiograph, "
            f"reduced to {ABOUT.lowres or ABOUT.size_px} px.</p>"
            f'<p class="notice"><b>{html.escape(ABOUT.notice)}</b> Do not upload images of patients here unless the '
            f"server is allowed to have them. Uploads are deleted after {KEEP_S // 60} minutes.</p>"
        )
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=300):
                file = gr.File(label="Radiograph (DICOM, PNG, JPEG)", type="filepath", height=150)
                start = gr.Button("Predict", variant="primary")
                gr.Examples(
                    [[str(path)] for path in sorted((HERE / "examples").iterdir())],
                    inputs=[file],
                    label="Examples (drawings, not patients)",
                    cache_examples=False,
                )
                with gr.Accordion("Settings", open=False):
                    rule = gr.Radio(
                        [(text, value) for value, text in RULES.items()],
                        value="youden",
                        label="Threshold that decides",
                        visible=ABOUT.operating_points is not None,
                    )
                    suspect = gr.Radio(
                        [(text, value) for value, text in SUSPECT.items()],
                        value="warn",
                        label="An image that looks unsuitable, or is unlike the training images",
                    )
            with gr.Column(scale=2, min_width=320):
                result = gr.HTML(EMPTY, elem_id="result")
        settings, outputs = [file, rule, suspect], [result]
        start.click(predict, settings, outputs)
        for event in (file.change, rule.input, suspect.input):
            event(lambda *given: predict(*given) if given[0] else EMPTY, settings, outputs)
    return page


if __name__ == "__main__":
    fonts = ["system-ui", "Segoe UI", "Roboto", "sans-serif"]
    build().launch(
        theme=gr.themes.Base(font=fonts, font_mono=["ui-monospace", "monospace"]).set(
            button_primary_background_fill="#0e7490", button_primary_background_fill_hover="#155e75"
        ),
        css=(HERE / "style.css").read_text(encoding="utf-8"),
        max_file_size=MAX_BYTES,
        footer_links=[],
    )
