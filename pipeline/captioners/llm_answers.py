"""Questions put to a language model: paced, retried, judged; each answer is kept, so that none is asked for twice."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from schemas.atomic import write_json
from schemas.config import Llm
from schemas.errors import UserError
from schemas.foreign_text import is_utf8, parsed_json

REFUSAL = re.compile(
    r"(i['’]m |i am )?(very )?sorry\b|as an ai\b|i apologi[sz]e\b"
    r"|i (can['’]?t|cannot|can not|am not able|am unable|do not know|don['’]t know)\b|i['’]m (not able|unable)\b",
    re.IGNORECASE,
)
SENTENCE = re.compile(r"(?<=[.!?])[\"'”’)]*\s+(?=[\"'“‘(A-Z0-9])")
MARKS = re.compile(r"^(?:[-*•#>]+|\d+[.)])\s+|\*\*|__|`")


class Unusable(ValueError):
    """The model has answered, and the answer describes nothing. The message says why."""


class Failed(Exception):
    """No answer this time; the next attempt waits `wait` seconds, or as long as is usual."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


class NotAnAnswer(Failed):
    """Something came back that is no answer of a model."""


class NotUseful(Failed):
    """The model has answered, and not what was asked: it may at once be asked again."""

    def __init__(self, message: str) -> None:
        super().__init__(message, wait=0.0)


class Reply(NamedTuple):
    text: str
    asked: int = 0  # tokens
    answered: int = 0


class Asker(Protocol):
    identity: dict[str, Any]  # which model it is; answers are kept by it

    def ask(self, prompt: str, sample: int, attempt: int) -> Reply:
        """Raises Failed where another attempt may help, UserError where none will."""
        ...


@dataclass(frozen=True)
class Question:
    category: str
    prompt: str
    sample: int


@dataclass(frozen=True)
class Answer:
    question: Question
    text: str = ""  # tidied; empty where there is no usable one
    fault: str = ""  # why there is none
    raw: str = ""


def tidy(text: str, options: Llm) -> str:
    """The first sentences of an answer in one line, without markup.

    Raises Unusable when it is empty, a refusal, not words, or longer than `max_words`.
    """
    plain = " ".join(MARKS.sub("", line).strip() for line in text.strip().splitlines() if line.strip())
    plain = plain.strip().strip('"“”').strip()
    if not plain:
        raise Unusable("empty")
    if not is_utf8(plain):
        raise Unusable("not UTF-8")
    if REFUSAL.match(plain):
        raise Unusable("a refusal")
    if options.sentences:
        plain = " ".join(SENTENCE.split(plain)[: options.sentences])
    if not re.search(r"\w\w", plain) or plain[0] in "{[<":
        raise Unusable("not a description")
    if len(plain.split()) > options.max_words:
        raise Unusable(f"longer than {options.max_words} words")
    return plain


class Pace:
    """When the next request may go out: so many a minute, and not before a pause that a server asked for is over."""

    def __init__(
        self,
        per_minute: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self._between = 60 / per_minute if per_minute else 0.0  # seconds
        self._stopped, self._lock, self._reason = threading.Event(), threading.Lock(), UserError("stopped")
        self._clock, self._sleep, self._next = clock, sleep or self._stopped.wait, 0.0

    def wait(self) -> None:
        """Raises what stop() was called with: nobody asks for what is not wanted any more."""
        with self._lock:
            now = self._clock()
            turn = max(now, self._next)
            self._next = turn + self._between
        if turn > now:
            self._sleep(turn - now)
        if self._stopped.is_set():
            raise self._reason

    def pause(self, seconds: float) -> None:
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)

    def stop(self, reason: UserError | None = None) -> None:
        with self._lock:
            if not self._stopped.is_set():
                self._reason = reason or self._reason
                self._stopped.set()


class Cache:
    """Raw answers, a file each, named by everything that the answer depends on. What was written stays valid."""

    def __init__(self, folder: Path, identity: dict[str, Any], options: Llm) -> None:
        self._folder = folder
        self._identity = {**identity, "temperature": options.temperature, "max_tokens": options.max_tokens}

    def path(self, question: Question) -> Path:
        name = json.dumps([self._identity, question.prompt, question.sample], sort_keys=True)
        digest = hashlib.sha256(name.encode()).hexdigest()
        return self._folder / digest[:2] / f"{digest[2:34]}.json"

    def read(self, question: Question) -> Reply | None:
        try:
            kept = parsed_json(self.path(question).read_bytes())
            return Reply(kept["text"], kept["asked"], kept["answered"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, question: Question, reply: Reply) -> None:
        about = {**self._identity, "prompt": question.prompt, "sample": question.sample}
        write_json(self.path(question), {**about, **reply._asdict()})


def answer(question: Question, asker: Asker, cache: Cache, pace: Pace, options: Llm) -> Answer:
    """The answer kept for a question, else the model's; a useless one is asked for again `retries` times.

    Raises UserError when the model cannot be asked, or fails at every attempt.
    """
    kept = cache.read(question)
    if kept is not None:
        return judged(question, kept, options)
    replies: list[tuple[Reply, Answer]] = []
    numbers = count()

    def once() -> None:
        pace.wait()
        reply = asker.ask(question.prompt, question.sample, next(numbers))
        replies.append((reply, judged(question, reply, options)))
        if not replies[-1][1].text:
            raise NotUseful("the answer is of no use")

    attempts = Retrying(
        stop=stop_after_attempt(options.retries + 1),
        retry=retry_if_exception_type(Failed),
        wait=_waits(options.backoff),
        sleep=pace.pause,  # everyone's: it is the server that wants peace
        reraise=True,
    )
    fault: Failed | None = None
    try:
        attempts(once)
    except UserError as error:
        pace.stop(error)
        raise
    except Failed as error:
        fault = error
    if replies:
        cache.write(question, replies[-1][0])
        return replies[-1][1]
    assert fault is not None
    if isinstance(fault, NotAnAnswer):  # not kept: it was not the model that spoke
        return Answer(question, fault=str(fault))
    dead = UserError(
        f"no answer in {options.retries + 1} attempts: {fault}. The answers so far are kept: run again to go on"
    )
    pace.stop(dead)
    raise dead


def _waits(backoff: float) -> Callable[[RetryCallState], float]:
    """Seconds before the next attempt: as long as the failure says, else twice as long each time."""
    usual = wait_exponential(multiplier=backoff)

    def wait(state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.wait if isinstance(error, Failed) else None
        return usual(state) if asked is None else asked

    return wait


def judged(question: Question, reply: Reply, options: Llm) -> Answer:
    try:
        return Answer(question, tidy(reply.text, options))
    except Unusable as error:
        return Answer(question, fault=str(error), raw=reply.text[:500])
