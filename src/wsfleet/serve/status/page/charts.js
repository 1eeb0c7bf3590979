// Small line charts of the last ten minutes. The pointer or the arrow keys select a time and show its values.

import { NONE, clock, compact, element, seconds, write } from "./words.js";

const SPAN_S = 600;
/** The shortest time axis. It begins where the data begins. */
const LEAST_S = 10;
const HEIGHT = 132;
const EDGE = { left: 52, right: 10, top: 8, bottom: 20 };
const SVG = "http://www.w3.org/2000/svg";

const perSecond = (n) => `${compact(n)}/s`;

/** The charts. `of` returns a value for a sample and its predecessor, or null. */
export const CHARTS = [
  { title: "Messages", unit: perSecond, series: [rate("received"), rate("processed")] },
  { title: "Lost in processing", unit: perSecond, series: [rate("dropped"), rate("failed")] },
  { title: "Reconnects", unit: perSecond, series: [rate("losses", "lost"), rate("reconnects", "connected again")] },
  { title: "Waiting messages", unit: compact, series: [value("pending", "waiting")] },
  { title: "Latency", unit: seconds, series: [value("latency_p50", "p50"), value("latency_p99", "p99")] },
  { title: "Loop lag", unit: seconds, series: [value("loop_lag_s", "lag")] },
];

function value(field, name) {
  return { name, of: (sample) => sample[field] };
}

/** The rate of a counter per second, or null if it has decreased, which means that the fleet was restarted. */
export function rate(field, name = field) {
  const of = (sample, before) => {
    const passed = before ? sample.at - before.at : 0;
    const gained = before ? sample[field] - before[field] : 0;
    return passed > 0 && gained >= 0 ? gained / passed : null;
  };
  return { name, of };
}

/** Add the counter `reconnects`: connects without the first ones, which would flatten the chart at the start. */
export function withReconnects(samples) {
  let [most, reconnects, before] = [0, 0, null];
  return samples.map((sample) => {
    const here = sample.connects - sample.losses;
    if (before === null || sample.connects < before.connects) most = here;
    else reconnects += Math.max(0, sample.connects - before.connects - Math.max(0, here - most));
    most = Math.max(most, here);
    before = sample;
    return { ...sample, reconnects };
  });
}

function draw(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Round up to the next of 1, 2, 5, 10, 20, ... */
function roundUp(n) {
  const power = 10 ** Math.floor(Math.log10(n));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= n * 0.999999);
}

export class Chart {
  constructor({ title, unit, series }) {
    Object.assign(this, { unit, series, title, points: [], chosen: null });
    this.svg = draw("svg", { tabindex: 0, role: "slider", "aria-label": `${title}, time`, "aria-orientation": "horizontal" });
    this.readings = series.map(() => element("b"));
    const legend = series.map(({ name }, at) =>
      element("span", { class: `reading series-${at}` }, element("i", { "aria-hidden": "true" }), `${name} `, this.readings[at]));
    this.when = element("span", { class: "quiet when" });
    const caption = element("figcaption", {}, element("h2", {}, title), this.when, element("p", {}, ...legend));
    this.root = element("figure", { class: "card chart" }, caption, this.svg);
    this.svg.addEventListener("pointermove", (event) => this.point(event));
    this.svg.addEventListener("pointerleave", () => this.choose(null));
    this.svg.addEventListener("blur", () => this.choose(null));
    this.svg.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.render()).observe(this.root);
  }

  /** Show a history, oldest sample first. */
  show(samples) {
    const chosenAt = this.points[this.chosen]?.at;
    this.points = samples.map((sample, i) => ({
      at: sample.at,
      values: this.series.map(({ of }) => of(sample, samples[i - 1])),
    }));
    this.chosen = chosenAt === undefined ? null : this.nearest(chosenAt);
    this.render();
  }

  nearest(at) {
    let best = null;
    this.points.forEach((point, i) => {
      if (best === null || Math.abs(point.at - at) < Math.abs(this.points[best].at - at)) best = i;
    });
    return best;
  }

  point(event) {
    const { left } = this.svg.getBoundingClientRect();
    if (this.points.length) this.choose(this.nearest(this.timeAt(event.clientX - left)));
  }

  key(event) {
    const last = this.points.length - 1;
    const from = this.chosen ?? last;
    const to = { ArrowLeft: from - 1, ArrowRight: from + 1, PageUp: from - 30, PageDown: from + 30, Home: 0, End: last, Escape: null }[event.key];
    if (to === undefined || last < 0) return;
    event.preventDefault();
    this.choose(to === null ? null : Math.min(last, Math.max(0, to)));
  }

  choose(index) {
    this.chosen = index;
    this.mark();
  }

  /** Compute the range of the time axis and of the value axis. */
  measure() {
    this.width = Math.max(160, this.root.clientWidth - 24);
    this.end = this.points.at(-1)?.at ?? Date.now() / 1000;
    this.start = Math.min(this.end - LEAST_S, Math.max(this.end - SPAN_S, this.points[0]?.at ?? 0));
    const largest = Math.max(0, ...this.points.flatMap(({ values }) => values.filter((v) => v !== null)));
    const least = this.unit === seconds ? 1e-3 : 1;
    this.top = roundUp(Math.max(largest, least));
  }

  x(at) {
    return EDGE.left + ((at - this.start) / (this.end - this.start)) * (this.width - EDGE.left - EDGE.right);
  }

  y(value) {
    return EDGE.top + (1 - value / this.top) * (HEIGHT - EDGE.top - EDGE.bottom);
  }

  timeAt(x) {
    return this.start + ((x - EDGE.left) / (this.width - EDGE.left - EDGE.right)) * (this.end - this.start);
  }

  render() {
    this.measure();
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
    this.svg.setAttribute("height", HEIGHT);
    this.cursor = draw("g", { class: "cursor" });
    this.svg.replaceChildren(...this.axes(), ...this.series.map((_, at) => this.line(at)), this.cursor);
    this.mark();
  }

  axes() {
    const made = [];
    for (const part of [0, 0.5, 1]) {
      const y = this.y(this.top * part);
      made.push(draw("line", { class: "grid", x1: EDGE.left, x2: this.width - EDGE.right, y1: y, y2: y }));
      made.push(draw("text", { x: EDGE.left - 6, y: y + 4, "text-anchor": "end" }, this.unit(this.top * part)));
    }
    const most = this.width > 380 ? 5 : 3;
    const step = [5, 10, 30, 60, 120, 240].find((each) => (this.end - this.start) / each <= most);
    for (let at = Math.ceil(this.start / step) * step; at <= this.end; at += step) {
      const x = this.x(at);
      made.push(draw("line", { class: "grid", x1: x, x2: x, y1: HEIGHT - EDGE.bottom, y2: HEIGHT - EDGE.bottom + 4 }));
      if (x < EDGE.left + 14 || x > this.width - 18) continue;
      made.push(draw("text", { x, y: HEIGHT - 3, "text-anchor": "middle" }, clock(at, { withSeconds: step < 60 })));
    }
    return made;
  }

  line(at) {
    let path = "";
    let pen = "M";
    for (const point of this.points) {
      const value = point.values[at];
      if (value === null || point.at < this.start) {
        pen = "M";
        continue;
      }
      path += `${pen}${this.x(point.at).toFixed(1)} ${this.y(value).toFixed(1)}`;
      pen = "L";
    }
    return draw("path", { class: `line series-${at}`, d: path });
  }

  /** Show the values at the selected time, or the last ones. */
  mark() {
    const at = this.chosen ?? this.points.length - 1;
    const point = this.points[at];
    const texts = this.series.map((_, i) => (point && point.values[i] !== null ? this.unit(point.values[i]) : NONE));
    this.readings.forEach((reading, i) => write(reading, texts[i]));
    const when = !point ? "no data yet" : this.chosen === null ? "now" : clock(point.at);
    write(this.when, when);
    this.svg.setAttribute("aria-valuemin", 0);
    this.svg.setAttribute("aria-valuemax", Math.max(0, this.points.length - 1));
    this.svg.setAttribute("aria-valuenow", Math.max(0, at));
    this.svg.setAttribute("aria-valuetext", `${when}: ${this.series.map(({ name }, i) => `${name} ${texts[i]}`).join(", ")}`);
    this.cursor?.replaceChildren();
    if (this.chosen === null || !point || !this.cursor) return;
    const x = this.x(point.at);
    this.cursor.append(draw("line", { x1: x, x2: x, y1: EDGE.top, y2: HEIGHT - EDGE.bottom }));
    point.values.forEach((value, i) => {
      if (value !== null) this.cursor.append(draw("circle", { class: `series-${i}`, cx: x, cy: this.y(value), r: 3 }));
    });
  }
}
