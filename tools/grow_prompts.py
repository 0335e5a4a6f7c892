"""Grow the prompt pool with any LLM; what it writes is checked against the pool and reviewed by you before it is used.

With a server that speaks the OpenAI protocol (vLLM, llama.cpp, ...)::

    python tools/grow_prompts.py --domain speech --kind reasoning --requires transcript --count 40 \
        --endpoint http://localhost:8000/v1 --model my-model --out grown.yaml

With a local transformers model, on a CPU::

    python tools/grow_prompts.py --domain speech --kind attribute --attribute gender --count 10 --local path/or/id --out grown.yaml

The key of a server, if it wants one, is read from the environment variable OPENAI_API_KEY.
"""

import argparse
import json
import os
import random
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import yaml

from nemo_desta.seed.prompts import COMPARISON, DOMAINS, KINDS, NEAR_DUPLICATE, Prompt, PromptPool, load_pool, nearest, normalise, parse_group, read_prompts

Ask = Callable[[str, int], str]
"""(request, seed) -> the model's answer."""

_TASK = {
    "attribute": "a short, direct question that asks for the clip's {attribute} and for nothing else",
    "description": "a request to describe the clip",
    "reasoning": "a question whose answer needs reasoning or world knowledge besides the clip",
    "instruction": "a request with a checkable constraint on the form of the answer (length, format, words)",
    "roleplay": "a request to answer in a role",
    "conversation": "what a person would say in a conversation about the clip, or a request to reply to it",
}
_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s*")
_LONGEST, _SHORTEST = 30, 2  # words of a prompt
_PER_REQUEST = 10


def request_text(group: dict, examples: list[str]) -> str:
    """Return what the LLM is asked: the task, what the clip offers, examples, and the form of the answer."""
    subject = {"speech": "a speech recording", "sound": "a recording of a sound", "music": "a music recording", "any": "any audio clip"}[group["domain"]]
    known = ", ".join([*([group["attribute"]] if group.get("attribute") else []), *group["requires"]]) or "no more than its type"
    task = _TASK[group["kind"]].format(attribute=(group.get("attribute") or "").replace("_", " "))
    shown = "\n".join(f"- {example}" for example in examples)
    return (
        f"Write {_PER_REQUEST} new prompts that a person could give together with {subject}. Each one is {task}. "
        f"It must be answerable by someone who knows of the clip: {known}. Do not state the answer. Differ from the examples in wording and in idea.\n\n"
        f"Examples:\n{shown}\n\nAnswer with {_PER_REQUEST} lines, one prompt a line, no numbers, no comments."
    )


def parse_answer(answer: str) -> list[str]:
    """Return the prompts of an answer: one a line, without bullets, numbers and quotation marks."""
    lines = (_BULLET.sub("", line).strip().strip('"“”').strip() for line in answer.splitlines())
    return [line for line in lines if line]


def refuse(text: str, group: dict, known: list[str]) -> str | None:
    """Return why a prompt is not taken, or None when it is good.

    Args:
        text: the candidate.
        group: keys ``domain``, ``kind``, ``attribute``, ``requires`` of the group it would join.
        known: texts of the pool and of the prompts taken so far.
    """
    words = normalise(text).split()
    if not _SHORTEST <= len(words) <= _LONGEST:
        return "length"
    if "<|" in text or any(ord(c) < 32 for c in text):
        return "control characters"
    if text[-1] not in ".?!" and not text.endswith('"'):
        return "no sentence end"
    if not any(c.isalpha() and c.isascii() for c in text):
        return "not English"
    if group["kind"] == "attribute" and len(words) > 16:
        return "too long for an attribute question"
    return "near duplicate" if nearest(text, known)[0] >= NEAR_DUPLICATE else None


def grow(ask: Ask, pool: PromptPool, group: dict, count: int, *, seed: int = 0, max_requests: int = 40) -> tuple[list[str], dict[str, int]]:
    """Collect new prompts for one group.

    Args:
        ask: the LLM.
        pool: prompts that exist; the new ones must differ from all of them.
        group: keys ``domain``, ``kind``, ``attribute`` (or None), ``requires``.
        count: prompts wanted.
        seed: of the choice of examples and of the LLM's sampling.
        max_requests: gives up after so many requests.

    Returns:
        At most `count` prompts, and the number of candidates refused by reason.
    """
    same = [p.text for p in pool if p.kind == group["kind"] and p.attribute == group.get("attribute") and p.domain in (group["domain"], "any")]
    same = same or [p.text for p in pool if p.kind == group["kind"]]
    known: list[str] = [p.text for p in pool]
    taken: list[str] = []
    refused: dict[str, int] = {}
    rng = random.Random(seed)
    for turn in range(max_requests):
        if len(taken) >= count:
            break
        examples = rng.sample(same + taken, min(5, len(same + taken)))
        for text in parse_answer(ask(request_text(group, examples), seed + turn)):
            if reason := refuse(text, group, known):
                refused[reason] = refused.get(reason, 0) + 1
            else:
                taken.append(text)
                known.append(text)
    return taken[:count], refused


def endpoint_model(url: str, model: str, temperature: float, timeout: float) -> Ask:
    """Return an :data:`Ask` for an OpenAI-compatible chat endpoint (`url` ends in ``/v1``)."""
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("OPENAI_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"

    def ask(text: str, seed: int) -> str:
        body = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": temperature, "seed": seed, "max_tokens": 800}
        request = urllib.request.Request(f"{url.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return str(json.load(response)["choices"][0]["message"]["content"])
        except (urllib.error.URLError, KeyError, json.JSONDecodeError) as error:
            raise SystemExit(f"{url} gave no answer ({error}): is the server up, and is its model named {model!r}?") from error

    return ask


def local_model(path: str, temperature: float) -> Ask:
    """Return an :data:`Ask` for a transformers chat model on this machine."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path).eval()

    def ask(text: str, seed: int) -> str:
        torch.manual_seed(seed)
        chat = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt", return_dict=True)
        sampling = {"do_sample": True, "temperature": temperature, "top_p": 0.95} if temperature > 0 else {"do_sample": False}
        with torch.inference_mode():
            ids = model.generate(**chat, max_new_tokens=400, pad_token_id=tokenizer.eos_token_id, **sampling)
        return str(tokenizer.decode(ids[0, chat["input_ids"].shape[1] :], skip_special_tokens=True))

    return ask


def group_entry(name: str, group: dict, texts: list[str]) -> dict:
    """Return a group as a pool file holds it."""
    return {"group": name, **{key: value for key, value in group.items() if value}, "prompts": texts}


def write_group(path: Path, name: str, group: dict, texts: list[str]) -> list[Prompt]:
    """Append a group to a YAML file and read the whole file back through the pool's own checks.

    Raises:
        ValueError: the file would not be a valid prompt file; it is left as it was.
    """
    groups = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else []
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(yaml.safe_dump([*(groups or []), group_entry(name, group, texts)], sort_keys=False, allow_unicode=True, width=200), encoding="utf-8")
    try:
        prompts = read_prompts(draft)
    except ValueError:
        draft.unlink()
        raise
    draft.replace(path)
    return prompts


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--domain", choices=DOMAINS, required=True)
    parser.add_argument("--kind", choices=[kind for kind in KINDS if kind != COMPARISON], required=True)
    parser.add_argument("--attribute", help="for kind attribute: what is asked")
    parser.add_argument("--requires", nargs="*", default=[], help="attributes a clip must have")
    parser.add_argument("--count", type=int, default=20, help="prompts wanted")
    parser.add_argument("--group", help="name of the new group (default: grown-<domain>-<attribute or kind>)")
    parser.add_argument("--pool", nargs="*", help="prompt files that exist (default: the shipped pool); --out counts too")
    parser.add_argument("--endpoint", help="OpenAI-compatible server, e.g. http://localhost:8000/v1")
    parser.add_argument("--model", default="", help="name of the model on that server")
    parser.add_argument("--local", help="transformers model: directory or id")
    parser.add_argument("--temperature", type=float, default=0.9)
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds to wait for the server")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="YAML file to append to")
    args = parser.parse_args(argv)
    if bool(args.endpoint) == bool(args.local):
        parser.error("give one of --endpoint and --local")
    if (args.kind == "attribute") != bool(args.attribute):
        parser.error("--attribute goes with --kind attribute, and only with it")
    group = {"domain": args.domain, "kind": args.kind, "attribute": args.attribute, "requires": args.requires}
    name = args.group or f"grown-{args.domain}-{(args.attribute or args.kind).replace('_', '-')}"
    try:  # before the LLM has worked for an hour
        parse_group(args.out, 0, group_entry(name, group, ["Is this a good group?"]))
        pool = PromptPool(tuple([*load_pool(args.pool), *(read_prompts(args.out) if args.out.exists() else [])]))
        args.out.parent.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    ask = endpoint_model(args.endpoint, args.model, args.temperature, args.timeout) if args.endpoint else local_model(args.local, args.temperature)
    texts, refused = grow(ask, pool, group, args.count, seed=args.seed)
    if texts:
        write_group(args.out, name, group, texts)
    print(f"{len(texts)} new prompts in {args.out}; refused: {refused or 'none'}. Read them before you use them.")
    return 0 if texts else 1


if __name__ == "__main__":
    sys.exit(main())
