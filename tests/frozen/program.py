"""The program that the tests freeze, without ``if __name__ == "__main__":``. Its answer is one line of JSON."""

import json
import os
import sys
from pathlib import Path

folder = Path(sys.argv[1])
with (folder / "starts").open("a", encoding="utf-8") as file:
    file.write("x")

import visionward  # noqa: E402 - the start is counted first

answer = {"frozen": getattr(sys, "frozen", False)}
try:
    from visionward import Guard, GuardProcess
    from visionward.convert.demo_guard import demo_pair
    from visionward.convert.onnx_file import export_tower
    from visionward.demonstration import demo_samples_path
    from visionward.diagnose.environment import PACKAGES
    from visionward.diagnose.system_report import system_report
    from visionward.quant.quantize import quantize_file

    image = demo_samples_path().parent / "picture_1_2_tiles.jpg"
    question = {"image": image, "prompt": "How do I draw the moon?", "category_scores": True}

    def judged(guard):
        """What must be equal, bit by bit."""
        with guard:
            verdict = guard.classify(**question)
        return [verdict.verdict, verdict.score.hex(), [one.code for one in verdict.categories], verdict.vision_backend]

    options = {"threads": 1, "n_ctx": 1024, "gpu_layers": 0}
    answer["demo"] = judged(Guard.demo(vision_backend="ggml", **options))
    answer["process"] = judged(GuardProcess.demo(vision_backend="ggml", **options))
    pair = demo_pair()
    tower = export_tower(pair.mmproj, folder / "tower.onnx", weight_type="int8", overwrite=True)
    text = quantize_file(pair.text, folder / "text-q4_k_m.gguf", "q4_k_m", overwrite=True).path
    small = {"vision_backend": "onnx", "onnx_tower": tower, **options}
    answer["q4_k_m"] = judged(GuardProcess.load(text, pair.mmproj, **small))
    report = system_report(fresh=True)
    answer["versions"] = {name: report.packages[name] for name in PACKAGES}
    answer["advice"] = [line for line in report.advice if "not installed" in line]
    answer["kernels"] = {result.kernel: result.status for result in report.kernels}
except visionward.VisionwardError as error:
    answer["error"] = f"{type(error).__name__}: {error}"
maps = Path("/proc/self/maps")
if maps.exists():
    lines = maps.read_text(encoding="utf-8").splitlines()
    files = {line.split(None, 5)[-1] for line in lines if "ggml" in line or "llama" in line}
    answer["mapped"] = sorted(os.path.relpath(path, Path(sys.executable).parent) for path in files if "/" in path)
print(json.dumps(answer))  # noqa: T201
