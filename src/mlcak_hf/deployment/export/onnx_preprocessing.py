"""The image processor as an ONNX graph: a grey image of any size -> pixel values, by exact area averages.

The weights of the averages are computed in the graph, from the shape of the image. Edges of pixels are whole numbers in
units of 1 / (side * size_px), so the overlaps are exact in int64, as in `area_weights`. Averages are summed in float64:
float32 sums of large images would differ by more than 1e-6.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...image_geometry_mlcak import bilinear_weights
from ...prediction.onnx_metadata import METADATA_KEY, OnnxMetadata

_OPSET, _IR_VERSION = 18, 9
_FLOAT, _DOUBLE = 1, 11  # of onnx.TensorProto


class _Graph:
    """Nodes and constants of a graph, each with a name of its own."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        import onnx

        name = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(self, value: Any, dtype: Any = np.int64) -> str:
        import onnx

        name = f"constant_{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def overlaps(self, length: str, side: str, before: str, count: int) -> str:
        """Weights `(count, length)` that average `side` samples in int64; the image begins at sample `before`."""
        out_low = self.add("Mul", self.constant(np.arange(count)[:, None]), side)
        out_high = self.add("Add", out_low, side)
        position = self.add("Range", self.constant(0), length, self.constant(1))
        in_low = self.add("Mul", self.add("Add", position, before), self.constant(count))
        in_high = self.add("Add", in_low, self.constant(count))
        overlap = self.add("Sub", self.add("Min", out_high, in_high), self.add("Max", out_low, in_low))
        positive = self.add("Cast", self.add("Max", overlap, self.constant(0)), to=_DOUBLE)
        return self.add("Div", positive, self.add("Cast", side, to=_DOUBLE))


def preprocessing_model(metadata: OnnxMetadata) -> Any:
    """Make the graph `image` (float32, `(H, W)`, in [0, 1]) -> `pixel_values` (float32, `(1, C, S, S)`).

    Args:
        metadata ([`OnnxMetadata`]):
            Size, fit and normalisation; it is stored in the model.

    Returns:
        `onnx.ModelProto`
    """
    import onnx

    graph = _Graph()
    shape = graph.add("Shape", "image")
    sides = [graph.add("Gather", shape, graph.constant(axis)) for axis in (0, 1)]
    side = metadata.size_px if metadata.lowres is None else metadata.lowres
    weights = []
    for length in sides:
        if metadata.fit == "pad":
            longer = graph.add("Max", *sides)
            before = graph.add("Div", graph.add("Sub", longer, length), graph.constant(2))
            weights.append(graph.overlaps(length, longer, before, side))
        else:
            weights.append(graph.overlaps(length, length, graph.constant(0), side))
    averages = _both_sides(graph, graph.add("Cast", "image", to=_DOUBLE), *weights)
    if metadata.lowres is not None:
        enlarge = graph.constant(bilinear_weights(metadata.lowres, metadata.size_px), np.float64)
        averages = _both_sides(graph, averages, enlarge, enlarge)
    mean, std = (_per_channel(values) for values in (metadata.image_mean, metadata.image_std))
    channels = graph.add("Unsqueeze", graph.add("Cast", averages, to=_FLOAT), graph.constant([0, 1]))
    centred = graph.add("Sub", channels, graph.constant(mean, np.float32))
    graph.add("Div", centred, graph.constant(std, np.float32), output="pixel_values")
    size, pixels = [1, mean.size, metadata.size_px, metadata.size_px], _FLOAT
    made = onnx.helper.make_graph(
        graph.nodes,
        "preprocess",
        [onnx.helper.make_tensor_value_info("image", pixels, ["height", "width"])],
        [onnx.helper.make_tensor_value_info("pixel_values", pixels, size)],
        graph.constants,
    )
    model = onnx.helper.make_model(
        made, opset_imports=[onnx.helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION, producer_name="mlcak-hf"
    )
    onnx.helper.set_model_props(model, {METADATA_KEY: metadata.to_json()})
    onnx.checker.check_model(model, full_check=True)
    return model


def _both_sides(graph: _Graph, image: str, rows: str, columns: str) -> str:
    """`rows @ image @ columns.T`."""
    return graph.add("MatMul", graph.add("MatMul", rows, image), graph.add("Transpose", columns, perm=[1, 0]))


def _per_channel(values: list[float]) -> NDArray[np.float32]:
    return np.asarray(values, np.float32).reshape(1, -1, 1, 1)
