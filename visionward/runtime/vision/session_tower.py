"""The vision tower as an ONNX file, run by ONNX Runtime or OpenVINO: pixels to projected tokens on ggml's device."""

from functools import partial

import numpy as np

from visionward.errors import ComputeError
from visionward.formats.mmproj_format import MmprojConfig
from visionward.runtime.ggml.device import Device
from visionward.runtime.ggml.ggml import Type
from visionward.runtime.ggml.graph import Storage, write
from visionward.runtime.images.preprocess import Tiles
from visionward.runtime.vision.tower import OnLayer
from visionward.runtime.vision.tower_session import ON_CPU, TowerSession


class OnnxTower:
    """Encodes images with an ONNX tower.

    Args:
        session: the engine that runs it.
        config: the model's configuration.
        device: where the features go.
    """

    def __init__(self, session: TowerSession, config: MmprojConfig, device: Device) -> None:
        self._session = session
        self._device = device
        self._config = config.vision
        self.width = config.cross_attention.embedding_length

    def encode(self, tiles: Tiles, on_layer: OnLayer) -> Storage:
        """Projected tokens of the real tiles, as ``Tower.encode`` says. A session does not report single layers.

        Raises:
            ComputeError: if memory does not suffice, the engine fails, or its numbers are not finite.
        """
        layers = self._config.layers
        on_layer(0, layers)
        ratio_id = self._config.aspect_ratio_id(tiles.aspect_ratio)
        features = self._session.run(tiles.pixel_values, ratio_id, partial(on_layer, 0, layers))
        on_layer(layers, layers)
        shape = (len(tiles.pixel_values), self._config.tile_tokens, self.width)
        if features.shape != shape or features.dtype != np.float32:
            raise ComputeError(
                f"the ONNX tower gave {features.dtype} {features.shape}, expected float32 {shape}; export it again."
            )
        if not np.isfinite(features).all():
            if self._session.device != ON_CPU:
                raise ComputeError(
                    f"overflow on {self._session.device}: the ONNX tower's features are not all finite; compute them "
                    "on the CPU (--onnx-provider CPUExecutionProvider, or --openvino-device CPU)."
                )
            raise ComputeError(
                "the ONNX tower's features are not all finite; the file may be damaged, export it again."
            )
        states = Storage(self._device, {"states": (Type.F32, (self.width, shape[0] * shape[1]))})
        write(states["states"], np.ascontiguousarray(features))
        return states
