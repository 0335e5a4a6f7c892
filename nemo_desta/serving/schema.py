"""The requests of OpenAI's chat API that the server takes, as typed models, and the bodies that it answers with."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nemo_desta.serving.errors import ApiError, bad_request

# Fields that would change the answer and that this server has no way to honour: refused rather than ignored, unless they say "off".
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "tools": ([],),
    "functions": ([],),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
}


class InputAudio(BaseModel):
    """A clip inside the request."""

    data: str
    format: str = ""
    transcript: str | None = None  # as `ClipPart.transcript`


class AudioUrl(BaseModel):
    """A clip elsewhere: ``data:``, and where the server's owner allows it ``http(s):`` and ``file:``."""

    url: str
    transcript: str | None = None


class TextPart(BaseModel):
    """Words."""

    type: Literal["text"]
    text: str


class ClipPart(BaseModel):
    """What both kinds of audio part may say beside their clip, where vLLM passes it on too, or inside of it, which vLLM drops."""

    transcript: str | None = None  # an extension: the words to show beside the clip; "" = none; null = the server transcribes

    def _one_transcript(self, clip: InputAudio | AudioUrl) -> None:
        """Move the part's words into its clip.

        Raises:
            ValueError: the clip has others.
        """
        if None not in (self.transcript, clip.transcript) and self.transcript != clip.transcript:
            raise ValueError("two different transcripts, one beside and one inside the clip: give one")
        if self.transcript is not None:
            clip.transcript = self.transcript


class InputAudioPart(ClipPart):
    """OpenAI's audio part."""

    type: Literal["input_audio"]
    input_audio: InputAudio

    @model_validator(mode="after")
    def _words(self) -> Self:
        self._one_transcript(self.input_audio)
        return self


class AudioUrlPart(ClipPart):
    """vLLM's audio part."""

    type: Literal["audio_url"]
    audio_url: AudioUrl

    @model_validator(mode="after")
    def _words(self) -> Self:
        self._one_transcript(self.audio_url)
        return self


Part = Annotated[TextPart | InputAudioPart | AudioUrlPart, Field(discriminator="type")]


class ChatMessage(BaseModel):
    """One turn."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]


class StreamOptions(BaseModel):
    """Of a streamed answer."""

    include_usage: bool = False


class ChatRequest(BaseModel):
    """``POST /v1/chat/completions``."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    messages: list[ChatMessage] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None

    @property
    def stops(self) -> list[str]:
        """Texts that end the answer."""
        given = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [text for text in given if text]


def parse(body: bytes) -> ChatRequest:
    """A request's body.

    Raises:
        ApiError: 400; the message names the field.
    """
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        raise _from_validation(error) from error
    for name, off in _UNSUPPORTED.items():
        value = (request.model_extra or {}).get(name)
        if value is not None and value not in off:
            raise bad_request(f"{name}={value!r:.80} is not supported by this server: leave it out", code="unsupported_parameter", param=name)
    if len(request.stops) > 4:
        raise bad_request(f"{len(request.stops)} stop texts: at most 4 are taken", param="stop")
    return request


def _from_validation(error: ValidationError) -> ApiError:
    errors = error.errors(include_url=False, include_input=False)
    first = max(errors, key=lambda e: len(e["loc"]))  # of a union's complaints the one of the member that fits furthest
    if first["type"] == "json_invalid":
        return bad_request(f"the body is not valid JSON: {first['msg']}", code="invalid_json")
    # Names of union members stand in the path; they are no fields of the request.
    names = [str(p) for p in first["loc"] if p != "str" and not str(p).startswith("list[")]
    path = ".".join(name for i, name in enumerate(names) if i == 0 or name != names[i - 1]) or "body"
    return bad_request(f"{path}: {first['msg'].removeprefix('Value error, ')}", code="invalid_request", param=path)


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Token counts. A clip counts its query slots and its transcript's tokens as prompt."""
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": prompt_tokens + completion_tokens}


def completion(head: dict[str, Any], text: str, finish_reason: str, counts: dict[str, int], heard: list[dict[str, Any]]) -> dict[str, Any]:
    """A whole answer. ``nemo_desta.audio`` is an extension: the audio blocks and the transcripts shown to the model."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, "refusal": None}, "logprobs": None, "finish_reason": finish_reason}
    return head | {"object": "chat.completion", "choices": [choice], "usage": counts, "nemo_desta": {"audio": heard}}


def chunk(head: dict[str, Any], delta: dict[str, Any], finish_reason: str | None = None, **extra: Any) -> dict[str, Any]:
    """A piece of a streamed answer."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return head | {"object": "chat.completion.chunk", "choices": [choice]} | extra
