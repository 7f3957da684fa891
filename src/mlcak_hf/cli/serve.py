"""`mlcak watch` and `mlcak serve`."""

from __future__ import annotations

import ipaddress
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from ..errors import MLCAKError
from .options import (
    DeviceOption,
    ModelArgument,
    OnSuspectOption,
    OperatingPointOption,
    ReportAsOption,
    ReportsOption,
    RuntimeOption,
    ThreadsOption,
    ValueRangeOption,
    VoiOption,
)
from .runtimes import load_any_predictor

if TYPE_CHECKING:
    from rich.console import Console

    from ..serving.predict_queue import PredictQueue
    from ..serving.summary import RunningSummary


def watch(
    model: ModelArgument,
    folder: Annotated[Path, Argument(help="Folder in which DICOM, PNG or JPEG files arrive.")],
    output: Annotated[Path, Option(help="Table that grows by a row for each file: .csv, .jsonl or .parquet.")],
    every: Annotated[float, Option(help="Seconds between two looks at the folder.", min=0.05)] = 2.0,
    settle: Annotated[
        float, Option(help="Seconds that a file must not change before it counts as complete.", min=0)
    ] = 2.0,
    once: Annotated[bool, Option("--once", help="Stop when all files are predicted.")] = False,
    reports: ReportsOption = None,
    report_as: ReportAsOption = "sr",
    batch_size: Annotated[int, Option(help="Radiographs per forward pass.", min=1)] = 16,
    runtime: RuntimeOption = None,
    threads: ThreadsOption = 1,
    device: DeviceOption = None,
    value_range: ValueRangeOption = None,
    voi: VoiOption = None,
    on_suspect: OnSuspectOption = "warn",
    operating_point: OperatingPointOption = "youden",
) -> None:
    """Predict the radiographs that arrive in a folder, each once, until Ctrl-C.

    The same command resumes after any interruption: beside the output, its journal says which files are done.
    """
    from rich.console import Console

    from ..serving.folder_watch import FolderWatch, watch_folder
    from ..serving.reports import REPORT_COLUMNS, ReportWriter
    from ..serving.results import Results
    from ..serving.stop_signal import stop_on_signal

    console = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)
    with stop_on_signal() as stop:
        options = {"value_range": value_range, "voi": voi, "on_suspect": on_suspect, "operating_point": operating_point}
        predictor = load_any_predictor(model, runtime, device, threads, **options)
        writer = None if reports is None else ReportWriter(reports, report_as, predictor)
        results = Results(output, predictor, () if writer is None else REPORT_COLUMNS)
        try:
            further: dict[str, Any] = {}
            if writer is not None:
                further = {"further": writer.columns_of, "exclude": [writer.folder]}
            watched = FolderWatch(folder, predictor, results, settle, batch_size, **further)
            console.print(f"Watching {folder}; {len(results)} files are done already. Results: {output}")
            console.print("Research use only: not a medical device, not for diagnosis.")

            def report(outcomes: Counter[str], waiting: int) -> None:
                # No names of files: they may name patients, and this text may end up in a log.
                console.print(f"{_listed(outcomes)}; {waiting} waiting")

            counts = watch_folder(watched, results, stop, every, once, report)
        finally:
            results.close()
    console.print(f"Stopped. {_listed(counts)}.")


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[kind]} {kind}" for kind in ("predicted", "refused", "unreadable"))


def serve_model(
    model: ModelArgument,
    host: Annotated[
        str, Option(help="Address to listen on. By default only programs on this machine can connect.")
    ] = "127.0.0.1",
    port: Annotated[int, Option(help="Port for HTTP.", min=0, max=65535)] = 8000,
    places: Annotated[int, Option(help="HTTP requests that may wait at once; more are refused.", min=1)] = 32,
    max_mb: Annotated[float, Option(help="Largest file or DICOM object, in MB.", min=0.001)] = 100.0,
    timeout: Annotated[float, Option(help="Seconds that a file may wait for its prediction.", min=0.1)] = 30.0,
    dicom_port: Annotated[
        int | None, Option(help="Port for DICOM (C-ECHO, C-STORE). Without it, only HTTP is served.", min=0, max=65535)
    ] = None,
    title: Annotated[str, Option(help="AE title of the DICOM node.")] = "MLCAK",
    allow: Annotated[list[str] | None, Option(help="AE title that may send by DICOM. May be given again.")] = None,
    output: Annotated[
        Path | None, Option(help="Results of what came by DICOM: .csv, .jsonl or .parquet. A row for each object.")
    ] = None,
    spool: Annotated[
        Path | None, Option(help="Folder where objects wait to be predicted. By default OUTPUT.spool.")
    ] = None,
    spool_size: Annotated[int, Option(help="Objects that may wait; more are refused.", min=1)] = 1000,
    reports: ReportsOption = None,
    report_as: ReportAsOption = "sr",
    send_to: Annotated[str | None, Option(help="DICOM node that receives the reports, as TITLE@HOST:PORT.")] = None,
    compare_with: Annotated[
        Path | None,
        Option(help="Results on images as they should be; the summary shows their scores beside the new ones."),
    ] = None,
    runtime: RuntimeOption = None,
    threads: ThreadsOption = 1,
    device: DeviceOption = None,
    value_range: ValueRangeOption = None,
    voi: VoiOption = None,
    on_suspect: OnSuspectOption = "warn",
    operating_point: OperatingPointOption = "youden",
) -> None:
    """Predict radiographs that arrive over HTTP and, with --dicom-port, from DICOM nodes, until Ctrl-C.

    There is no password and no encryption, so that by default only this machine can connect.
    """
    from rich.console import Console

    _check_given_together(dicom_port, output, allow, reports, send_to)
    try:
        import fastapi  # noqa: F401
        import pynetdicom  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MLCAKError(f"mlcak serve needs {error.name}. Install it: pip install 'mlcak-hf[serve]'.") from None

    from ..serving.http_door import HttpServer, UploadLimits, build_app
    from ..serving.predict_queue import PredictQueue
    from ..serving.stop_signal import stop_on_signal
    from ..serving.summary import RunningSummary

    console = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)
    loopback = _is_loopback(host)
    with ExitStack() as stack:
        stop = stack.enter_context(stop_on_signal())
        options = {"value_range": value_range, "voi": voi, "on_suspect": on_suspect, "operating_point": operating_point}
        predictor = load_any_predictor(model, runtime, device, threads, **options)
        summary = RunningSummary(predictor, compare_with)
        queue = PredictQueue(predictor, places)
        stack.callback(queue.close)
        if dicom_port is not None and output is not None:
            dicom: dict[str, Any] = {"title": title, "allow": allow or [], "output": output, "spool": spool}
            dicom |= {"spool_size": spool_size, "reports": reports, "report_as": report_as, "send_to": send_to}
            dicom["max_bytes"] = round(max_mb * 1e6)
            number = _open_dicom_door(stack, queue, summary, console, (host, dicom_port), dicom)
            console.print(f"DICOM: {title}@{host}:{number}, open to {', '.join(allow or [])}. Results: {output}")
        app = build_app(queue, summary, UploadLimits(round(max_mb * 1e6), timeout), loopback and ":" not in host)
        server = HttpServer(app, host, port)
        stack.callback(server.close)
        console.print(f"HTTP: http://{f'[{host}]' if ':' in host else host}:{server.port}")
        if not loopback:
            console.print(
                f"Warning: other machines can connect to {host}. There is no password and no encryption; anyone who can"
                " connect can send files and read the summary. Use a trusted network only."
            )
        console.print("Research use only: not a medical device, not for diagnosis. Ctrl-C stops.")
        while not stop.wait(1.0):
            if not server.is_running:
                raise MLCAKError("The HTTP server has stopped by itself. Start it again, and please report this.")
        console.print("Stopping; what has begun is finished.")


def _open_dicom_door(
    stack: ExitStack,
    queue: PredictQueue,
    summary: RunningSummary,
    console: Console,
    address: tuple[str, int],
    chosen: dict[str, Any],
) -> int:
    """Start the DICOM node and what works for it; they are closed with the stack. Returns the port."""
    from ..serving.dicom_door import DicomNode, SpoolWorker
    from ..serving.reports import REPORT_COLUMNS, Peer, ReportSender, ReportWriter
    from ..serving.results import Results
    from ..serving.spool import Spool

    peer = Peer.parse(chosen["send_to"]) if chosen["send_to"] else None
    output: Path = chosen["output"]
    spool = Spool(chosen["spool"] or output.with_name(f"{output.name}.spool"), chosen["spool_size"])
    folder = chosen["reports"]
    further: dict[str, Any] = {}
    if folder is not None:
        further["further"] = ReportWriter(folder, chosen["report_as"], queue.predictor).columns_of
    results = Results(output, queue.predictor, REPORT_COLUMNS if folder is not None else ())
    stack.callback(results.close)
    if peer is not None:
        stack.callback(ReportSender(folder, peer, chosen["title"], console.print).close)
    stack.callback(SpoolWorker(spool, queue, results, summary, say=console.print, **further).close)
    node = DicomNode(spool, results, summary, address, chosen["title"], chosen["allow"], chosen["max_bytes"])
    stack.callback(node.close)
    return node.port


def _check_given_together(
    dicom_port: int | None, output: Path | None, allow: list[str] | None, reports: Path | None, send_to: str | None
) -> None:
    if dicom_port is None and (output or allow or reports or send_to):
        raise MLCAKError("--output, --allow, --reports and --send-to belong to the DICOM node. Name its --dicom-port.")
    if dicom_port is not None and output is None:
        raise MLCAKError("Name the results of the DICOM node, for example --output results.csv.")
    if send_to is not None and reports is None:
        raise MLCAKError("--send-to sends reports. Name their folder (--reports FOLDER).")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
