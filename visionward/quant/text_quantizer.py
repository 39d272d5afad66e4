"""Quantize a text file with llama.cpp's own quantizer, in a child process."""

import ctypes
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from visionward.errors import QuantizeError
from visionward.formats.imatrix_file import KEY_CHUNKS, KEY_DATASET, KEY_ENTRIES, KEY_FILE, ImatrixSource
from visionward.quant.native_job import LogLine, Send, route_log, run_in_child
from visionward.quant.tensor_types import TypeOverride
from visionward.runtime.ggml import abi
from visionward.runtime.ggml.native import llama, take_errors

# llama.cpp's default of 8 GiB exceeds the memory of many machines. Buffers of this size are as fast.
BUFFER_BYTES = 256 << 20

# What llama_model_quantize logs before each tensor, and at the end of a dry run.
_TENSOR_LINE = re.compile(r"\[\s*\d+/\s*\d+\]\s+(\S+)")
_SIZE_LINE = re.compile(r"quant size\s*=\s*([\d.]+) MiB")

# The maximum text of a key override in bytes (llama_model_kv_override).
_MAX_TEXT_BYTES = 127


@dataclass(frozen=True)
class Planned:
    """The size of the file that will be written, which llama.cpp reports to 0.01 MiB."""

    nbytes: int


@dataclass(frozen=True)
class Started:
    """llama.cpp begins with a tensor."""

    name: str


@dataclass(frozen=True)
class TextJob:
    """A job for llama.cpp's quantizer.

    Attributes:
        source: the file to quantize.
        target: the new file, which is overwritten.
        file_type: llama.cpp's number of the file type.
        threads: number of threads.
        allow_requantize: whether the source may be quantized.
        overrides: types by tensor name; the first match applies.
        importance: importance of each column by tensor name.
        imatrix: origin of the importance, for the keys of the new file; None without an importance matrix.
    """

    source: str
    target: str
    file_type: int
    threads: int
    allow_requantize: bool = False
    overrides: tuple[TypeOverride, ...] = ()
    importance: Mapping[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    imatrix: ImatrixSource | None = None


def quantize_text(job: TextJob, on_planned: Callable[[int], None], on_tensor: Callable[[str], None]) -> None:
    """Quantize a text file.

    Args:
        job: the job.
        on_planned: called with the size of the new file before anything is written. It may raise.
        on_tensor: called with the name of every tensor when it begins.

    Raises:
        QuantizeError: if llama.cpp refuses or crashes.
    """

    def receive(message: object) -> None:
        if isinstance(message, Planned):
            on_planned(message.nbytes)
        elif isinstance(message, Started):
            on_tensor(message.name)

    run_in_child(f"quantizing {Path(job.source).name} with llama.cpp", _quantize, (job,), receive)


def _quantize(job: TextJob, send: Send) -> None:
    """The job in the child process."""
    reader = _LogReader(send)
    route_log(reader.receive)
    abi.check()
    params = llama.llama_model_quantize_default_params()
    params.nthread = job.threads
    params.ftype = job.file_type
    params.allow_requantize = job.allow_requantize
    params.max_buf_size = BUFFER_BYTES
    # The arrays must outlive the calls.
    arrays = (
        _imatrix_array(job.importance),
        _override_array(job.overrides),
        _key_array(job.imatrix),
    )
    if job.importance:
        params.imatrix = arrays[0]
    if job.overrides:
        params.tt_overrides = arrays[1]
    if job.imatrix is not None:
        params.kv_overrides = arrays[2]
    for dry_run in (True, False):
        params.dry_run = reader.dry_run = dry_run
        take_errors()
        if llama.llama_model_quantize(os.fsencode(job.source), os.fsencode(job.target), ctypes.byref(params)):
            raise QuantizeError(f"{job.source} could not be quantized: {take_errors() or 'llama.cpp gave no reason'}.")
        if dry_run:
            send(Planned(reader.planned))


class _LogReader:
    """Extracts progress from llama.cpp's log, and passes every line on."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.dry_run = True
        self.planned = 0

    def receive(self, message: object) -> None:
        """Take a line. The line of a tensor comes in pieces, its beginning first."""
        if isinstance(message, LogLine):
            tensor, size = _TENSOR_LINE.match(message.text), _SIZE_LINE.search(message.text)
            if size:
                self.planned = int(float(size[1]) * 2**20)
            if tensor and not self.dry_run:
                self._send(Started(tensor[1]))
            if self.dry_run and message.level < logging.WARNING:
                return
        self._send(message)


def _imatrix_array(importance: Mapping[str, npt.NDArray[np.float32]]) -> Any:
    """C structures that point into the arrays, terminated by one without a name."""
    entries = (llama.llama_model_imatrix_data * (len(importance) + 1))()
    for entry, (name, values) in zip(entries, importance.items(), strict=False):
        entry.name = name.encode()
        entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        entry.size = values.size
    return entries


def _override_array(overrides: Sequence[TypeOverride]) -> Any:
    entries = (llama.llama_model_tensor_override * (len(overrides) + 1))()
    for entry, override in zip(entries, overrides, strict=False):
        entry.pattern = override.pattern.encode()
        entry.type = int(override.element_type)
    return entries


def _key_array(imatrix: ImatrixSource | None) -> Any:
    """The keys of an importance matrix as llama-quantize writes them, terminated by an empty key."""
    if imatrix is None:
        return None
    values: dict[str, str | int] = {
        KEY_FILE: imatrix.file,
        KEY_DATASET: imatrix.dataset,
        KEY_ENTRIES: imatrix.entries,
        KEY_CHUNKS: imatrix.chunks,
    }
    entries = (llama.llama_model_kv_override * (len(values) + 1))()
    for entry, (key, value) in zip(entries, values.items(), strict=False):
        entry.key = key.encode()
        if isinstance(value, str):
            entry.tag = llama.LLAMA_KV_OVERRIDE_TYPE_STR
            entry.value.val_str = value.encode()[:_MAX_TEXT_BYTES].decode("utf-8", "ignore").encode()
        else:
            entry.tag = llama.LLAMA_KV_OVERRIDE_TYPE_INT
            entry.value.val_i64 = value
    return entries
