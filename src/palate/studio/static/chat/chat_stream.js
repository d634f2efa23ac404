// Server-sent events over fetch: EventSource can neither POST nor send a header.

import { RequestFailed } from "../web/palate.js";

const csrf = document.querySelector("meta[name=csrf]").content;

// yields {event, data} until the server ends the stream
export async function* stream(method, path, body) {
  const headers = { Accept: "text/event-stream", "Content-Type": "application/json", "X-CSRF-Token": csrf };
  let response;
  try {
    response = await fetch(path, { method, headers, credentials: "same-origin", body: body && JSON.stringify(body) });
  } catch {
    throw new RequestFailed(0, "The server cannot be reached. What you wrote is still here; try again.");
  }
  if (!response.ok) {
    const told = await response.json().catch(() => null);
    const message = response.status === 401 ? "You were signed out. Sign in again in another tab, then repeat this." : told?.error;
    throw new RequestFailed(response.status, message ?? `The server answered ${response.status}.`);
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const event = parse(block);
      if (event) yield event;
    }
  }
}

function parse(block) {
  const found = { event: "message", data: "" };
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) found.event = line.slice(7);
    else if (line.startsWith("data: ")) found.data += line.slice(6);
  }
  return found.data ? { event: found.event, data: JSON.parse(found.data) } : null; // comments keep the line open
}
