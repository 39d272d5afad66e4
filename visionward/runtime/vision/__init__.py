"""The vision tower, on ggml, ONNX Runtime or OpenVINO."""
