"""A report's page as the tests read it, and what they write pages of."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

from jaxcnn import config
from jaxcnn.config import DataConfig, Experiment, ModelConfig, TrainingConfig
from jaxcnn.run import Metrics

LENET = Experiment(
    name="lenet5_digits",
    model=ModelConfig("lenet5", {"activation": "relu", "pooling": "max"}),
    data=DataConfig("digits", image_size=28, batch_size=240),
    training=TrainingConfig(epochs=2, log_every=2),
)
SCORES = {"slow": [0.50, 0.60], "fast": [0.80, 0.84]}
"""Accuracies of the arms of a study, by seed."""


class Reader(HTMLParser):
    """What the tests ask of a page: its elements with their attributes, and the text of each section."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, str] = {"": ""}
        self.json: list[object] = []
        self._section, self._script = "", ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = {name: value or "" for name, value in attrs}
        self.elements.append((tag, found))
        if tag == "section":
            self._section = found["id"]
            self.texts[self._section] = ""
        self._script = found.get("type", "own") if tag in ("script", "style") else ""

    def handle_endtag(self, tag):
        if tag == "section":
            self._section = ""
        self.texts[self._section] += " "
        self._script = ""

    def handle_data(self, data):
        if self._script == "application/json":
            self.json.append(json.loads(data))
        elif not self._script:
            self.texts[self._section] += data.replace("\u00a0", " ")

    def text(self, section):
        return " ".join(self.texts[section].split())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def write_study(folder: Path) -> None:
    """Writes a study's directory, in which one seed of one arm has not ended."""
    arms = {arm: config.to_json(Experiment(training=TrainingConfig(epochs=i + 1))) for i, arm in enumerate(SCORES)}
    texts = {"name": "rates", "question": "Which is <better>?", "source": "none", "caption": "Read & see."}
    for arm, values in SCORES.items():
        for seed, top1 in enumerate(values):
            run = folder / arm / f"seed-{seed}"
            run.mkdir(parents=True)
            for step in (1, 2):
                for split in ("train", "test"):
                    Metrics(run / "metrics.jsonl").append({"step": step, "split": split, "loss": 1.0, "top1": top1})
            Metrics(run / "outcome.jsonl").append({"step": 2, "outcome": "finished"})
    (folder / "fast" / "seed-2").mkdir()
    (folder / "study.json").write_text(json.dumps({**texts, "scale": "quick", "arms": arms}))
