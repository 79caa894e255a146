"""The `llm` source: descriptions of each class by a language model (Table 6a), which never sees a video.

They come from an endpoint, from a model run here, or from a JSON file {class: [texts]} made elsewhere: the files that
CuPL publishes (github.com/sarahpratt/CuPL, all_prompts) are of that form.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.captioners import NoCaption, NoLabel, RowSource, TimedText, seed_of
from pipeline.captioners.label_words import joined, spoken
from pipeline.captioners.llm_answers import Answer, Asker, Cache, Pace, Question, Reply, answer, judged
from pipeline.runtime.units import Row
from schemas.config import Experiment, Llm
from schemas.errors import UserError
from schemas.foreign_text import parsed_json, shown
from schemas.progress import Progress
from schemas.workspace import Workspace

LETTERS = 4  # about as many to a token
WRAPPING = 8  # tokens that a chat message costs apart from its text, about


@dataclass(frozen=True)
class Descriptions:
    """The descriptions of each class, and which answers were of no use and why."""

    texts: dict[str, list[str]]
    rejected: list[dict[str, Any]] = field(default_factory=list)


class LlmCaptioner:
    """Each video gets `per_video` of its class's descriptions, drawn by seed and video, so that a class of many videos
    uses them all; 0: every one of them."""

    def __init__(self, descriptions: Descriptions, per_video: int, seed: int) -> None:
        self._texts, self._per_video, self._seed = descriptions.texts, per_video, seed

    def describe(self, row: Row) -> list[TimedText]:
        """Raises NoLabel for a video without a label's text, NoCaption for one of a class without a description."""
        name = row["label_text"]
        if not name:
            raise NoLabel("no caption: the manifest has no label text for this video")
        texts = self._texts.get(name, [])
        if not texts:
            raise NoCaption(f"there is no usable description of {name!r}")
        wanted = min(self._per_video or len(texts), len(texts))
        chosen = random.Random(seed_of(self._seed, row["video_id"])).sample(range(len(texts)), wanted)
        return [TimedText(texts[number]) for number in sorted(chosen)]


def llm_source(experiment: Experiment, manifest: list[Row]) -> RowSource:
    """Raises UserError when the descriptions cannot be read, or the model cannot be asked."""
    options, cache = experiment.caption.llm, Workspace(Path(experiment.workspace)).root / "cache" / "llm"
    classes = sorted({row["label_text"] for row in manifest if row["label_text"]})
    if options.file:
        told = read_descriptions(Path(options.file), classes, options)
    elif options.local:
        from pipeline.captioners.local_llm import LocalModel

        options = options.model_copy(update={"concurrency": 1})  # one model, one random state
        told = ask_descriptions(LocalModel(options), classes, Path(options.cache or cache), options)
    else:
        from pipeline.captioners.endpoint import Endpoint

        told = ask_descriptions(Endpoint(options), classes, Path(options.cache or cache), options)
    notes = {"descriptions.json": told.texts, "rejected.json": told.rejected}
    content = {name: f"{json.dumps(value, indent=1, ensure_ascii=False)}\n".encode() for name, value in notes.items()}
    return RowSource(LlmCaptioner(told, options.per_video, experiment.caption.seed), content)


def read_descriptions(path: Path, classes: Sequence[str], options: Llm) -> Descriptions:
    """Descriptions made elsewhere, those that describe something; each is used whole, however many sentences it has.

    Classes are joined by name, else by their letters, whatever case and blanks.
    Raises UserError when the file is not JSON of the form {class: [texts]}.
    """
    try:
        content = parsed_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"caption.llm.file: {path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict) or not all(
        isinstance(texts, list) and all(isinstance(text, str) for text in texts) for texts in content.values()
    ):
        raise UserError(f"caption.llm.file: {path} is not of the form {{class: [texts]}}")
    loose = {joined(name): name for name in content}
    found = {name: name if name in content else loose.get(joined(name)) for name in classes}
    whole = options.model_copy(update={"sentences": 0})
    told = _collected(
        [
            judged(Question(name, path.name, number), Reply(text), whole)
            for name, key in found.items()
            for number, text in enumerate(content[key] if key is not None else [])
        ],
        classes,
    )
    missing = [name for name in classes if not told.texts[name]]
    if missing:
        some = ", ".join(map(repr, missing[:3])) + (", ..." if len(missing) > 3 else "")
        said = f"llm: {path.name} has no description of {len(missing)} of {len(classes)} classes ({some})"
        print(shown(said), file=sys.stderr)
    return told


def ask_descriptions(asker: Asker, classes: Sequence[str], folder: Path, options: Llm) -> Descriptions:
    """Puts every prompt about every class `samples` times to the model; what `folder` holds is not asked again.

    Says on stderr beforehand what it will cost. Raises UserError when a prompt has no place for the class, when more
    than `max_requests` are needed, or when the model cannot be asked.
    """
    wrong = [prompt for prompt in options.prompts if "{}" not in prompt]
    if wrong or not options.prompts:
        raise UserError(f"caption.llm.prompts: {wrong[0]!r} has no {{}} for the class" if wrong else "no prompts")
    questions = [
        Question(name, prompt.replace("{}", spoken(name)), sample)
        for name in classes
        for prompt in options.prompts
        for sample in range(options.samples)
    ]
    cache = Cache(folder, asker.identity, options)
    due = [question for question in questions if cache.read(question) is None]
    print(estimate(questions, due, asker.identity["model"], options), file=sys.stderr)
    if options.max_requests and len(due) > options.max_requests:
        raise UserError(
            f"{len(due)} requests are more than caption.llm.max_requests = {options.max_requests}: raise it, "
            "or lower caption.llm.samples"
        )
    pace = Pace(options.requests_per_minute)
    done: list[Answer] = []
    with ThreadPoolExecutor(options.concurrency) as pool:
        waiting = [pool.submit(answer, question, asker, cache, pace, options) for question in questions]
        try:
            with Progress("llm", len(waiting), unit="answer", hidden=not due) as progress:
                for result in waiting:
                    done.append(result.result())
                    progress.advance()
        except BaseException:
            pace.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return _collected(done, classes)


def estimate(questions: Sequence[Question], due: Sequence[Question], model: str, options: Llm) -> str:
    sent = sum(len(question.prompt) // LETTERS + WRAPPING for question in due)
    received = len(due) * options.max_tokens
    text = (
        f"llm: {len(questions)} answers of {model}, {len(questions) - len(due)} of them kept from before: "
        f"{len(due)} requests, about {sent} tokens to send and at most {received} to receive"
    )
    if any(options.price):
        text += f", at most ${(sent * options.price[0] + received * options.price[1]) / 1e6:.2f}"
    return text


def _collected(answers: Sequence[Answer], classes: Sequence[str]) -> Descriptions:
    texts: dict[str, list[str]] = {name: [] for name in classes}
    rejected = []
    for each in answers:
        if each.text:
            texts[each.question.category].append(each.text)
        else:
            about = {"class": each.question.category, "prompt": each.question.prompt, "sample": each.question.sample}
            rejected.append({**about, "fault": each.fault, "answer": each.raw})
    if rejected:
        print(f"llm: {len(rejected)} of {len(answers)} answers are of no use; rejected.json says why", file=sys.stderr)
    return Descriptions({name: _distinct(said) for name, said in texts.items()}, rejected)


def _distinct(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(text for text in (" ".join(text.split()) for text in texts) if text))
