// Computes the verdict on the fleet: a headline and notes.

import { clock, count, plural, seconds } from "./words.js";

/** Part of the history that counts as recent. */
export const RECENT_S = 60;
/** A loop lag from here is a warning. The watchdog reports longer blocks. */
export const LAG_S = 0.25;
/** During this time after the start, endpoints that connect for the first time are starting, not down. */
const YOUNG_S = 60;
/** Number of endpoints in one finding. */
const NAMED = 3;
/** More losses of all endpoints per minute, in total and per endpoint, are a warning. */
const LOSSES = 3;
const LOSSES_EACH = 0.5;

export const MARKS = { well: "✓", starting: "…", attention: "!", unwell: "✕", lost: "?" };

/** The increase of a counter in the last minute of the history. */
export function recent(samples, counter) {
  const last = samples.at(-1);
  if (!last) return 0;
  const first = samples.find((sample) => sample.at >= last.at - RECENT_S);
  return Math.max(0, last[counter] - first[counter]);
}

function balance(overview) {
  if (overview.balanced) return [];
  return [["unwell", "The balance does not hold: a message is unaccounted for"]];
}

function connections(overview) {
  const { states, down, down_count: many } = overview;
  const all = Object.values(states).reduce((sum, n) => sum + n, 0);
  const required = down.filter((each) => each.required);
  const found = [
    ...required.map((each) => ["unwell", `The required endpoint ${each.name} has been down since ${clock(each.since)}`]),
    ...failed(overview),
  ];
  if (many === (states.FAILED ?? 0)) return found;
  const open = states.OPEN ?? 0;
  const connecting = down.every((each) => each.state === "CONNECTING" && !each.error);
  if (overview.uptime_s < YOUNG_S && connecting) {
    return [...found, ["starting", `Starting: ${count(open)} of ${plural(all, "endpoint")} open`]];
  }
  const since = clock(Math.min(...down.map((each) => each.since)));
  const subject = many === 1 ? `${down[0].name} is down` : `${count(many)} of ${plural(all, "endpoint")} are down`;
  const level = open * 2 < all ? "unwell" : "attention";
  return [...found, [level, many === 1 ? `${subject} since ${since}` : `${subject}, the first since ${since}`]];
}

/** FAILED endpoints are not retried. */
function failed({ states, down }) {
  const many = states.FAILED ?? 0;
  if (!many) return [];
  const known = down.find((each) => each.state === "FAILED");
  const subject = many === 1 && known ? `${known.name} has failed` : `${plural(many, "endpoint")} have failed`;
  const among = many > 1 && known ? `${known.name} with ` : "";
  return [["unwell", `${subject} for good${known ? `: ${among}${known.error ?? "no error"}` : ""}`]];
}

/** Endpoints that are lost again and again, by name. They may be open at this moment. */
function losses({ states, flapping, flapping_count: many }, samples) {
  if (flapping.length) {
    const more = many - NAMED > 0 ? `, and ${plural(many - NAMED, "more endpoint")}` : "";
    const named = flapping.slice(0, NAMED).map((each) => `${each.name} ${count(each.losses)} times`).join(", ");
    return [["attention", `Lost in the last minute: ${named}${more}`]];
  }
  const all = Object.values(states).reduce((sum, n) => sum + n, 0);
  const lost = recent(samples, "losses");
  if (lost < LOSSES || lost <= all * LOSSES_EACH) return [];
  return [["attention", `Frequent connection losses: ${count(lost)} in the last minute`]];
}

/** The largest loop lag of the last minute. */
export function worstLag(overview, samples) {
  const after = (samples.at(-1)?.at ?? 0) - RECENT_S;
  return Math.max(0, overview.loop_lag_s, ...samples.filter((s) => s.at >= after).map((s) => s.loop_lag_s));
}

function loop(overview, samples, blockedLately) {
  const worst = worstLag(overview, samples);
  const { blocked } = overview;
  if (blocked && (blockedLately || worst >= LAG_S)) {
    return [["attention", `The event loop was blocked for ${seconds(blocked.seconds)} by ${blocked.by}`]];
  }
  return worst >= LAG_S ? [["attention", `The event loop was late by ${seconds(worst)}`]] : [];
}

function messages(overview, samples) {
  const found = [];
  const dropped = recent(samples, "dropped");
  const failed = recent(samples, "failed");
  const { paused } = overview.totals;
  if (failed) found.push(["attention", `Processing failed for ${plural(failed, "message")} in the last minute`]);
  if (dropped) found.push(["attention", `${plural(dropped, "message")} dropped in the last minute`]);
  if (paused) found.push(["well", `${plural(paused, "endpoint")} paused by subscribers that do not keep up`]);
  return found;
}

/** The verdict, most severe finding first: `{level, headline, notes}`. */
export function verdict(overview, samples, blockedLately) {
  const order = ["unwell", "attention", "starting", "well"];
  const found = [
    ...balance(overview),
    ...connections(overview),
    ...losses(overview, samples),
    ...loop(overview, samples, blockedLately),
    ...messages(overview, samples),
  ].sort((a, b) => order.indexOf(a[0]) - order.indexOf(b[0]));
  if (found.length && found[0][0] !== "well") {
    const [[level, headline], ...rest] = found;
    return { level, headline, notes: rest.map(([, text]) => text) };
  }
  const all = Object.values(overview.states).reduce((sum, n) => sum + n, 0);
  const headline = all
    ? `Well: ${all === 1 ? "the endpoint is" : `all ${count(all)} endpoints are`} open, and every received message is accounted for`
    : "Well: no endpoints yet, and every received message is accounted for";
  return { level: "well", headline, notes: found.map(([, text]) => text) };
}
