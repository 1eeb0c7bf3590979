// Requests of the page to its own server. It uses no other server.

const TIMEOUT_MS = 8000;
const RELOAD_MS = 120000;
/** The server sends a comment every 15 s, so a stream that is silent for this time is dead. */
const SILENCE_MS = 40000;
const KEY = "wsfleet-token";

/** The server requires a token, or rejected it. */
export class Unauthorized extends Error {}

/** The server answered with another error status. */
export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

/** The token is kept until the tab is closed, and is never part of a URL. */
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

/** Get a JSON answer. `cancel` is an optional AbortSignal of the caller. */
export async function get(path, query = {}, cancel = null) {
  const parameters = Object.entries(query).filter(([, value]) => value !== "" && value !== null);
  const address = parameters.length ? `${path}?${new URLSearchParams(parameters)}` : path;
  const timeout = AbortSignal.timeout(TIMEOUT_MS);
  return (await request(address, cancel ? AbortSignal.any([cancel, timeout]) : timeout)).json();
}

/** Send a POST request. Returns the answer as JSON or as text. */
export async function post(path) {
  const response = await answer(path, AbortSignal.timeout(RELOAD_MS), "POST");
  const text = (await response.text()).trim();
  const isJson = response.headers.get("content-type") === "application/json";
  return { ok: response.ok, answer: isJson ? JSON.parse(text) : null, text };
}

/** Get an answer unchanged, whatever its status. */
export async function raw(path) {
  return (await answer(path, AbortSignal.timeout(TIMEOUT_MS))).blob();
}

/**
 * Yield server-sent events as `{event, data}` until the stream ends. Uses fetch because EventSource cannot send a
 * token. `opened` is called when the server has accepted the request.
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

/** Split a line into field and value. An empty line has the field "", a comment has null. */
function fieldOf(line) {
  if (line === "") return ["", ""];
  const colon = line.indexOf(":");
  if (colon === 0) return [null, line];
  if (colon < 0) return [line, ""];
  return [line.slice(0, colon), line.slice(colon + 1).replace(/^ /, "")];
}
