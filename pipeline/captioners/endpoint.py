"""An OpenAI-compatible endpoint, asked over HTTP. The key is sent to that address alone, and written nowhere."""

from __future__ import annotations

import asyncio
import email.utils
import os
import time
from typing import Any

import httpx

from pipeline.captioners.llm_answers import Failed, NotAnAnswer, Reply
from schemas.config import Llm
from schemas.errors import UserError
from schemas.foreign_text import parsed_json

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
        address = f"{(base or OPENAI).rstrip('/')}/chat/completions"
        try:
            self._url = httpx.URL(address)
        except httpx.InvalidURL:
            self._url = httpx.URL("")
        if self._url.scheme not in ("http", "https") or not self._url.host:
            raise UserError(f"{options.url_variable} is not an http(s) address")
        self.identity: dict[str, Any] = {"model": options.model}
        self._options, self._key = options, key
        self._tls = httpx.create_ssl_context()

    def ask(self, prompt: str, sample: int, attempt: int) -> Reply:
        """Raises Failed where another attempt may help, else UserError."""
        question = {
            "model": self._options.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": self._options.temperature,
            "max_tokens": self._options.max_tokens,
        }
        try:
            status, headers, body = asyncio.run(self._answered(question))
        except asyncio.TimeoutError:
            limit = self._options.deadline
            raise Failed(
                f"{self._url.host} has not answered in full within {limit:g} s (caption.llm.deadline)"
            ) from None
        except (httpx.HTTPError, OSError) as error:  # no connection, a time-out, a broken answer
            raise Failed(f"{self._url.host} does not answer: {self._hidden(_reason(error))}") from None
        text = self._hidden(body.decode("utf-8", "replace"))
        if status != 200:
            raise self._refused(status, headers, text)
        if len(body) > LARGEST:
            raise NotAnAnswer(f"an answer of more than {LARGEST} bytes")
        return _reply(text)

    async def _answered(self, question: dict[str, Any]) -> tuple[int, httpx.Headers, bytes]:
        """Status, headers and at most LARGEST + 1 bytes of what comes back. Redirects would carry the key elsewhere."""
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "tgmae"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        return await asyncio.wait_for(self._exchange(question, headers), self._options.deadline)

    async def _exchange(self, question: dict[str, Any], headers: dict[str, str]) -> tuple[int, httpx.Headers, bytes]:
        body = b""
        async with (
            httpx.AsyncClient(verify=self._tls, timeout=self._options.timeout, follow_redirects=False) as client,
            client.stream("POST", self._url, json=question, headers=headers) as response,
        ):
            async for part in response.aiter_bytes():
                body += part
                if len(body) > LARGEST:
                    break
            return response.status_code, response.headers, body[: LARGEST + 1]

    def _refused(self, status: int, headers: Any, body: str) -> Exception:
        answer = f"{self._url.host} answers {status}: {self._hidden(_message(body))[:300]}"
        if status not in PASSING:
            return UserError(f"{answer}. Check {self._options.url_variable}, {self._options.key_variable}, caption.llm")
        wait = retry_after(headers.get("Retry-After"), time.time())
        if wait is not None and wait > PATIENCE:
            return UserError(f"{answer}. It asks to wait {wait:.0f} s: run again then; the answers so far are kept")
        return Failed(answer, wait)

    def _hidden(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


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
        answer = parsed_json(body)
        choice = answer["choices"][0]
        text = choice["message"]["content"]
        usage = answer.get("usage") or {}
        counts = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise NotAnAnswer(f"not a chat completion: {' '.join(body.split())[:80]!r}") from None
    if text is not None and not isinstance(text, str):
        raise NotAnAnswer(f"a message that is no text: {str(text)[:80]!r}")
    return Reply(text or "", *counts)


def _reason(error: Exception) -> str:
    """What the system says at the bottom of it; else the library's words."""
    deepest: BaseException = error
    while deepest.__cause__ or deepest.__context__:
        deepest = deepest.__cause__ or deepest.__context__ or deepest
        if isinstance(deepest, OSError) and deepest.errno:
            return os.strerror(deepest.errno)
    return str(error) or type(error).__name__


def _message(body: str) -> str:
    """What the server says of an error: OpenAI's error.message, else the body."""
    try:
        answer = parsed_json(body)["error"]
        return str(answer["message"] if isinstance(answer, dict) else answer)
    except (ValueError, KeyError, TypeError):
        return " ".join(body.split())
