"""visionward: `python -m benchmarks.peers.visionward_contestant --text T.gguf --mmproj M.gguf --prompt P.json`.

Classifies each image, and then the same image again, which the image cache knows. Seconds are those of the verdict's
own timings; decoding and preprocessing the image are left out, as they are for the others, and so are the categories.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.peers import cpu, cpuid_mask, measure
from benchmarks.peers.inputs import Inputs, image, read_inputs

# Engines for the tower with kernels that no switch restricts.
UNRESTRICTED = {
    "onnx": "ONNX Runtime's kernels have no switch but for AMX",
    "openvino": "OpenVINO's MLAS kernels have no switch but for AMX",
}


def load(options: argparse.Namespace) -> Any:
    from visionward import Guard  # noqa: PLC0415 - the environment must be set before

    extra: dict[str, Any] = {"gpu_layers": 0} if options.device is None else {"device": options.device}
    if options.vision_backend is not None:
        extra["vision_backend"] = options.vision_backend
    if options.onnx_tower is not None:
        extra["onnx_tower"] = options.onnx_tower
    if options.attention is not None:
        use_attention(options.attention)
    return Guard.load(options.text, options.mmproj, threads=options.threads, kernels=options.kernels, **extra)


def use_attention(kind: str) -> None:
    """Attention in the tower, the cross-attention layers and the decoder by ``flash`` attention or two ``products``.

    The engine has no option for it: on a GPU it takes products, and flash attention in the decoder alone.
    """
    from visionward.runtime.decoder import decoder  # noqa: PLC0415
    from visionward.runtime.ggml import ggml, graph  # noqa: PLC0415

    flash = kind == "flash"

    def attention(self: Any, q: int, k: int, v: int, bias: int | None = None) -> int:
        if not flash:
            return self._two_product_attention(q, k, v, bias)  # type: ignore[no-any-return]
        fields = ggml.struct_of(q)
        width, rows, heads = int(fields.ne[0]), int(fields.ne[1]), int(fields.ne[2])
        mixed = ggml.flash_attn_ext(self.context, q, k, v, bias, width**-0.5, 0.0, 0.0)
        return int(ggml.reshape_2d(self.context, mixed, width * heads, rows))

    graph.Graph.attention = attention  # type: ignore[method-assign]
    start = decoder.Decoder.__init__

    def begin(self: Any, *arguments: Any, **options: Any) -> None:
        start(self, *arguments, **{**options, "flash_attention": flash})

    decoder.Decoder.__init__ = begin  # type: ignore[method-assign]


def leave_categories_out() -> None:
    """Random weights answer neither word, and reading their categories would take longer than the verdict."""
    from visionward.runtime.guard import judgement  # noqa: PLC0415

    judgement._read_categories = lambda *_arguments: judgement._Findings()  # noqa: SLF001


def check_prompt(guard: Any, inputs: Inputs) -> None:
    """Check that this pair tokenizes the prompt as the others get it."""
    from visionward.runtime.guard.chat_template import ChatTemplate  # noqa: PLC0415
    from visionward.runtime.guard.conversation import Conversation  # noqa: PLC0415
    from visionward.runtime.guard.prompt import tokenize  # noqa: PLC0415

    model = guard.engine.model
    template = ChatTemplate(model.chat_template, special_tokens=model.special_tokens)
    tokens = tokenize(template.render(Conversation.from_prompt(inputs.user, None, image(1, 0))), model)
    if tokens != inputs.tokens:
        raise ValueError(
            f"{model.path} makes {len(tokens)} other tokens of the prompt: was it converted from another checkpoint "
            "than the prompt was made for?"
        )


def classify(guard: Any, user: str, tiles: int, seed: int) -> dict[str, float]:
    """One classification: seconds by stage."""
    verdict = guard.classify(image=image(tiles, seed), prompt=user)
    if verdict.tiles != tiles:
        raise ValueError(f"the image took {verdict.tiles} tiles where {tiles} were wanted.")
    timings = verdict.timings_ms
    stages = {name: getattr(timings, name) / 1000 for name in ("preprocess", "vision", "prefill")}
    return {**stages, "whole": stages["vision"] + stages["prefill"]}


def measure_image(guard: Any, inputs: Inputs, tiles: int, runs: int) -> dict[str, Any]:
    """Runs on images that are new each time, and again on the last of them."""
    first = [classify(guard, inputs.user, tiles, seed) for seed in range(1, runs + 1)]
    tokens = [token(guard, inputs, tiles, seed) for seed in range(1, runs + 1)]
    again = classify(guard, inputs.user, tiles, runs)
    seconds = {
        f"{ours}_s": measure.median([one[stage] for one in first])
        for ours, stage in (("preprocess", "preprocess"), ("vision", "vision"), ("text", "prefill"), ("whole", "whole"))
    }
    return {**seconds, "token_s": measure.median(tokens), "again_s": again["whole"]}


def token(guard: Any, inputs: Inputs, tiles: int, seed: int) -> float:
    """Seconds of one more token behind the prompt."""
    engine = guard.engine
    cut = engine.tile(image(tiles, seed))

    def job() -> float:
        with engine.evaluate(cut) as evaluation:
            evaluation.prefill(inputs.tokens)
            return measure.timed(lambda: evaluation.extend(inputs.tokens[-1:]))[0]

    return float(engine.run(job))


def check_llama(limit: str) -> str:
    import llama_cpp  # noqa: PLC0415

    return cpu.check_llama(limit, llama_cpp.llama_print_system_info().decode())


def check_engine(limit: str, backend: str | None) -> None:
    """Refuse an engine for the tower that may use more than a row allows.

    Raises:
        LimitError: if it may.
    """
    if limit == "AVX2" and backend in UNRESTRICTED and not cpuid_mask.is_loaded():
        raise cpu.LimitError(
            f"{UNRESTRICTED[backend]} and may use AVX-512: in this row, vision backend {backend} needs --cpuid-mask."
        )


def check_use(limit: str, watch: cpuid_mask.Avx512Watch) -> None:
    """Check that the system saw no AVX-512 where it is not allowed.

    Without the mask the C library uses it for its own functions, so only masked rows are checked.

    Raises:
        LimitError: if it did.
    """
    if limit == "AVX2" and cpuid_mask.is_loaded() and (threads := watch.threads()):
        raise cpu.LimitError(f"{len(threads)} threads used AVX-512, which {limit} does not allow.")


def check_tower(limit: str, engine: Any) -> dict[str, str]:
    """What the engine of the tower says that it uses: OpenVINO names the kernel of every node that it compiled.

    oneDNN's own messages would be simpler, but with them OpenVINO 2026.4 cannot compile towers of f16 and int8.

    Raises:
        LimitError: if it is more than the row allows.
    """
    if engine.vision_backend != "openvino":
        return {}
    nodes = engine.tower._session._compiled.get_runtime_model().get_ops()  # noqa: SLF001
    kernels = {node.get_rt_info()["primitiveType"].astype(str) for node in nodes}
    named = {kernel for kernel in kernels if not kernel.startswith(("unknown", "ref", "undef"))}
    cpu.check_kernels(limit, named)
    return {"OpenVINO": " ".join(sorted(named))}


def compete(options: argparse.Namespace, inputs: Inputs) -> dict[str, Any]:
    """Load, classify, and say what was measured."""
    check_engine(options.limit, options.vision_backend)
    features = check_llama(options.limit)
    loading, guard = measure.timed(lambda: load(options))
    with guard:
        leave_categories_out()
        check_prompt(guard, inputs)
        check_engine(options.limit, guard.engine.vision_backend)
        if options.warm_up:
            classify(guard, inputs.user, min(options.images), 0)
        watch = cpuid_mask.Avx512Watch()
        images = {tiles: measure_image(guard, inputs, tiles, options.runs) for tiles in options.images}
        check_use(options.limit, watch)
        engine = guard.engine
        layers = {"self": engine.model.identity.layers, "cross": len(engine.config.cross_attention.layers)}
        model = [options.text.stem, options.mmproj.stem]
        if engine.vision_backend in UNRESTRICTED and options.onnx_tower is not None:
            model.append(options.onnx_tower.stem)
        return {
            "model": ", ".join(model),
            "versions": measure.versions("visionward", "llama-cpp-python"),
            "backend": engine.vision_backend,
            "devices": engine.device_name,
            "warnings": list(engine.warnings),
            "prompt_tokens": len(inputs.tokens),
            "layers": layers,
            "load_s": loading,
            "images": images,
            "says": {
                "llama.cpp": features,
                **check_tower(options.limit, engine),
                **({"cpuid": "answered without AVX-512"} if cpuid_mask.is_loaded() else {}),
            },
        }


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--mmproj", type=Path, required=True)
    parser.add_argument("--vision-backend", help="passed to Guard.load; not at all unless given")
    parser.add_argument("--kernels", choices=["plain", "packed"], default="plain")
    parser.add_argument("--onnx-tower", type=Path)
    parser.add_argument("--device", help="passed to Guard.load; the CPU alone unless given")
    parser.add_argument("--attention", choices=["flash", "products"], help="the engine's own choice unless given")
    options = parser.parse_args()
    with measure.Contest(options, "visionward") as contest:
        results = compete(options, read_inputs(options.prompt))
        free = None if options.limit == "AVX2" else UNRESTRICTED.get(results["backend"])
        contest.finish(**results, unrestricted=free)


if __name__ == "__main__":
    main()
