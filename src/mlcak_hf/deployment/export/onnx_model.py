"""A trained model as an ONNX graph, with weights in 32, 16 or 8 bits."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import DeploymentError
from ...modeling_mlcak import MLCAKForCXRClassification
from ...trust.reference import Reference, captured_class_tokens

Dtype = Literal["float32", "float16", "int8"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# Biases and norms stay in 32 bit: they weigh nothing.
_SMALL_TENSOR = 1024


def check_packages() -> None:
    """Check that everything an export to ONNX needs is installed.

    Raises:
        [`DeploymentError`]: When a package is missing.
    """
    if missing := [name for name in _PACKAGES if importlib.util.find_spec(name) is None]:
        raise DeploymentError(
            f"An export to ONNX needs {', '.join(_PACKAGES)}; not installed: {', '.join(missing)}. Run: "
            'pip install "mlcak-hf[onnx]".'
        )


class _OnnxOutputs(nn.Module):
    """The model's outputs as a tuple, in the order of `names`."""

    def __init__(self, model: MLCAKForCXRClassification, reference: Reference | None) -> None:
        super().__init__()
        self.model = model
        self.names = ["logits"]
        self.names += ["local_logits"] * (model.local_classifier is not None)
        self.names += ["attention"] * bool(model.config.has_attention)
        self.names += ["distance"] * (reference is not None)
        if reference is not None:
            # The distance as a length, |F (x - mean)| with F'F = precision, cannot become negative under its root.
            values, vectors = np.linalg.eigh(reference.precision.astype(np.float64))
            factor = (vectors * np.sqrt(np.maximum(values, 0))).astype(np.float32)
            self.register_buffer("centre", torch.from_numpy(reference.mean))
            self.register_buffer("factor", torch.from_numpy(factor))

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        config: Any = self.model.config
        with captured_class_tokens(self.model) as tokens:
            output = self.model(pixel_values=pixel_values, output_attentions=config.has_attention)
        found = {"logits": output.logits, "local_logits": output.local_logits}
        if "attention" in self.names:
            found["attention"] = output.mlcak[:, 0, config.num_prefix_tokens :].reshape(-1, *self.model.grid_size)
        if "distance" in self.names:
            found["distance"] = torch.linalg.vector_norm((tokens[0] - self.centre) @ self.factor, dim=-1)
        return tuple(found[name] for name in self.names)


def model_graph(model: MLCAKForCXRClassification, reference: Reference | None) -> Any:
    """Make the graph `pixel_values` (float32, `(batch, C, S, S)`) -> `logits`, `local_logits`, `attention`, `distance`.

    Args:
        model ([`MLCAKForCXRClassification`]):
            In evaluation mode, on the CPU.
        reference ([`Reference`], *optional*):
            What the distance is measured from.

    Returns:
        `onnx.ModelProto`: Without a trace of the files and lines that it was made by. Outputs that the model does not
        have are absent.
    """
    config: Any = model.config
    outputs = _OnnxOutputs(model, reference)
    return traced(outputs, (config.num_channels, config.image_size, config.image_size), outputs.names)


@torch.no_grad()
def traced(module: nn.Module, shape: tuple[int, int, int], names: Sequence[str]) -> Any:
    """Make the graph of a module, `pixel_values` of any batch -> outputs.

    Args:
        module (`nn.Module`):
            From pixel values to a tuple of tensors.
        shape (`tuple[int, int, int]`):
            Channels, height and width of the pixel values.
        names (`Sequence[str]`):
            Names of the outputs.

    Returns:
        `onnx.ModelProto`: As from [`model_graph`].
    """
    module = module.train(False)
    example = torch.zeros(2, *shape)  # two images: the exporter would take a batch of one for a constant
    module(example)  # transformers installs its hooks on the first call
    with _quiet():
        program: Any = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            input_names=["pixel_values"],
            output_names=names,
            dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch")}},
            external_data=False,
            verbose=False,
        )
    found = program.model_proto
    _forget_where_it_was_made(found)
    return found


def with_dtype(model: Any, dtype: Dtype) -> Any:
    """Store the weights of a float32 graph in another type. Inputs and outputs stay float32.

    Args:
        model (`onnx.ModelProto`):
            From [`model_graph`].
        dtype (`str`):
            `"float32"`; `"float16"`, which halves the file and is computed in 32 bit; or `"int8"`, dynamic quantization
            of the matrix products. The distance is left in 32 bit.

    Returns:
        `onnx.ModelProto`: A new one.
    """
    import onnx

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    if dtype == "float16":
        _store_in_16_bit(copied)
    elif dtype == "int8":
        copied = _quantized(copied)
    return copied


def _store_in_16_bit(model: Any) -> None:
    import onnx

    graph, kept = model.graph, _used_by_the_distance_alone(model.graph)
    inputs_kept = {name for node in graph.node if node.name in kept for name in node.input}
    casts = []
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < _SMALL_TENSOR or tensor.name in inputs_kept:
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}.float16"))
        casts.append(onnx.helper.make_node("Cast", [tensor.name], [name], name=f"{name}.float32", to=1))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _quantized(model: Any) -> Any:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with TemporaryDirectory() as place, _quiet():
        before, after = Path(place, "float32.onnx"), Path(place, "int8.onnx")
        onnx.save(model, before)
        quantize_dynamic(
            before,
            after,
            op_types_to_quantize=["MatMul", "Gemm"],
            weight_type=QuantType.QInt8,
            nodes_to_exclude=sorted(_used_by_the_distance_alone(model.graph)),
        )
        found = onnx.load(after)
    del found.metadata_props[:]
    return found


def _used_by_the_distance_alone(graph: Any) -> set[str]:
    """Names of the nodes that no other output needs."""
    others = [output.name for output in graph.output if output.name != "distance"]
    return _needed_for(graph, ["distance"]) - _needed_for(graph, others)


def _needed_for(graph: Any, outputs: Iterable[str]) -> set[str]:
    made_by = {name: node for node in graph.node for name in node.output}
    waiting, found = list(outputs), set()
    while waiting:
        node = made_by.get(waiting.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            waiting.extend(node.input)
    return found


def _forget_where_it_was_made(model: Any) -> None:
    """The exporter keeps stack traces, with the paths of this machine, beside every node."""
    del model.metadata_props[:]
    model.producer_name, model.producer_version, model.doc_string = "mlcak-hf", "", ""
    graph = model.graph
    del graph.metadata_props[:]
    del graph.value_info[:]
    graph.doc_string = ""
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        part.doc_string = ""
        if hasattr(part, "metadata_props"):
            del part.metadata_props[:]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the notes of the exporters from the terminal; an error is still raised."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
