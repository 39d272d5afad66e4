"""The verdict: the word, bars of the categories, warnings and times."""

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QGridLayout, QLabel, QProgressBar, QVBoxLayout, QWidget

from visionward import DEFAULT_POLICY, Verdict
from visionward.quantities import count_text, duration_text

# White text on either has a contrast above 5, in light and in dark windows.
_COLOURS = {"safe": "#1b6e3c", "unsafe": "#b3261e"}
_STEPS = 1000


def time_text(verdict: Verdict) -> str:
    """The time of each stage."""
    times = verdict.timings_ms
    parts = [f"prompt {duration_text(times.prefill)}"]
    if verdict.tiles:
        where = f"{count_text(verdict.tiles, 'tile')} on {verdict.vision_backend}"
        parts.insert(0, f"vision {duration_text(times.preprocess + times.vision)}, {where}")
    return f"Time: {duration_text(times.total)} ({'; '.join(parts)})"


class ResultView(QWidget):
    """Shows one verdict, or that there is none."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self._threshold = threshold
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        self.word = QLabel(alignment=Qt.AlignmentFlag.AlignCenter)
        font = self.word.font()
        font.setPointSizeF(font.pointSizeF() * 1.8)
        font.setBold(True)
        self.word.setFont(font)
        layout.addWidget(self.word)
        self.score = QLabel(alignment=Qt.AlignmentFlag.AlignCenter)
        layout.addWidget(self.score)
        layout.addWidget(QLabel("P(category is named first | unsafe):"))
        layout.addLayout(self._make_bars())
        self.notes = QLabel(wordWrap=True)
        self.notes.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        layout.addWidget(self.notes)
        layout.addStretch()
        self.clear()

    def _make_bars(self) -> QGridLayout:
        grid = QGridLayout()
        grid.setVerticalSpacing(3)
        self.bars: dict[str, QProgressBar] = {}
        self._values: dict[str, QLabel] = {}
        for row, category in enumerate(DEFAULT_POLICY.categories):
            bar = QProgressBar(minimum=0, maximum=_STEPS, textVisible=False)
            bar.setMaximumHeight(12)
            value = QLabel()
            grid.addWidget(QLabel(f"{category.code}  {category.name}"), row, 0)
            grid.addWidget(bar, row, 1)
            grid.addWidget(value, row, 2)
            self.bars[category.code], self._values[category.code] = bar, value
        grid.setColumnStretch(1, 1)
        grid.setColumnMinimumWidth(2, 44)
        return grid

    def clear(self) -> None:
        """Show that there is no verdict."""
        self._set_word("No verdict", "")
        self.score.clear()
        self.notes.clear()
        for code in self.bars:
            self._set_bar(code, None)

    def show_verdict(self, verdict: Verdict) -> None:
        """Show a verdict."""
        self._set_word(verdict.verdict.upper(), _COLOURS[verdict.verdict])
        self.score.setText(f"P(unsafe) {verdict.score:.3f}, threshold {self._threshold:g}")
        named = {category.code: category.score for category in verdict.categories}
        for code in self.bars:
            self._set_bar(code, named.get(code, verdict.category_scores.get(code)))
        notes = [f"Named: {', '.join(named)}"] if named else []
        notes += [f"Note: {warning}" for warning in verdict.warnings]
        self.notes.setText("\n".join([*notes, time_text(verdict)]))

    def _set_word(self, word: str, colour: str) -> None:
        self.word.setText(word)
        self.word.setAccessibleName(f"Verdict: {word}")
        style = f"background: {colour}; color: white; border-radius: 6px; padding: 6px" if colour else "padding: 6px"
        self.word.setStyleSheet(f"QLabel {{ {style} }}")

    def _set_bar(self, code: str, score: float | None) -> None:
        text = "" if score is None else f"{score:.3f}"
        self.bars[code].setValue(round(_STEPS * (score or 0)))
        self.bars[code].setAccessibleName(f"{code}: {text or 'no score'}")
        self._values[code].setText(text)
