"""Names and defaults that several rooms, the command line and its help share. Standard library only."""

from typing import Literal, TypeAlias

Kernels: TypeAlias = Literal["plain", "packed"]
KernelsChoice: TypeAlias = Literal["auto", "plain", "packed"]
VisionBackend: TypeAlias = Literal["ggml", "onnx", "openvino"]
VisionBackendChoice: TypeAlias = Literal["auto", "ggml", "onnx", "openvino"]
OnnxWeightType: TypeAlias = Literal["f16", "f32", "int8"]
# Types of GGUF files, largest first.
FileType: TypeAlias = Literal["f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_k_s", "iq4_xs", "q4_0"]
# Types of a conversion that go well together.
PresetName: TypeAlias = Literal["laptop", "f16"]
ImitationTreatment: TypeAlias = Literal["judge", "warn"]
SystemTreatment: TypeAlias = Literal["refuse", "drop"]
Decision: TypeAlias = Literal["safe", "unsafe"]

# ONNX Runtime's own name for its CPU provider.
CPU_PROVIDER = "CPUExecutionProvider"
# Its providers for GPUs, in the order in which they are tried.
GPU_PROVIDERS = ("CUDAExecutionProvider", "CoreMLExecutionProvider", "DmlExecutionProvider")
# Stands for the first of the latter that the installed build has and that computes the whole tower, else the CPU's.
AUTO_PROVIDER = "auto"
# OpenVINO's own name for the CPU.
OPENVINO_CPU = "CPU"

DEFAULT_N_CTX = 4096
DEFAULT_UBATCH = 512
DEFAULT_IMAGE_CACHE_BYTES = 256 * 2**20
DEFAULT_FRAMES = 4
DEFAULT_THRESHOLD = 0.5
# With less probability than this on safe and unsafe together, the model has not answered, and the verdict is unsafe.
MIN_ANSWER_MASS = 0.5
