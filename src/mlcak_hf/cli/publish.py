"""`mlcak card` and `mlcak push`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from ..errors import DeploymentError

if TYPE_CHECKING:
    from rich.console import Console


class AlsoAs(str, Enum):
    """What else is made from a model and pushed."""

    VIT = "vit"
    ONNX = "onnx"
    SPACE = "space"
    PAGE = "page"


def card(
    folder: Annotated[Path, Argument(help="Folder of a trained model. Its README.md is written.")],
    results: Annotated[
        Path | None,
        Option("--evaluation", "--comparison", help="evaluation.json or comparison.json with the model's results."),
    ] = None,
    row: Annotated[str | None, Option(help="The model's row in a comparison. By default the folder's name.")] = None,
    repo_id: Annotated[str | None, Option(help="Hub id for the code snippets, such as owner/name.")] = None,
    explanations: Annotated[
        Path | None, Option(help="explanations.json with what the model's explanation maps are worth.")
    ] = None,
    other_datasets: Annotated[
        list[Path] | None,
        Option("--other-dataset", help="evaluation.json on a different dataset. May be repeated."),
    ] = None,
    notes: Annotated[
        Path | None, Option(help="Markdown file about the patients, the data and its licence, to put into the card.")
    ] = None,
    explained_as: Annotated[str | None, Option(help="The model's name in it. By default the folder's name.")] = None,
    license_id: Annotated[
        str | None, Option("--license", help="Licence of the weights, such as apache-2.0. None by default.")
    ] = None,
) -> None:
    """Write the model card of a trained model from its results; what was not measured is marked as such.

    With an evaluation, its self-check is written beside the weights too, for `mlcak check`.
    """
    from rich.console import Console

    from ..deployment.card_sections import add_explanations, add_notes, add_other_datasets
    from ..deployment.model_card import card_for_folder
    from ..errors import RecipeError
    from ..evaluation.evidence.record import Evidence, load_results

    if not folder.is_dir():
        raise RecipeError(f"The model must be a local folder, because its card is written there; got {folder}.")
    found = None if results is None else load_results(results)
    made = card_for_folder(folder, found, row, model_id=repo_id, license=license_id)
    if explanations is not None:
        add_explanations(made, folder, explanations, explained_as or folder.resolve().name)
    if other_datasets:
        add_other_datasets(made, other_datasets)
    if notes is not None:
        add_notes(made, notes)
    made.save(folder / "README.md")
    Console().print(f"Model card: {folder / 'README.md'}")
    if isinstance(found, Evidence):
        found.self_check.save(folder)


def push(
    folder: Annotated[
        Path,
        Argument(help="Folder of a trained model with its card, name of a shipped checkpoint, or a prepared dataset."),
    ],
    repo_id: Annotated[str, Argument(help="owner/name on the Hub.")],
    also: Annotated[
        list[AlsoAs] | None,
        Option(
            "--with",
            help="Export the model too, as `mlcak export --to` does, and push that to a repository of its own: "
            "REPO_ID-vit, REPO_ID-onnx, REPO_ID-space (Gradio), or REPO_ID-browser for `page` (a static Space). Repeat "
            "it for several.",
        ),
    ] = None,
    dry_run: Annotated[
        Path | None,
        Option(help="Write what would be pushed into this new or empty folder and print it. Nothing is uploaded."),
    ] = None,
    public: Annotated[bool, Option(help="Make new repositories public; private otherwise.")] = False,
    revision: Annotated[str | None, Option(help="Branch to push to.")] = None,
    i_may_share_this_data: Annotated[
        bool,
        Option(
            "--i-may-share-this-data",
            help="For a dataset: confirm that its data use agreement allows this upload. VinDr-CXR's forbids sharing"
            " with anyone.",
        ),
    ] = False,
) -> None:
    """Upload a trained model to the Hugging Face Hub: weights, configuration, code and card, but no data.

    With --with, also what is exported from it; the cards of all repositories link each other. Run the command again
    after a broken connection: what has not changed is not sent twice. A prepared dataset is refused without
    --i-may-share-this-data, and always becomes a private repository.
    """
    from rich.console import Console

    from ..deployment.publish import is_prepared_dataset, push_dataset_to_hub, push_to_hub

    console = Console()
    forms: list[Any] = [form.value for form in also or ()]
    if is_prepared_dataset(folder):
        if public or forms or dry_run:
            raise DeploymentError(
                f"{folder} is a dataset of radiographs. Push it to a private repository only, without --with and "
                "--dry-run."
            )
        commit = push_dataset_to_hub(folder, repo_id, i_may_share_this_data=i_may_share_this_data, revision=revision)
        console.print(f"Pushed: {commit.commit_url}", highlight=False, soft_wrap=True)
    elif dry_run is not None:
        _print_what_would_be_pushed(folder, repo_id, forms, dry_run, console)
    else:
        pushed = push_to_hub(folder, repo_id, forms=forms, private=not public, revision=revision)
        for commit in pushed.values():
            console.print(f"Pushed: {commit.commit_url}", highlight=False, soft_wrap=True)
        pin = f'from_pretrained("{repo_id}", revision="{pushed[repo_id].oid}")'
        console.print(f"To load exactly this model: {pin}", highlight=False, markup=False, soft_wrap=True)


def _print_what_would_be_pushed(folder: Path, repo_id: str, forms: list[Any], output: Path, console: Console) -> None:
    from rich.tree import Tree

    from ..deployment.repositories import named_repositories, write_repositories

    repositories = named_repositories(repo_id, forms, output)
    write_repositories(folder, repositories, output)
    for repository in repositories:
        tree = Tree(f"{repository.repo_id} ({repository.repo_type}), in {repository.folder}", highlight=False)
        for path in sorted(repository.folder.iterdir()):
            inside = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
            name = path.name if path.is_file() else f"{path.name}/ ({len(inside)} files)"
            tree.add(f"{name}  {sum(file.stat().st_size for file in inside) / 1e3:,.1f} kB")
        console.print(tree, soft_wrap=True)
    console.print("Nothing was uploaded.")
