"""What is pushed for one model: a folder for each repository on the Hub, with cards that link each other."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple, get_args

from huggingface_hub import RepoCard, constants

from ..errors import DeploymentError
from ..image_geometry_mlcak import check_choice
from ..pretrained import load_config, load_processor
from .browser_page import build_page
from .export.native_vit import check_expressible, export_vit
from .export.new_folder import new_folder
from .export.onnx_folder import export_onnx
from .export.onnx_model import check_packages
from .gradio_app import build_space
from .model_files import copy_model
from .npm_packages import check_node

Form = Literal["vit", "onnx", "space", "page"]

_LINKS = "## The same model in other forms"
_NEED_ONNX = {"onnx", "space", "page"}
_REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")


class _Kind(NamedTuple):
    suffix: str
    sdk: str | None
    what: str


_KINDS = {
    "model": _Kind("", None, "For PyTorch: `mlcak predict`, or transformers with `trust_remote_code=True`"),
    "vit": _Kind("-vit", None, "For plain transformers, without remote code; 8-bit images only"),
    "onnx": _Kind("-onnx", None, "For onnxruntime, without torch"),
    "space": _Kind("-space", "gradio", "An app: upload a radiograph, see the prediction and where the model attends"),
    "page": _Kind("-browser", "static", "A page that predicts in the browser; no image is uploaded"),
}


@dataclass(frozen=True)
class HubRepository:
    """A repository, and the folder with what it is to hold.

    Args:
        form (`str`):
            `"model"`, `"vit"`, `"onnx"`, `"space"` or `"page"`.
        repo_id (`str`):
            Its name on the Hub.
        folder (`Path`):
            Its files.
    """

    form: str
    repo_id: str
    folder: Path

    @property
    def sdk(self) -> str | None:
        """What runs a Space; `None` for a model repository."""
        return _KINDS[self.form].sdk

    @property
    def repo_type(self) -> str:
        """`"model"` or `"space"`."""
        return "space" if self.sdk else "model"

    @property
    def url(self) -> str:
        """Its address."""
        return f"{constants.ENDPOINT}/{'spaces/' if self.sdk else ''}{self.repo_id}"


def named_repositories(repo_id: str, forms: Sequence[Form], output: str | Path) -> list[HubRepository]:
    """List the repositories of a model, before anything is written.

    Args:
        repo_id (`str`):
            Name of the model on the Hub, such as `"your-name/student-28"`. The others are named after it:
            `-vit`, `-onnx`, `-space`, `-browser`.
        forms (`Sequence[str]`):
            `"vit"`: a stock ViT ([`export_vit`]). `"onnx"`: ONNX files ([`export_onnx`]). `"space"`: a Gradio Space
            ([`build_space`]). `"page"`: a static Space that predicts in the browser ([`build_page`]).
        output (`str` or `Path`):
            Where the folder of each repository will be.

    Returns:
        `list` of [`HubRepository`]: The model first.

    Raises:
        [`DeploymentError`]: When a name or a form is not valid.
    """
    if not _REPO_ID.fullmatch(repo_id):
        raise DeploymentError(f"The repository must be named owner/name; got {repo_id!r}.")
    for form in forms:
        check_choice("form", form, get_args(Form), DeploymentError)
    wanted = ["model", *(form for form in get_args(Form) if form in forms)]
    names = {form: f"{repo_id}{_KINDS[form].suffix}" for form in wanted}
    return [HubRepository(form, name, Path(output, name.split("/")[1])) for form, name in names.items()]


def write_repositories(source: str | Path, repositories: Sequence[HubRepository], output: str | Path) -> None:
    """Write the folder of a model, and of each form that it is exported to.

    Args:
        source (`str` or `Path`):
            Folder that a training script wrote, with the card of `mlcak card`, or the name of a shipped checkpoint.
        repositories (`Sequence` of [`HubRepository`]):
            From [`named_repositories`].
        output (`str` or `Path`):
            New or empty folder, the one that they were named for.

    Raises:
        [`MLCAKError`]: When the model is incomplete or cannot be exported, or something for an export is missing.
    """
    forms = {entry.form for entry in repositories}
    _check_exports(source, forms)
    with new_folder(output) as place:
        folders = {entry.form: place / entry.folder.name for entry in repositories}
        copy_model(source, folders["model"])
        if "vit" in forms:
            (twin,) = (entry for entry in repositories if entry.form == "vit")
            export_vit(source, folders["vit"], name=twin.repo_id)
        _write_onnx(source, folders)
    link_cards(repositories)


def link_cards(repositories: Sequence[HubRepository], commit: str | None = None) -> None:
    """Write into the card of each repository what the others are; once more replaces what was written before.

    Args:
        repositories (`Sequence` of [`HubRepository`]):
            Those of one model, the model first. A model alone has nothing to link.
        commit (`str`, *optional*):
            Commit of the model on the Hub, which the cards of its exports then name.
    """
    model, *exports = repositories
    if not exports:
        return
    models = [entry.repo_id for entry in repositories if entry.repo_type == "model"]
    rows = [f"| [{entry.repo_id}]({entry.url}) | {_KINDS[entry.form].what} |" for entry in repositories]
    table = "\n".join(["| Repository | What it is for |", "|---|---|", *rows])
    for entry in repositories:
        path = entry.folder / "README.md"
        text = path.read_text(encoding="utf-8")
        paragraphs = [text.partition(f"\n{_LINKS}\n")[0].rstrip(), _LINKS, table]
        if entry is not model and commit is not None:
            paragraphs.append(f"Made from [{model.repo_id} at {commit[:12]}]({model.url}/tree/{commit}).")
        card = RepoCard("\n\n".join(paragraphs) + "\n", ignore_metadata_errors=True)
        if entry is model:  # its header is the user's
            path.write_text("\n\n".join(paragraphs) + "\n", encoding="utf-8")
            continue
        card.data["models" if entry.sdk else "base_model"] = models if entry.sdk else model.repo_id
        card.save(path)


def _check_exports(source: str | Path, forms: Set[str]) -> None:
    """Find out early what would stop an export after minutes."""
    if "vit" in forms:
        config = load_config(source, error=DeploymentError)
        check_expressible(config, load_processor(source, config, error=DeploymentError))
    if forms & _NEED_ONNX:
        check_packages()
    if "page" in forms:
        check_node()


def _write_onnx(source: str | Path, folders: Mapping[str, Path]) -> None:
    """Export to ONNX once, for all forms that need it."""
    if not folders.keys() & _NEED_ONNX:
        return
    with TemporaryDirectory() as place:
        exported = folders.get("onnx", Path(place, "onnx"))
        export_onnx(source, exported)
        if "space" in folders:
            build_space(exported, folders["space"])
        if "page" in folders:
            build_page(exported, folders["page"])
