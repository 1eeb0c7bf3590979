// The status page: polls the server for the state of the fleet and shows it.

import { Refused, Unauthorized, get, raw, token } from "./api.js";
import { CHARTS, Chart, rate, withReconnects } from "./charts.js";
import { Log } from "./log.js";
import { offerReload } from "./reload.js";
import { ENDPOINT_COLUMNS, SUBSCRIPTION_COLUMNS, Table } from "./tables.js";
import { LAG_S, MARKS, RECENT_S, recent, verdict, worstLag } from "./verdict.js";
import { NONE, bytes, clock, compact, count, duration, element, nextAttempt, plural, seconds, write } from "./words.js";

const OVERVIEW_MS = 2000;
const HISTORY_MS = 5000;
const RATE_S = 10;
const STATES = ["OPEN", "CONNECTING", "BACKOFF", "FAILED", "CLOSED"];

const at = (id) => document.getElementById(id);

let samples = [];
let overview = null;
let historyAsked = 0;
let blocked = { key: null, changed: 0 };
let needsToken = false;
let next = null;
let asking = false;

const charts = CHARTS.map((chart) => new Chart(chart));
at("charts").append(...charts.map((chart) => chart.root));

const options = { open: showDetail, failed: askForToken };
const endpoints = new Table(at("endpoints"), "api/endpoints", ENDPOINT_COLUMNS, { ...options, words: ["endpoint", "endpoints"], states: STATES, sort: "state" });
const subscriptions = new Table(at("subscriptions"), "api/subscriptions", SUBSCRIPTION_COLUMNS, { ...options, words: ["subscription", "subscriptions"] });
const log = new Log(at("log"), at("kind"), at("events-state"), { held, refused: askForToken });

// Requests

function held() {
  return document.hidden || at("hold").getAttribute("aria-pressed") === "true";
}

/** Run one round of requests, and schedule the next one, unless a token is needed or the page is paused or hidden. */
async function round() {
  if (needsToken || held() || asking) return;
  clearTimeout(next);
  asking = true;
  try {
    if (Date.now() - historyAsked >= HISTORY_MS) {
      historyAsked = Date.now();
      const [seen, history] = await Promise.all([get("api/overview"), get("api/history"), endpoints.refresh(), subscriptions.refresh()]);
      samples = withReconnects(history.samples);
      overview = seen;
      charts.forEach((chart) => chart.show(samples));
    } else {
      overview = await get("api/overview");
    }
    show();
  } catch (error) {
    historyAsked = 0;
    if (error instanceof Unauthorized) askForToken();
    else lost(error);
  } finally {
    asking = false;
    if (!needsToken && !held()) next = setTimeout(round, OVERVIEW_MS);
  }
}

function lost(error) {
  const since = overview ? `since ${clock(overview.at)}` : "";
  const reason = error instanceof Refused ? `The server answered: ${error.message || error.status}` : "The process has ended, its event loop is blocked, or the network connection is broken";
  judge({ level: "lost", headline: `No answer from the fleet ${since}`.trim(), notes: [reason, "Retrying; the values below are old"] });
  document.body.classList.add("lost");
}

// The token

function askForToken() {
  if (needsToken) return; // several requests are refused at a time
  needsToken = true;
  clearTimeout(next);
  write(at("token-why"), token.get() ? "The token is not valid." : "This server requires a token.");
  token.forget();
  for (const id of ["verdict", "live"]) at(id).hidden = true;
  if (at("token").hidden) {
    at("token").hidden = false;
    at("token-input").focus();
  }
}

at("token").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set(at("token-input").value.trim());
  at("token-input").value = "";
  at("token").hidden = true;
  for (const id of ["verdict", "live"]) at(id).hidden = false;
  needsToken = false;
  historyAsked = 0;
  round();
  log.start();
});

// Showing

function show() {
  at("reload").hidden = !token.get(); // changes require a token
  document.body.classList.remove("lost");
  noteBlocked();
  judge(verdict(overview, samples, Date.now() - blocked.changed < RECENT_S * 1000));
  write(at("name"), overview.name);
  write(at("about"), about());
  write(at("asof"), `as of ${clock(overview.at)}`);
  showConnections();
  showFigures();
  showDown();
  showSlowest();
}

function about() {
  const parts = [`up ${duration(overview.uptime_s)}`];
  if (overview.workers) parts.push(plural(overview.workers, "worker"));
  parts.push(overview.accelerated ? "compiled parts in use" : "pure Python");
  return parts.join(" · ");
}

/** The overview keeps the last block forever, so a block is recent only if it has changed recently. */
function noteBlocked() {
  const key = JSON.stringify(overview.blocked);
  if (blocked.key !== null && key !== blocked.key) blocked.changed = Date.now();
  blocked.key = key;
}

function judge({ level, headline, notes }) {
  at("verdict").dataset.level = level;
  write(at("mark"), MARKS[level]);
  write(at("headline"), headline);
  document.title = `${MARKS[level]} ${overview?.name ?? "wsfleet"}: ${headline}`;
  const list = at("notes");
  if ([...list.children].map((each) => each.textContent).join("\n") === notes.join("\n")) return;
  list.replaceChildren(...notes.map((note) => element("li", {}, note)));
}

function showConnections() {
  const { states } = overview;
  const all = Object.values(states).reduce((sum, n) => sum + n, 0);
  write(at("open"), `${count(states.OPEN ?? 0)} of ${count(all)} open`);
  const present = STATES.filter((state) => states[state]);
  const bar = at("bar");
  fit(bar, present.length, () => element("span"));
  const list = at("states");
  fit(list, present.length, stateButton);
  present.forEach((state, i) => {
    bar.children[i].dataset.state = state;
    bar.children[i].style.flexGrow = states[state];
    const button = list.children[i].firstChild;
    button.dataset.state = state;
    write(button, `${state} ${count(states[state])}`);
  });
}

function stateButton() {
  const button = element("button", { type: "button", class: "state-count", title: "Show these endpoints" });
  button.addEventListener("click", () => {
    endpoints.filter(button.dataset.state);
    at("endpoints").scrollIntoView();
    at("endpoints").focus();
  });
  return element("li", {}, button);
}

/** Add or remove children until the list has `many`. Existing children are kept. */
function fit(list, many, make) {
  while (list.children.length > many) list.lastChild.remove();
  while (list.children.length < many) list.append(make());
}

/** The rate of a counter over the last RATE_S seconds. */
function speed(counter) {
  const last = samples.at(-1);
  if (!last) return null;
  const first = samples.find((sample) => sample.at >= last.at - RATE_S);
  return rate(counter).of(last, first === last ? undefined : first);
}

function showFigures() {
  const { totals, latency } = overview;
  const lag = worstLag(overview, samples);
  const perSecond = (counter) => {
    const found = speed(counter);
    return found === null ? NONE : `${compact(found)}/s`;
  };
  const figures = {
    received: [perSecond("received"), `${count(totals.received)} in total, ${bytes(totals.received_bytes)}`],
    processed: [perSecond("processed"), `${count(totals.processed)} in total, ${count(totals.pending)} waiting`],
    dropped: [count(totals.dropped), `${count(recent(samples, "dropped"))} in the last minute`],
    dead: [count(totals.dead), `${count(totals.failed)} messages failed, ${count(totals.malformed)} malformed`],
    losses: [count(recent(samples, "losses")), `lost in the last minute, ${count(totals.losses)} in total`],
    latency: [seconds(latency.p50), `median; ${seconds(latency.p99)} at the 99th percentile`],
    lag: [seconds(lag), `maximum of the last minute; ${blockText()}`],
  };
  for (const [id, [figure, more]] of Object.entries(figures)) {
    write(at(id), figure);
    write(at(`${id}-more`), more);
  }
  at("dropped").classList.toggle("alarming", recent(samples, "dropped") > 0);
  at("dead").classList.toggle("alarming", recent(samples, "failed") > 0);
  at("lag").classList.toggle("alarming", lag >= LAG_S);
}

function blockText() {
  const block = overview.blocked;
  if (!block) return "nothing has blocked the event loop";
  return `last blocked for ${seconds(block.seconds)} by ${block.by} at ${block.where}`;
}

function showDown() {
  const { down, down_count: many } = overview;
  const lines = down.map((each) => ({
    state: each.state,
    name: each.name,
    facts: [
      `since ${clock(each.since)}, ${duration(overview.at - each.since)}`,
      each.required && "required",
      each.next_at && `next attempt ${nextAttempt(each.next_at, overview.at)}`,
    ].filter(Boolean).join(", "),
    text: each.error ?? "",
  }));
  if (many > down.length) lines.push({ name: "", facts: `and ${count(many - down.length)} more`, text: "" });
  at("not-open").hidden = !many;
  rows(at("down"), lines);
}

function showSlowest() {
  const { slowest } = overview;
  const lines = slowest.map((each) => ({
    name: each.name,
    facts: `${count(each.pending)} waiting, ${bytes(each.pending_bytes)}; ${count(each.dropped)} dropped`,
    text: each.pausing_s > 0 ? `${each.overflow}: paused endpoints for ${seconds(each.pausing_s)}` : each.overflow,
  }));
  at("slow").hidden = !lines.length;
  rows(at("slowest"), lines);
}

function rows(list, lines) {
  fit(list, lines.length, () => element("li", {}, element("b", { class: "peer" }), element("span", { class: "facts" }), element("span", { class: "quiet peer" })));
  lines.forEach((line, i) => {
    const row = list.children[i];
    row.dataset.state = line.state ?? "";
    [line.name, [line.state, line.facts].filter(Boolean).join(" "), line.text].forEach((text, j) => write(row.children[j], text));
  });
}

/** Show all fields of one row in a dialog. */
function showDetail(row) {
  write(at("detail-title"), row.name);
  write(at("detail-at"), `as of ${clock(overview?.at ?? Date.now() / 1000)}`);
  const facts = Object.entries(row).filter(([field]) => field !== "name").flatMap(([field, value]) => {
    const plain = Array.isArray(value) ? value.join(", ") : value === null ? "" : typeof value === "number" ? count(value) : String(value);
    const shown = field === "down_since" || field === "next_at" ? value && clock(value) : field.endsWith("_s") ? seconds(value) : field.endsWith("bytes") ? bytes(value) : plain;
    return [element("dt", {}, field), element("dd", { class: "peer" }, shown || NONE)];
  });
  at("detail-fields").replaceChildren(...facts);
  at("detail").showModal();
}

// Keys and buttons

for (const link of document.querySelectorAll("footer a")) {
  link.addEventListener("click", async (event) => {
    if (!token.get()) return;
    event.preventDefault(); // a link sends no token
    try {
      open(URL.createObjectURL(await raw(link.getAttribute("href"))));
    } catch (error) {
      if (error instanceof Unauthorized) askForToken();
      else lost(error);
    }
  });
}

at("hold").addEventListener("click", () => {
  const pressed = at("hold").getAttribute("aria-pressed") !== "true";
  at("hold").setAttribute("aria-pressed", String(pressed));
  write(at("hold"), pressed ? "Resume" : "Pause");
  if (pressed) clearTimeout(next);
  else wake();
});

function wake() {
  historyAsked = 0;
  round();
  log.render();
}

document.addEventListener("visibilitychange", () => !document.hidden && wake());

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select, textarea, dialog");
  if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey || needsToken) return;
  event.preventDefault();
  const search = endpoints.find(".search");
  search.focus();
  search.select();
});

offerReload(askForToken);
round();
log.start();
