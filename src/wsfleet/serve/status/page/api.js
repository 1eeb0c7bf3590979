// What the page asks of its own server, and of nobody else.

const PATIENCE_MS = 8000;
const RELOAD_MS = 120000;
/** A comment comes every 15 s: a stream that is silent for longer is dead. */
const SILENCE_MS = 40000;
const KEY = "wsfleet-token";

/** The server wants a token, or another one. */
export class Unauthorized extends Error {}

/** The server answered that it will not. */
export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

/** The token lives as long as the tab, and is never part of an address. */
export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

async function answer(path, signal, method = "GET") {
  const given = token.get();
  const headers = given ? { Authorization: `Bearer ${given}` } : {};
  const response = await fetch(path, { method, headers, signal, cache: "no-store", credentials: "omit", redirect: "error" });
  if (response.status === 401) {
    if (token.get() !== given) return answer(path, signal, method); // another one was entered meanwhile
    throw new Unauthorized();
  }
  return response;
}

async function request(path, signal) {
  const response = await answer(path, signal);
  if (!response.ok) throw new Refused(response.status, (await response.text()).slice(0, 300).trim());
  return response;
}

/** One JSON answer. `cancel` is an AbortSignal of who asks, who may no longer want to know. */
export async function get(path, query = {}, cancel = null) {
  const wanted = Object.entries(query).filter(([, value]) => value !== "" && value !== null);
  const address = wanted.length ? `${path}?${new URLSearchParams(wanted)}` : path;
  const patience = AbortSignal.timeout(PATIENCE_MS);
  return (await request(address, cancel ? AbortSignal.any([cancel, patience]) : patience)).json();
}

/** What the server makes of a wish to change something: its JSON, or what it says as text. */
export async function post(path) {
  const response = await answer(path, AbortSignal.timeout(RELOAD_MS), "POST");
  const text = (await response.text()).trim();
  const isJson = response.headers.get("content-type") === "application/json";
  return { ok: response.ok, answer: isJson ? JSON.parse(text) : null, text };
}

/** An answer as it is, whatever its status. */
export async function raw(path) {
  return (await answer(path, AbortSignal.timeout(PATIENCE_MS))).blob();
}

/**
 * Server-sent events, as `{event, data}`, until the stream ends. Read with fetch because EventSource cannot send a
 * token. `opened` is called once the server has said yes.
 */
export async function* events(path, opened) {
  const stop = new AbortController();
  let silence = setTimeout(() => stop.abort(), SILENCE_MS);
  try {
    const response = await request(path, stop.signal);
    opened();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    let event = {};
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      clearTimeout(silence);
      silence = setTimeout(() => stop.abort(), SILENCE_MS);
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const [field, text] = fieldOf(line.replace(/\r$/, ""));
        if (field === "event") event.event = text;
        else if (field === "data") event.data = event.data === undefined ? text : `${event.data}\n${text}`;
        else if (field === "" && event.data !== undefined) yield { event: event.event, data: JSON.parse(event.data) };
        if (field === "") event = {};
      }
    }
  } finally {
    clearTimeout(silence);
    stop.abort();
  }
}

/** A line's field and its value. An empty line has the field "", a comment none. */
function fieldOf(line) {
  if (line === "") return ["", ""];
  const colon = line.indexOf(":");
  if (colon === 0) return [null, line];
  if (colon < 0) return [line, ""];
  return [line.slice(0, colon), line.slice(colon + 1).replace(/^ /, "")];
}
