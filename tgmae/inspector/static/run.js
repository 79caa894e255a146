// A run's curves and reconstructions.
import { element, json } from "./everywhere.js";

const run = document.getElementById("run").dataset;
const short = (value) => (value !== 0 && Math.abs(value) < 0.01 ? value.toExponential(1) : Number(value.toPrecision(3)).toLocaleString("en"));

function chart(title, series, log) {
  const [width, height, left, bottom, top] = [440, 230, 54, 24, 10];
  const usable = (y) => Number.isFinite(y) && (!log || y > 0);
  const points = Object.values(series).flat().filter(([, y]) => usable(y));
  const figure = document.createElement("figure");
  figure.className = "chart";
  const caption = document.createElement("figcaption");
  caption.textContent = title;
  if (!points.length) { figure.append(caption); return figure; }
  const f = log ? Math.log10 : (y) => y;
  const xs = points.map((p) => p[0]), ys = points.map((p) => f(p[1]));
  const [x0, x1] = [Math.min(...xs), Math.max(...xs)];
  let [y0, y1] = [Math.min(...ys), Math.max(...ys)];
  if (!log && y0 > 0 && y0 < y1 / 2) y0 = 0;
  if (y1 === y0) { y1 += Math.abs(y1) || 1; }
  const px = (x) => left + ((x - x0) / (x1 - x0 || 1)) * (width - left - 8);
  const py = (y) => top + (1 - (f(y) - y0) / (y1 - y0)) * (height - top - bottom);
  const names = Object.keys(series);
  const last = names.map((name) => `${name} ${short(series[name].at(-1)[1])}`).join(", ");
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}: at the last update ${last}` });
  for (let tick = 0; tick <= 4; tick++) {
    const value = y0 + ((y1 - y0) * tick) / 4, y = top + (1 - tick / 4) * (height - top - bottom);
    svg.append(element("line", { x1: left, x2: width - 8, y1: y, y2: y, class: "axis" }),
      element("text", { x: left - 6, y: y + 4, "text-anchor": "end" }, short(log ? 10 ** value : value)));
  }
  for (const x of [x0, x1]) svg.append(element("text", { x: px(x), y: height - 6, "text-anchor": x === x0 ? "start" : "end" }, `update ${x.toLocaleString("en")}`));
  const legend = document.createElement("div");
  legend.className = "legend";
  names.forEach((name, place) => {
    const line = series[name].filter(([, y]) => usable(y)).map(([x, y]) => `${px(x).toFixed(1)},${py(y).toFixed(1)}`).join(" ");
    svg.append(element("polyline", { points: line, fill: "none", "stroke-width": 1.8, class: `s${place}` }));
    const key = document.createElement("span");
    const sample = element("svg", { viewBox: "0 0 22 10", "aria-hidden": "true" });
    sample.append(element("line", { x1: 0, x2: 22, y1: 5, y2: 5, "stroke-width": 2, class: `s${place}` }));
    key.append(sample, ` ${name.replaceAll("_", " ")} ${short(series[name].at(-1)[1])}`);
    legend.append(key);
  });
  figure.append(caption, svg, legend);
  return figure;
}

let curves = {};
function draw() {
  const log = document.getElementById("log").checked;
  const made = [];
  for (const [stage, all] of Object.entries(curves))
    for (const [name, { title, series }] of Object.entries(all))
      made.push(chart(stage === "pretrain" ? title : `${title}, fine-tuning`, series, log && name === "loss"));
  const none = document.createElement("p");
  none.className = "note";
  none.textContent = "Nothing has been logged yet.";
  document.getElementById("charts").replaceChildren(...(made.length ? made : [none]));
}
async function load() {
  curves = await json(`/api/curves/${encodeURIComponent(run.name)}`);
  draw();
}
document.getElementById("log").addEventListener("change", draw);
load();
if (run.complete !== "true") setInterval(() => { if (!document.hidden) load(); }, 3000);

const form = document.getElementById("reconstruct");
function reconstruct() {
  const place = document.getElementById("weights");
  const key = /^[0-9a-f]{16}$/.test(form.other.value) ? form.other.value : form.key.value;
  if (!key) { place.textContent = "There is no clip to reconstruct."; return; }
  place.replaceChildren(...place.dataset.weights.split(" ").map((weights) => {
    const figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    const name = weights === "model" ? "at the end" : weights.replace("step_", "update ").replace(/ 0+/, " ");
    caption.textContent = `${name} …`;
    figure.append(caption);
    const query = new URLSearchParams({ weights, statistics: form.statistics.value });
    fetch(`/reconstruction/${encodeURIComponent(run.name)}/${key}?${query}`).then(async (answer) => {
      if (!answer.ok) { caption.textContent = `${name}: ${await answer.text()}`; return; }
      const image = new Image();
      image.src = URL.createObjectURL(await answer.blob());
      image.alt = `Frames, mask, reconstruction and attention ${name}`;
      caption.textContent = `${name}: ${answer.headers.get("X-Error")}`;
      figure.prepend(image);
    });
    return figure;
  }));
}
if (form) {
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", reconstruct);
  reconstruct();
}
document.getElementById("neighbours")?.addEventListener("change", (event) => event.currentTarget.submit());
