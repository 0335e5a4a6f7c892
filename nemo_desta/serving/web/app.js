"use strict";
/* The page: a clip, a question, a streamed answer. Talks to /v1 of its own server only. */

const $ = (id) => document.getElementById(id);
const SENT_AS_IS = ["wav", "mp3", "flac", "ogg"];
let clip = null;        // {data: base64, format, name}
let recording = null;   // {recorder, pieces}
let running = null;     // AbortController of the answer that is being streamed

function say(message) {
  $("error").hidden = !message;
  $("error").textContent = message || "";
}

function headers() {
  const key = $("key").value.trim();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function connect() {
  try {
    const answer = await fetch("v1/models", { headers: headers() });
    if (answer.status === 401) { $("model").textContent = "this server asks for an API key (see Settings)"; return; }
    const body = await answer.json();
    $("model").textContent = body.data[0].id;
  } catch { $("model").textContent = "the server does not answer"; }
}

function clearClip() {
  clip = null;
  $("pictures").hidden = $("clear").hidden = true;
  if ($("player").src) URL.revokeObjectURL($("player").src);
  $("player").removeAttribute("src");
  $("file").value = "";
  $("clipname").textContent = "no clip: the language model answers alone";
}

/** Show a clip. What the server reads is sent as it is, other formats are decoded here; a file that neither can read goes to the server, which says what is wrong. */
async function takeClip(blob, name) {
  clearClip();
  say("");
  const bytes = new Uint8Array(await blob.arrayBuffer()), ending = (name.split(".").pop() || "").toLowerCase();
  let samples = null;
  try { samples = await samplesOf(bytes); } catch { /* pictures are not possible */ }
  if (SENT_AS_IS.includes(ending) || !samples) clip = { data: base64(bytes), format: SENT_AS_IS.includes(ending) ? ending : "wav", name };
  else clip = { data: base64(wavBytes(samples, 16000)), format: "wav", name };
  $("clear").hidden = false;
  $("clipname").textContent = samples ? `${name}, ${(samples.length / 16000).toFixed(1)} s` : `${name} (cannot be shown)`;
  if (!samples) return;
  $("pictures").hidden = false;
  $("scale").textContent = `0 to ${(samples.length / 16000).toFixed(1)} s from left to right; spectrogram from 0 to 8 kHz`;
  $("player").src = URL.createObjectURL(blob);
  drawWaveform($("waveform"), samples);
  drawSpectrogram($("spectrogram"), samples);
}

async function toggleRecording() {
  if (recording) { recording.recorder.stop(); return; }
  say("");
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    const recorder = new MediaRecorder(stream), pieces = [];
    recorder.ondataavailable = (event) => pieces.push(event.data);
    recorder.onstop = async () => {
      stream.getTracks().forEach((track) => track.stop());
      recording = null;
      $("record").textContent = "record";
      $("record").classList.remove("on");
      await takeClip(new Blob(pieces, { type: recorder.mimeType }), "recording");
    };
    recorder.start();
    recording = { recorder };
    $("record").textContent = "stop recording";
    $("record").classList.add("on");
  } catch (error) { say(`The microphone cannot be used: ${error.message || error}. Browsers allow it on https:// and on localhost only.`); }
}

function requestBody() {
  const messages = [], content = [], system = $("system").value.trim(), transcript = $("transcript").value.trim();
  if (system) messages.push({ role: "system", content: system });
  if (clip) content.push({ type: "input_audio", input_audio: { data: clip.data, format: clip.format }, ...(transcript && { transcript }) });
  content.push({ type: "text", text: $("question").value });
  messages.push({ role: "user", content });
  return {
    messages, stream: true, stream_options: { include_usage: true },
    temperature: Number($("temperature").value) || 0, max_tokens: Math.max(1, Number($("tokens").value) || 256),
  };
}

/** The data of each server-sent event of a response. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const pieces = text.split("\n\n");
    text = pieces.pop();
    for (const piece of pieces) if (piece.startsWith("data: ")) yield piece.slice(6);
  }
}

function showBlocks(blocks) {
  $("blocks").replaceChildren(...blocks.map((block) => {
    const item = document.createElement("li");
    item.textContent = `${block.start.toFixed(1)} – ${block.end.toFixed(1)} s: ${block.transcript || "(no words)"}`;
    return item;
  }));
  if (!blocks.length) $("blocks").textContent = "no audio in this request";
}

async function ask(event) {
  event.preventDefault();
  if (running) return;
  say("");
  running = new AbortController();
  $("ask").disabled = true;
  $("stop").hidden = $("result").hidden = false;
  $("answer").textContent = "";
  $("figures").textContent = "listening …";
  $("blocks").replaceChildren();
  const began = performance.now();
  let first = null;
  try {
    const response = await fetch("v1/chat/completions", {
      method: "POST", headers: { "Content-Type": "application/json", ...headers() }, body: JSON.stringify(requestBody()), signal: running.signal,
    });
    if (!response.ok) throw new Error((await response.json().catch(() => null))?.error?.message || `The server answered with status ${response.status}.`);
    for await (const data of events(response)) {
      if (data === "[DONE]") break;
      const part = JSON.parse(data);
      if (part.error) throw new Error(part.error.message);
      if (part.nemo_desta) showBlocks(part.nemo_desta.audio);
      const text = part.choices?.[0]?.delta?.content;
      if (text) { first ??= performance.now(); $("answer").textContent += text; $("figures").textContent = "answering …"; }
      if (part.usage) {
        const seconds = (performance.now() - began) / 1000;
        $("figures").textContent = `${part.usage.prompt_tokens} prompt tokens, ${part.usage.completion_tokens} in the answer, ${seconds.toFixed(1)} s`
          + (first ? `, first text after ${((first - began) / 1000).toFixed(1)} s` : "");
      }
    }
  } catch (error) {
    $("figures").textContent = "stopped";
    if (error.name !== "AbortError") { say(error.message); if (!$("answer").textContent) $("result").hidden = true; }
  } finally {
    running = null;
    $("ask").disabled = false;
    $("stop").hidden = true;
  }
}

$("form").addEventListener("submit", ask);
$("stop").addEventListener("click", () => running?.abort());
$("record").addEventListener("click", toggleRecording);
$("clear").addEventListener("click", clearClip);
$("key").addEventListener("change", connect);
$("file").addEventListener("change", () => { const file = $("file").files[0]; if (file) takeClip(file, file.name); });
for (const name of ["dragover", "dragleave", "drop"]) $("drop").addEventListener(name, (event) => {
  event.preventDefault();
  $("drop").classList.toggle("over", name === "dragover");
  const file = name === "drop" && event.dataTransfer.files[0];
  if (file) takeClip(file, file.name);
});
connect();
