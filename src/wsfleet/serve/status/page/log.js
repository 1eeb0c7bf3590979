// The last events of the fleet, as they happen.

import { Refused, Unauthorized, events } from "./api.js";
import { clock, count, element, seconds, write } from "./words.js";

const KEPT = 200;
const RENDER_MS = 250;
const AGAIN_MS = 3000;
const KINDS = ["state", "dead", "slow", "gap", "malformed", "missed"];

const RETRYING = ["CONNECTING", "BACKOFF"];

const because = (error) => (error ? `: ${error}` : "");

/** What an event says, after its time and kind. */
const SENTENCES = {
  state: (e) => {
    const wait = e.state === "BACKOFF" ? `, again in ${seconds(e.delay_s)}` : "";
    return `${e.endpoint} ${e.previous} → ${e.state}${wait}${because(e.error)}`;
  },
  dead: (e) => `${named(e)} gave up message ${e.index} of ${e.endpoint || "this program"} after ${e.attempts} ${e.attempts === 1 ? "attempt" : "attempts"}${because(e.error)}`,
  slow: (e) => `${e.subscription} is full: ${count(e.pending)} waiting (${e.overflow})`,
  gap: (e) => `${e.endpoint} is back after ${seconds(e.down_s)}: what came after message ${e.last_index} is not known`,
  malformed: (e) => `${e.endpoint} sent message ${e.index} that cannot be decoded${because(e.error)}`,
  missed: (e) => `${e.count ? count(e.count) : "some"} events came too fast to be shown`,
};

const named = (e) => e.topic.split(".").slice(1).join(".");

export class Log {
  constructor(list, filter, state, { held, refused }) {
    Object.assign(this, { list, filter, state, held, refused, kept: [], running: false, due: null });
    filter.append(...KINDS.map((kind) => element("option", {}, kind)));
    filter.addEventListener("change", () => this.render());
  }

  /** Watch, and begin again where the stream ends. */
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
      write(this.state, "a token is needed");
      this.refused();
    } finally {
      this.running = false;
    }
  }

  async watch() {
    try {
      for await (const event of events("api/events", () => write(this.state, "live"))) this.take(event);
      write(this.state, "the stream has ended; connecting again");
    } catch (error) {
      if (error instanceof Unauthorized) throw error;
      write(this.state, error instanceof Refused ? error.message : "not connected; trying again");
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

  /** One line for all that an endpoint fails in a row: the last failure, and how many. True where it stays as it is. */
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

  /** Newest first. Many events at once are shown at once. */
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
