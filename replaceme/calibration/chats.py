"""What a row of a data set says: a text, or the messages of a chat in the form that templates expect."""

from __future__ import annotations

import json
from typing import Any

Messages = list[dict[str, Any]]
WHO = ("role", "from")
WHAT = ("content", "value", "text")
NESTED = ("messages", "conversations", "conversation")
NEEDED = "needed are role and content, or from and value"
ALIASES = {
    "user": ("user", "human", "prompter"),
    "assistant": (
        *("assistant", "gpt", "model", "bot", "chatbot", "ai", "chatgpt", "gpt4", "gpt-4"),
        *("bard", "bing", "claude", "gemini", "llama", "function_call"),
    ),
    "system": ("system",),
    "tool": ("tool", "function", "observation", "ipython", "tool_response", "function_response"),
}
ROLES = {alias: role for role, aliases in ALIASES.items() for alias in aliases}
ONLY_WHERE_KNOWN = {"developer": "system"}  # newer templates have it; to others it is the system's


class UnusableError(ValueError):
    """Why a row cannot be used, as the end of a sentence about it."""


def said_in(value: Any) -> str | Messages:
    """The text or the messages in a value of the calibration column; empty where it holds nothing.

    Messages have ``role`` and ``content`` (a text) and keep what else they say; the from/value form of
    ShareGPT, content in parts, and messages as JSON or one level deeper are brought into that form.

    Raises:
        UnusableError: it is something else.
    """
    if isinstance(value, str):
        return _check_text(value) if (messages := _as_json(value)) is None else said_in(messages)
    if isinstance(value, dict):
        value = _unwrap(value)
    if value is None or value in ([], {}):
        return ""
    if not isinstance(value, list):
        raise UnusableError(f"it holds {type(value).__name__}")
    if not all(isinstance(message, dict) for message in value):
        odd = next(message for message in value if not isinstance(message, dict))
        raise UnusableError(f"it holds a list with {type(odd).__name__}")
    messages = [_message(message) for message in value]
    return messages if any(m["content"].strip() or m.get("tool_calls") for m in messages) else ""


def _as_json(text: str) -> Messages | None:
    """Messages that a text holds as JSON, if it does."""
    if not text.lstrip().startswith("[{"):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if all(_has(message, WHO) and _has(message, WHAT) for message in value) else None


def _has(message: Any, keys: tuple[str, ...]) -> bool:
    return isinstance(message, dict) and any(key in message for key in keys)


def _unwrap(value: dict[str, Any]) -> Any:
    """The list of messages in an object: below a key, in columns, or the object as the only message."""
    for key in NESTED:
        if isinstance(value.get(key), list):
            return value[key]
    if not _has(value, WHO):
        raise UnusableError(f"it holds an object with {', '.join(map(str, value))}")
    if not any(isinstance(value.get(key), list) for key in WHO):
        return [value]
    columns = {key: part for key, part in value.items() if isinstance(part, list)}
    try:
        rows = list(zip(*columns.values(), strict=True))
    except ValueError:
        raise UnusableError("it holds lists of different lengths") from None
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _message(message: dict[str, Any]) -> dict[str, Any]:
    said = _without_nulls(message)
    who = next((said.pop(key) for key in WHO if key in said), None)
    key = next((key for key in WHAT if key in message), None)
    if who is None or (key is None and "tool_calls" not in said):
        raise UnusableError(f"it holds messages with {', '.join(map(str, message))}; {NEEDED}")
    if not isinstance(who, str):
        raise UnusableError(f"it holds a message whose role is {type(who).__name__}")
    content = said.pop(key, "") if key else ""
    return {"role": who.strip().lower(), "content": _text(content), **said}


def _text(content: Any) -> str:
    """Content as one text; its parts are lines."""
    if isinstance(content, str):
        return _check_text(content)
    if not isinstance(content, list):
        raise UnusableError(f"it holds a message whose content is {type(content).__name__}")
    return "\n".join(_part(part) for part in content)


def _part(part: Any) -> str:
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return _check_text(part["text"])
    if not isinstance(part, str):
        kind = part.get("type", "no type") if isinstance(part, dict) else type(part).__name__
        raise UnusableError(f"it holds a message with a part that is no text ({kind})")
    return _check_text(part)


def _check_text(text: str) -> str:
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise UnusableError("it holds half of a character")
    return text


def _without_nulls(value: Any) -> Any:
    """Without keys that a typed table filled up."""
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value


def with_known_roles(messages: Messages, template: str) -> Messages:
    """The same with roles that the template knows.

    Raises:
        UnusableError: a role that has no meaning here.
    """
    return [message | {"role": _role(message["role"], template)} for message in messages]


def _role(role: str, template: str) -> str:
    named = any(f"{quote}{role}{quote}" in template for quote in "'\"")
    if named and role not in (*ALIASES["user"], *ALIASES["assistant"]):
        return role
    if (known := ROLES.get(role) or ONLY_WHERE_KNOWN.get(role)) is None:
        raise UnusableError(f"it holds a message of {role!r}; allowed are {', '.join(ALIASES)}")
    return known


def without_system(messages: Messages) -> Messages | None:
    """The same with the first system turn at the head of the user's turn behind it, if there is one."""
    if len(messages) < 2 or [message["role"] for message in messages[:2]] != ["system", "user"]:
        return None
    system, user = messages[:2]
    both = "\n\n".join(part for part in (system["content"], user["content"]) if part)
    return [user | {"content": both}, *messages[2:]]
