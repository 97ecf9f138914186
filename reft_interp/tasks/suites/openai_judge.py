"""A judge that asks a language model behind an OpenAI-compatible endpoint.

Next door: `judging` says what a judge is.
"""

import random
import re
import time
from collections.abc import Callable
from typing import Any

import httpx

from reft_interp.tasks.suites.judging import Judge, NoVerdict

_QUESTION = """Here are an instruction and two responses to it.

[Instruction]
{instruction}

[Response A]
{a}

[Response B]
{b}

Which response follows the instruction better: is it more helpful, correct and to the point? The \
order of the two means nothing. Reply with one word: A, B, or tie."""

_VERDICT = re.compile(
    r"""\W*(?:(?:the\s+)?(?:better\s+)?(?:response|output|answer|verdict|winner)\b(?:\s+is)?\W*)?
        (a|b|tie)\b(?:\W*|\W*is\s+better\W*|\W*[.:,]\s.*)""",
    re.IGNORECASE | re.VERBOSE,
)
"""A line that says which it is, perhaps with a reason behind it."""

_BUSY = (408, 429, 500, 502, 503, 504)


def openai_judge(
    url: str,
    model: str,
    key: str,
    *,
    seed: int = 0,
    retries: int = 4,
    wait: float = 1.0,
    timeout: float = 60.0,
) -> Judge:
    """A judge that shows a language model both responses, in an order that the seed draws.

    1 if the model prefers the output, 0 if it prefers the reference, 0.5 if it says tie. The
    order depends on the seed and the instruction alone, so that all systems are judged in the
    same one.

    Args:
        url: of the endpoint, up to and with its version, as in "https://api.openai.com/v1".
        model: which model is asked, at temperature 0.
        key: is sent as a bearer token, and is in no message and no name.
        seed: of the order.
        retries: how often a request is sent again where the server is busy or not reached.
        wait: seconds before the first of them; doubled each time.
        timeout: seconds after which a request counts as not reached.

    Returns:
        A judge, named after the model. It raises ConnectionError where the server refuses or is
        not reached, ValueError where its reply is none of a chat, and `NoVerdict` where neither
        the first nor the last line of that says which is better (the reply is shown).
    """
    endpoint = f"{url.rstrip('/')}/chat/completions"
    certificates = httpx.create_ssl_context()  # takes longer to read than many a reply

    def judge(instruction: str, output: str, reference: str) -> float:
        output_first = random.Random(f"{seed} {instruction}").random() < 0.5
        a, b = (output, reference) if output_first else (reference, output)
        question = _QUESTION.format(instruction=instruction, a=a, b=b)
        request = {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
        }
        response = _patiently(
            lambda: httpx.post(
                endpoint,
                json=request,
                headers={"Authorization": f"Bearer {key}"},
                timeout=timeout,
                verify=certificates,
            ),
            endpoint,
            retries,
            wait,
        )
        verdict = _verdict(response, endpoint)
        if verdict == "TIE":
            return 0.5
        return float((verdict == "A") == output_first)

    judge.__name__ = model
    return judge


def _patiently(
    send: Callable[[], httpx.Response], endpoint: str, retries: int, wait: float
) -> httpx.Response:
    problem = ""
    for attempt in range(retries + 1):
        if attempt:
            time.sleep(wait * 2 ** (attempt - 1))
        try:
            response = send()
        except httpx.TransportError as error:
            problem = f"{type(error).__name__}: {error}"
            continue
        if response.is_success:
            return response
        problem = f"status {response.status_code}: {response.text[:300]}"
        if response.status_code not in _BUSY:
            break
    raise ConnectionError(f"{endpoint} gave no verdict ({problem})")


def _verdict(response: httpx.Response, endpoint: str) -> str:
    try:
        reply: Any = response.json()["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"{endpoint} must reply as chat completions do, got {response.text[:300]!r}"
        ) from error
    lines = reply.strip().splitlines() if isinstance(reply, str) else []
    found = [_VERDICT.fullmatch(line) for line in (*lines[:1], *lines[-1:])]
    said = [one[1].upper() for one in found if one]
    if not said:
        raise NoVerdict(f"the judge must reply A, B or tie, it replied {reply!r}")
    return said[0]
