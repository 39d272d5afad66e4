"""mistral.rs: `python -m benchmarks.peers.mistralrs_contestant --checkpoint DIR --prompt P.json`.

Quantizes while loading. A request is answered with one token, so that its time is that of a classification, with its
preprocessing. mistral.rs does not tell vision from text: the same prompt is also read without an image, which skips the
cross-attention layers, and that is what a checkpoint of fewer layers is extrapolated by. Its package has an environment
of its own; the script needs numpy and Pillow beside it.
"""

import argparse
import base64
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.peers import measure
from benchmarks.peers.inputs import IMAGE_TOKEN, Inputs, image_png, read_inputs

# The prompt goes in as it was rendered for the others.
TEMPLATE = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}{% endfor %}"
)


def request(inputs: Inputs, tiles: int, seed: int) -> Any:
    """The prompt with an image; without one if there are no tiles."""
    from mistralrs import ChatCompletionRequest  # noqa: PLC0415 - the environment must be set before

    if not tiles:
        content: Any = inputs.text.replace(IMAGE_TOKEN, "")
    else:
        url = "data:image/png;base64," + base64.b64encode(image_png(tiles, seed)).decode()
        content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": inputs.text}]
    return ChatCompletionRequest(
        model="default", messages=[{"role": "user", "content": content}], max_tokens=1, temperature=0.0
    )


def ask(runner: Any, inputs: Inputs, tiles: int, seed: int) -> dict[str, float]:
    """One request: seconds and tokens of the prompt."""
    given = request(inputs, tiles, seed)
    seconds, response = measure.timed(lambda: runner.send_chat_completion_request(given))
    usage = response.usage
    return {"whole": seconds, "prompt": usage.total_prompt_time_sec, "tokens": usage.prompt_tokens}


def load(checkpoint: Path, quantization: str) -> Any:
    from mistralrs import MultimodalArchitecture, Runner, Which  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        template = Path(folder) / "template.jinja"
        template.write_text(TEMPLATE, encoding="utf-8")
        return Runner(
            which=Which.MultimodalPlain(model_id=str(checkpoint), arch=MultimodalArchitecture.VLlama),
            in_situ_quant=quantization,
            jinja_explicit=str(template),
            prefix_cache_n=0,
            max_seqs=1,
            token_source="none",  # noqa: S106
        )


def compete(options: argparse.Namespace, inputs: Inputs) -> dict[str, Any]:
    """Load, ask, and say what was measured."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    loading, runner = measure.timed(lambda: load(options.checkpoint, options.quantization))
    if options.warm_up:
        ask(runner, inputs, min(options.images), 0)
    images, tokens = {}, set()
    for tiles in options.images:
        runs = [ask(runner, inputs, tiles, seed) for seed in range(1, options.runs + 1)]
        images[tiles] = {"whole_s": measure.median([run["whole"] for run in runs])}
        tokens |= {run["tokens"] for run in runs}
    ask(runner, inputs, 0, 0)
    alone = measure.median([ask(runner, inputs, 0, 0)["whole"] for _ in range(options.runs)])
    if tokens != {len(inputs.tokens)}:
        raise ValueError(f"mistral.rs made {sorted(tokens)} tokens of the prompt, {len(inputs.tokens)} were wanted.")
    text = json.loads((options.checkpoint / "config.json").read_text(encoding="utf-8"))["text_config"]
    cross = len(text["cross_attention_layers"])
    return {
        "model": options.quantization,
        "versions": measure.versions("mistralrs"),
        "prompt_tokens": len(inputs.tokens),
        "layers": {"self": text["num_hidden_layers"] - cross, "cross": cross},
        "load_s": loading,
        "images": images,
        "text_alone_s": alone,
        "says": {},
    }


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--quantization", default="Q4K")
    options = parser.parse_args()
    with measure.Contest(options, "mistralrs") as contest:
        results = compete(options, read_inputs(options.prompt))
        contest.finish(**results, unrestricted="mistral.rs has no switch for instruction sets")


if __name__ == "__main__":
    main()
