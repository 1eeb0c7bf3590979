// A live list of the fleet's last events.

import { Refused, Unauthorized, events } from "./api.js";
import { clock, count, element, seconds, write } from "./words.js";

const KEPT = 200;
const RENDER_MS = 250;
const AGAIN_MS = 3000;
const KINDS = ["state", "dead", "slow", "gap", "malformed", "missed"];

const RETRYING = ["CONNECTING", "BACKOFF"];

const because = (error) => (error ? `: ${error}` : "");

/** The text of an event, which follows its time and kind. */
const SENTENCES = {
  state: (e) => {
    const wait = e.state === "BACKOFF" ? `, next attempt in ${seconds(e.delay_s)}` : "";
    return `${e.endpoint} ${e.previous} → ${e.state}${wait}${because(e.error)}`;
  },
  dead: (e) => `${named(e)} failed for message ${e.index} of ${e.endpoint || "this program"} after ${e.attempts} ${e.attempts === 1 ? "attempt" : "attempts"}${because(e.error)}`,
  slow: (e) => `${e.subscription} is full: ${count(e.pending)} waiting (${e.overflow})`,
  gap: (e) => {
    const silent = e.last_message_at ? `, without messages for ${seconds(e.at - e.last_message_at)}` : "";
    return `${e.endpoint} is open again after ${seconds(e.down_s)}${silent}; messages after ${e.last_index} may be missing`;
  },
  malformed: (e) => `${e.endpoint}: cannot decode message ${e.index}${because(e.error)}`,
  missed: (e) => `${e.count ? count(e.count) : "some"} events were skipped`,
};

const named = (e) => e.topic.split(".").slice(1).join(".");

export class Log {
  constructor(list, filter, state, { held, refused }) {
    Object.assign(this, { list, filter, state, held, refused, kept: [], running: false, due: null });
    filter.append(...KINDS.map((kind) => element("option", {}, kind)));
    filter.addEventListener("change", () => this.render());
  }

  /** Watch the event stream, and reopen it when it ends. */
  async start() {
    if (this.running) return;
    this.running = true;
    try {
      for (;;) {
        await this.watch();
        await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
      }
    } catch (error) {
      if (!(error instanceof Unauthorized)) throw error;
      write(this.state, "a token is required");
      this.refused();
    } finally {
      this.running = false;
    }
  }

  async watch() {
    try {
      for await (const event of events("api/events", () => write(this.state, "live"))) this.take(event);
      write(this.state, "the stream has ended; reconnecting");
    } catch (error) {
      if (error instanceof Unauthorized) throw error;
      write(this.state, error instanceof Refused ? error.message : "not connected; retrying");
    }
  }

  take({ event, data }) {
    if (!KINDS.includes(event)) return;
    const line = { kind: event, at: data?.at ?? Date.now() / 1000, text: SENTENCES[event](data ?? {}) };
    if (event === "state" && this.folds(line, data ?? {})) return;
    this.kept.unshift(line);
    this.kept.length = Math.min(this.kept.length, KEPT);
    this.due ??= setTimeout(() => this.render(), RENDER_MS);
  }

  /** Merge an endpoint's consecutive failures into one line with their number. Returns whether `line` is omitted. */
  folds(line, { endpoint, state }) {
    const before = this.kept.findIndex((each) => each.retries === endpoint);
    if (RETRYING.includes(state)) {
      if (before >= 0 && state === "CONNECTING") return true;
      const [{ failures }] = before < 0 ? [{ failures: 0 }] : this.kept.splice(before, 1);
      line.retries = endpoint;
      line.failures = failures + (state === "BACKOFF");
      if (line.failures > 1) line.text += ` (${count(line.failures)} times)`;
    } else if (before >= 0) {
      this.kept[before].retries = null;
    }
    return false;
  }

  /** Render the newest first. Several events are rendered together. */
  render() {
    clearTimeout(this.due);
    this.due = null;
    if (this.held()) return;
    const shown = this.kept.filter(({ kind }) => !this.filter.value || kind === this.filter.value);
    this.list.replaceChildren(...shown.map(({ kind, at, text }) =>
      element("li", { "data-kind": kind },
        element("time", {}, clock(at)), element("span", { class: "kind" }, kind), element("span", { class: "peer" }, text))));
  }
}
