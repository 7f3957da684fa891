"""Export to a page that predicts in the browser, as a folder for any web server or as a single file."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from ..prediction.onnx_metadata import MODEL_FILES, PREPROCESS_FILE, OnnxMetadata
from ..pretrained import Source
from ..shipped import hub_configs_dir
from .export.new_folder import new_folder
from .export.onnx_folder import export_onnx
from .npm_packages import npm_packages

_RUNTIME = (
    "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm",
    "@cornerstonejs/codec-openjpeg/dist/openjpegwasm_decode.wasm",
    "@cornerstonejs/codec-charls/dist/charlswasm_decode.wasm",
)
# Nothing may come from, or go to, anywhere but the page's own folder.
_POLICY = {
    "default-src": "'none'",
    "script-src": "'self' blob: 'wasm-unsafe-eval'",
    "worker-src": "'self' blob:",
    "connect-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' blob: data:",
    "manifest-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
}
# A drawing of 12 x 12 pixels: two lungs.
_ICON = (
    "............",
    ".....##.....",
    ".....##.....",
    "..##.##.##..",
    ".####..####.",
    ".####..####.",
    ".####..####.",
    ".####..####.",
    ".####..####.",
    ".####..####.",
    "..##....##..",
    "............",
)
_ICON_COLOURS = {"#": (111, 195, 210), ".": (14, 38, 45)}


@dataclass(frozen=True)
class PageExport:
    """What was written.

    Args:
        sizes (`dict[str, int]`):
            Bytes of each file.
        downloaded (`int`):
            Bytes of all files that a visitor's browser loads, compressed as most servers do (gzip).
    """

    sizes: dict[str, int]
    downloaded: int


def export_page(
    source: Source, output: str | Path, single_file: bool = False, packages: str | Path | None = None
) -> PageExport:
    """Write a page that reads radiographs and predicts in the browser.

    Args:
        source (`str` or `Path`):
            Folder, Hub id or name of a shipped checkpoint.
        output (`str` or `Path`):
            New or empty folder.
        single_file (`bool`, *optional*, defaults to `False`):
            Write one HTML file that holds everything and opens from a disk, instead of a folder for a web server.
        packages (`str` or `Path`, *optional*):
            Folder for the npm packages, to install them only once. By default a temporary one.

    Returns:
        [`PageExport`]

    Raises:
        [`DeploymentError`]: When Node.js or a package is missing, or the model cannot be exported.
    """
    with TemporaryDirectory() as place:
        export_onnx(source, Path(place, "onnx"))
        return build_page(Path(place, "onnx"), output, single_file, packages)


def build_page(
    exported: str | Path, output: str | Path, single_file: bool = False, packages: str | Path | None = None
) -> PageExport:
    """Write the page of a model that was exported to ONNX.

    Args:
        exported (`str` or `Path`):
            A folder that `mlcak export --to onnx` wrote.
        output, single_file, packages:
            As in [`export_page`].

    Returns:
        [`PageExport`]

    Raises:
        [`DeploymentError`]: As in [`export_page`].
    """
    exported, templates = Path(exported), hub_configs_dir() / "static_space"
    model = exported / MODEL_FILES["float32"]
    metadata = _metadata(model)
    with (
        new_folder(output) as folder,
        npm_packages(templates, None if packages is None else Path(packages)) as installed,
    ):
        app, _ = installed.bundle(templates / "app" / "app.js")
        engine, used = installed.bundle(templates / "engine" / "worker.js")
        files = {
            "app.js": app,
            "engine.js": engine,
            "style.css": (templates / "style.css").read_bytes(),
            "model/model.json": metadata.to_json().encode(),
            "model/model.onnx": model.read_bytes(),
            "model/preprocess.onnx": (exported / PREPROCESS_FILE).read_bytes(),
            **{f"runtime/{Path(name).name}": (installed.folder / name).read_bytes() for name in _RUNTIME},
            "LICENSES.txt": installed.licences(sorted(used), templates / "more_licences.txt").encode(),
            "icon-192.png": _icon(192),
            "icon-512.png": _icon(512),
        }
        if single_file:
            files = {f"{metadata.model.rpartition('/')[2]}.html": _single_file(templates, metadata, files)}
        else:
            files |= _served(templates, metadata, files)
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
    loaded = (content for name, content in files.items() if name not in ("README.md", "icon-512.png", "LICENSES.txt"))
    sizes = {name: len(content) for name, content in sorted(files.items())}
    return PageExport(sizes, sum(len(gzip.compress(content, 6)) for content in loaded))


def _metadata(file: Path) -> OnnxMetadata:
    import onnx

    properties = onnx.load(file, load_external_data=False).metadata_props
    return OnnxMetadata.from_properties({entry.key: entry.value for entry in properties}, file.name)


def _served(templates: Path, metadata: OnnxMetadata, files: dict[str, bytes]) -> dict[str, bytes]:
    """The files of a page on a server that name the others."""
    words = {"name": metadata.model, "policy": _policy(_POLICY)}
    page = _filled(templates / "index.html", {name: html.escape(text) for name, text in words.items()})
    made = {"index.html": page.encode()}
    # In JSON, a quote in a name would end the string.
    escaped = {"name": json.dumps(metadata.model, ensure_ascii=False)[1:-1]}
    made["manifest.webmanifest"] = _filled(templates / "manifest.webmanifest", escaped).encode()
    digest = hashlib.sha256()
    for name, content in sorted((files | made).items()):
        digest.update(name.encode() + content)
    cached = " ".join(["./", *sorted(files | made)])
    names = {"prefix": f"mlcak {metadata.model} ".replace('"', ""), "version": digest.hexdigest()[:16], "files": cached}
    made["service_worker.js"] = _filled(templates / "service_worker.js", names).encode()
    made["README.md"] = _filled(templates / "README.md", words).encode()
    return made


def _single_file(templates: Path, metadata: OnnxMetadata, files: Mapping[str, bytes]) -> bytes:
    """One HTML file: style and program as they are, everything else compressed."""
    app, style = (files[name].decode() for name in ("app.js", "style.css"))
    policy = _POLICY | {
        "script-src": f"'sha256-{_digest(app)}' blob: 'wasm-unsafe-eval'",
        "style-src": f"'sha256-{_digest(style)}'",
        "worker-src": "blob:",
        "connect-src": "'none'",
        "img-src": "blob: data:",
        "manifest-src": "'none'",
    }
    words = {"name": metadata.model, "policy": _policy(policy)}
    page = _filled(templates / "index.html", {name: html.escape(text) for name, text in words.items()})
    icon = f"data:image/png;base64,{base64.b64encode(files['icon-192.png']).decode()}"
    kept = [name for name in files if name not in ("app.js", "style.css") and not name.startswith("icon-")]
    packed = "\n".join(
        f'<script type="application/octet-stream" id="asset:{name}">{_packed(files[name])}</script>' for name in kept
    )
    parts = {
        '<link rel="icon" href="icon-192.png" />': f'<link rel="icon" href="{icon}" />',
        '<link rel="manifest" href="manifest.webmanifest" />': "",
        '<link rel="stylesheet" href="style.css" />': f"<style>{style}</style>",
        '<script type="module" src="app.js"></script>': "",
        "</body>": f'{packed}\n<script type="module">{app}</script>\n</body>',
    }
    for given, wanted in parts.items():
        assert page.count(given) == 1, given
        page = page.replace(given, wanted)
    return page.encode()


def _filled(template: Path, words: Mapping[str, str]) -> str:
    text = template.read_text(encoding="utf-8")
    for name, value in words.items():
        text = text.replace(f"{{{{{name}}}}}", value)
    return text


def _policy(parts: Mapping[str, str]) -> str:
    return "; ".join(f"{name} {value}" for name, value in parts.items())


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


def _icon(side: int) -> bytes:
    drawing = np.array([[_ICON_COLOURS[cell] for cell in row] for row in _ICON], np.uint8)
    made = BytesIO()
    Image.fromarray(drawing).resize((side, side), Image.Resampling.NEAREST).save(made, "PNG", optimize=True)
    return made.getvalue()
