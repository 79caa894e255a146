"""An OpenAI-compatible endpoint, asked over HTTP. The key is sent to that address alone, and written nowhere."""

from __future__ import annotations

import email.utils
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from pipeline.captioners.answers import Failed, NotAnAnswer, Reply
from schemas.config import Llm
from schemas.errors import UserError

OPENAI = "https://api.openai.com/v1"
LARGEST = 1 << 20  # bytes of an answer
PASSING = (408, 409, 425, 429, 500, 502, 503, 504, 529)  # statuses that a later attempt may not meet
PATIENCE = 600.0  # seconds: the longest Retry-After that is waited for


class Endpoint:
    """POST BASE/chat/completions, a request an answer: not every server knows `n`."""

    def __init__(self, options: Llm) -> None:
        """Reads address and key from the environment. Raises UserError where they are not usable."""
        base = os.environ.get(options.url_variable, "").strip()
        key = os.environ.get(options.key_variable, "").strip()
        if not base and not key:
            raise UserError(
                f"captions = 'llm' asks an OpenAI-compatible endpoint: set {options.key_variable} (and "
                f"{options.url_variable} for another than OpenAI's), or caption.llm.file, or caption.llm.local"
            )
        if not (key.isascii() and key.isprintable()):
            raise UserError(f"{options.key_variable} holds characters that no key has")
        self._url = urlsplit(f"{(base or OPENAI).rstrip('/')}/chat/completions")
        if self._url.scheme not in ("http", "https") or not self._url.hostname:
            raise UserError(f"{options.url_variable} is not an http(s) address")
        self.identity: dict[str, Any] = {"model": options.model}
        self._options, self._key = options, key
        self._opener = urllib.request.build_opener(_NoRedirect)

    def ask(self, prompt: str, sample: int, attempt: int) -> Reply:
        """Raises Failed where another attempt may help, else UserError."""
        question = {
            "model": self._options.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": self._options.temperature,
            "max_tokens": self._options.max_tokens,
        }
        headers = {"Content-Type": "application/json", "Accept": "application/json", "User-Agent": "tgmae"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self._url.geturl(), json.dumps(question).encode(), headers, method="POST")
        try:
            with self._opener.open(request, timeout=self._options.timeout) as response:
                body = response.read(LARGEST + 1)
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error.code, error.headers, _body(error)) from None
        except (OSError, http.client.HTTPException) as error:  # no connection, a time-out, a broken answer
            reason = getattr(error, "reason", error)
            raise Failed(
                f"{self._url.hostname} does not answer: {self._hidden(str(reason)) or type(error).__name__}"
            ) from None
        return _reply(self._hidden(body.decode("utf-8", "replace")))

    def _refused(self, status: int, headers: Any, body: str) -> Exception:
        said = f"{self._url.hostname} answers {status}: {self._hidden(_message(body))[:300]}"
        if status not in PASSING:
            return UserError(f"{said}. Check {self._options.url_variable}, {self._options.key_variable}, caption.llm")
        wait = retry_after(headers.get("Retry-After"), time.time())
        if wait is not None and wait > PATIENCE:
            return UserError(f"{said}. It asks to wait {wait:.0f} s: run again then; the answers so far are kept")
        return Failed(said, wait)

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would carry the key to wherever a redirect leads."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds to wait: the header's number, or the time to its date. None where it says nothing."""
    try:
        return max(0.0, float(value or ""))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value or "").timestamp() - now)
    except (ValueError, TypeError):
        return None


def _reply(body: str) -> Reply:
    try:
        answer = json.loads(body)
        choice = answer["choices"][0]
        text = choice["message"]["content"]
        usage = answer.get("usage") or {}
        counts = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise NotAnAnswer(f"not a chat completion: {' '.join(body.split())[:80]!r}") from None
    if text is not None and not isinstance(text, str):
        raise NotAnAnswer(f"a message that is no text: {str(text)[:80]!r}")
    return Reply(text or "", *counts)


def _body(error: urllib.error.HTTPError) -> str:
    try:
        return error.read(LARGEST).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return ""


def _message(body: str) -> str:
    """What the server says of an error: OpenAI's error.message, else the body."""
    try:
        said = json.loads(body)["error"]
        return str(said["message"] if isinstance(said, dict) else said)
    except (ValueError, KeyError, TypeError):
        return " ".join(body.split())
