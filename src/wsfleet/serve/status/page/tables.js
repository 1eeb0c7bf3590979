// A table that the server searches, sorts and pages, so that only the visible rows are sent.

import { Refused, Unauthorized, get } from "./api.js";
import { NONE, bytes, clock, count, duration, element, seconds, write } from "./words.js";

const TYPING_MS = 200;

const shown = (value) => (value === "" || value === null || value === undefined ? NONE : String(value));
const text = (field, label, rank = "") => ({ field, label, rank, of: (row) => shown(row[field]) });
const number = (field, label, rank = "", as = count) => ({ field, label, rank, numeric: true, of: (row) => as(row[field]) });

/** On a narrow screen, columns with the `rank` "minor" are hidden first, then those with "middle". */
export const ENDPOINT_COLUMNS = [
  text("name", "Name", "name"),
  text("state", "State", "state"),
  { ...number("down_since", "Down since", "minor", (at) => (at ? clock(at) : NONE)) },
  number("latency_s", "Latency", "middle", seconds),
  number("received", "Received"),
  number("received_bytes", "Bytes", "minor", bytes),
  number("sent", "Sent", "minor"),
  number("connects", "Connects", "middle"),
  number("losses", "Losses", "middle"),
  number("recent_losses", "Last minute", "minor"),
  number("malformed", "Malformed", "minor"),
  { ...number("paused_s", "Paused", "minor", (s) => (s >= 1 ? duration(s) : seconds(s))) },
  text("last_error", "Last error", "long middle"),
];

export const SUBSCRIPTION_COLUMNS = [
  text("name", "Name", "name"),
  text("pattern", "Pattern", "middle peer"),
  text("overflow", "When full", "minor"),
  number("pending", "Waiting"),
  number("pending_bytes", "Bytes", "minor", bytes),
  number("offered", "Offered", "minor"),
  number("processed", "Processed", "middle"),
  number("failed", "Failed", "middle"),
  number("dropped", "Dropped"),
  { ...number("pausing_s", "Pausing", "minor", (s) => (s >= 1 ? duration(s) : seconds(s))) },
];

export class Table {
  /** `words` are the singular and plural of a row's name; `open` is called with a row to show its details. */
  constructor(root, path, columns, { words, states = [], sort = "name", open, failed }) {
    Object.assign(this, { root, path, columns, words, open, failed });
    this.query = { search: "", state: "", sort, order: "asc", offset: 0, limit: 50 };
    this.rows = [];
    this.matched = 0;
    this.asked = null;
    root.append(document.querySelector("#table").content.cloneNode(true));
    this.find = (selector) => root.querySelector(selector);
    this.table = this.find("table");
    this.table.setAttribute("aria-labelledby", root.getAttribute("aria-labelledby"));
    this.find("nav").setAttribute("aria-label", `Pages of ${words[1]}`);
    this.head();
    this.controls(states);
    this.watch();
  }

  head() {
    this.headings = this.columns.map(({ field, label, rank, numeric }) => {
      const button = element("button", { type: "button" }, label);
      const heading = element("th", { scope: "col", class: `${rank}${numeric ? " number" : ""}` }, button);
      button.addEventListener("click", () => this.sort(field, numeric));
      return heading;
    });
    this.find("thead tr").append(...this.headings);
    this.markSort();
  }

  controls(states) {
    const search = this.find(".search");
    let typing;
    search.addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(() => this.change({ search: search.value.trim() }), TYPING_MS);
    });
    const filter = this.find(".state");
    filter.append(element("option", { value: "" }, "all"), ...states.map((state) => element("option", {}, state)));
    filter.addEventListener("change", () => this.change({ state: filter.value }));
    this.find(".state-filter").hidden = states.length === 0;
    const size = this.find(".size");
    size.addEventListener("change", () => this.change({ limit: Number(size.value) }));
    const turn = { first: () => 0, back: (q) => q.offset - q.limit, next: (q) => q.offset + q.limit, last: () => this.lastOffset() };
    for (const [name, to] of Object.entries(turn)) {
      this.find(`.${name}`).addEventListener("click", () => this.change({ offset: Math.max(0, to(this.query)) }));
    }
  }

  /** Load rows only while the table is visible. */
  watch() {
    this.visible = false;
    new IntersectionObserver((entries) => {
      this.visible = entries.at(-1).isIntersecting;
      if (this.visible && !this.table.tBodies[0].rows.length) this.load();
    }, { rootMargin: "300px" }).observe(this.root);
  }

  /** Show only the endpoints in one state. Called by the buttons of the states. */
  filter(state) {
    this.find(".state").value = state;
    this.find(".search").value = "";
    this.change({ state, search: "" });
  }

  sort(field, numeric) {
    const { sort, order } = this.query;
    const first = numeric ? "desc" : "asc";
    const other = order === "asc" ? "desc" : "asc";
    this.change({ sort: field, order: sort === field ? other : first });
    this.markSort();
  }

  markSort() {
    this.headings.forEach((heading, i) => {
      if (this.columns[i].field !== this.query.sort) heading.removeAttribute("aria-sort");
      else heading.setAttribute("aria-sort", this.query.order === "asc" ? "ascending" : "descending");
    });
  }

  change(part) {
    Object.assign(this.query, { offset: 0 }, part);
    return this.load();
  }

  lastOffset() {
    return Math.max(0, Math.ceil(this.matched / this.query.limit) - 1) * this.query.limit;
  }

  refresh() {
    return this.visible && !this.asked ? this.load() : undefined;
  }

  /** Load the rows of the current query. A newer request aborts an older one. */
  async load() {
    this.asked?.abort();
    const asked = (this.asked = new AbortController());
    try {
      const answer = await get(this.path, this.query, asked.signal);
      if (asked !== this.asked) return;
      this.matched = answer.matched;
      if (answer.matched && answer.offset >= answer.matched) {
        this.query.offset = this.lastOffset();
        this.asked = null;
        await this.load();
        return;
      }
      this.show(answer);
    } catch (error) {
      if (asked !== this.asked) return;
      if (error instanceof Unauthorized) this.failed(error);
      else this.say(error instanceof Refused ? error.message : "No answer; retrying.");
    } finally {
      if (asked === this.asked) this.asked = null;
    }
  }

  show({ rows, total, matched, offset }) {
    this.rows = rows;
    const body = this.table.tBodies[0];
    while (body.rows.length > rows.length) body.lastChild.remove();
    while (body.rows.length < rows.length) body.append(this.line(body.rows.length));
    rows.forEach((row, at) => this.fill(body.rows[at], row));
    this.table.hidden = !rows.length;
    const [one, many] = this.words;
    this.say(rows.length ? "" : total ? `None of ${count(total)} ${many} matches.` : `There are no ${many}.`);
    const last = offset + rows.length;
    const of = matched === total ? `${count(total)} ${total === 1 ? one : many}` : `${count(matched)} found, ${count(total)} ${many} in total`;
    write(this.find(".where"), rows.length ? `${count(offset + 1)}–${count(last)} of ${of}` : "");
    this.enable("first", offset > 0);
    this.enable("back", offset > 0);
    this.enable("next", last < matched);
    this.enable("last", last < matched);
  }

  /** Set aria-disabled instead of disabled, so that a pressed button keeps the focus. */
  enable(name, on) {
    this.find(`.${name}`).setAttribute("aria-disabled", String(!on));
  }

  /** Create a row. Rows are reused, so that the focus and the selection are kept. */
  line(at) {
    const cells = this.columns.map(({ rank, numeric }, i) => {
      const cell = element(i ? "td" : "th", { class: `${rank}${numeric ? " number" : ""}` });
      if (i) return cell;
      cell.setAttribute("scope", "row");
      const button = element("button", { type: "button", class: "peer" });
      button.addEventListener("click", () => this.open(this.rows[at]));
      cell.append(button);
      return cell;
    });
    return element("tr", {}, ...cells);
  }

  fill(line, row) {
    this.columns.forEach(({ of, field }, i) => {
      const cell = line.cells[i];
      write(i ? cell : cell.firstChild, of(row));
      if (field === "last_error") cell.title = row[field] ?? "";
      if (!i) cell.title = row[field];
    });
    if ("state" in row) line.dataset.state = row.state;
  }

  say(message) {
    const empty = this.find(".empty");
    write(empty, message);
    empty.hidden = !message;
  }
}
