// One video: the player with its score map, the mask as the trainer draws it, two guides side by side.
import { element, json } from "./everywhere.js";

const page = document.getElementById("video").dataset;
const $ = (id) => document.getElementById(id);

// Inferno, as the pictures of the command line: evenly brighter from low to high, for the colour-blind, too.
const ANCHORS = ["000004", "1b0c41", "4a0c6b", "781c6d", "a52c60", "cf4446", "ed6925", "fb9b06", "f7d13d", "fcffa4"]
  .map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
const HEAT = Array.from({ length: 256 }, (_, value) => {
  const place = (value / 255) * (ANCHORS.length - 1), at = Math.min(Math.floor(place), ANCHORS.length - 2);
  return ANCHORS[at].map((low, channel) => Math.round(low + (place - at) * (ANCHORS[at + 1][channel] - low)));
});

// ---- The player

const video = $("clip"), overlay = $("overlay"), scrub = $("scrub");
let map = null, fps = 0, frames = 0, images = [];

const frameNow = () => Math.min(Math.max(Math.floor(video.currentTime * fps + 1e-3), 0), Math.max(frames - 1, 0));
const mapAt = (frame) => Math.min(Math.round(frame / map.frame_stride), map.shape[0] - 1);

function fit() {
  // The video's picture inside its box: the map lies over that.
  const width = video.videoWidth || map?.width || 1, height = video.videoHeight || map?.height || 1;
  const scale = Math.min(video.clientWidth / width, video.clientHeight / height);
  overlay.style.width = `${width * scale}px`;
  overlay.style.height = `${height * scale}px`;
}
function paint() {
  if (!fps) return;
  const frame = frameNow();
  if (document.activeElement !== scrub || !video.paused) scrub.value = frame;
  $("time").textContent = `frame ${frame} of ${frames}, ${video.currentTime.toFixed(2)} s`;
  overlay.hidden = !map || !$("show-map").checked;
  if (!map) return;
  const at = mapAt(frame);
  if (overlay.dataset.at !== String(at)) {
    overlay.dataset.at = at;
    overlay.width = map.shape[2];
    overlay.height = map.shape[1];
    overlay.getContext("2d").putImageData(images[at], 0, 0);
  }
  overlay.style.opacity = $("strength").value / 100;
  const line = $("profile").querySelector(".now");
  const x = (600 * frame) / Math.max(frames - 1, 1);
  line?.setAttribute("x1", x);
  line?.setAttribute("x2", x);
}
function follow() {
  paint();
  if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(follow);
  else requestAnimationFrame(follow);
}
function goTo(frame) {
  video.pause();
  video.currentTime = (Math.min(Math.max(frame, 0), frames - 1) + 0.5) / fps;
}
video.addEventListener("loadedmetadata", fit);
video.addEventListener("seeked", paint);
for (const name of ["play", "pause"]) video.addEventListener(name, () => { $("play").textContent = video.paused ? "Play" : "Pause"; });
video.addEventListener("error", () => { $("time").textContent = "this browser cannot play H.264; the frames below are decoded by the trainer"; });
window.addEventListener("resize", fit);
$("play").addEventListener("click", () => (video.paused ? video.play() : video.pause()));
scrub.addEventListener("input", () => goTo(Number(scrub.value)));
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, select, textarea, button, dialog[open], .strips") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === " ") { event.preventDefault(); $("play").click(); }
  else if (event.key === "ArrowLeft") goTo(frameNow() - 1);
  else if (event.key === "ArrowRight") goTo(frameNow() + 1);
  else if (event.key === "m" && $("show-map")) { $("show-map").checked = !$("show-map").checked; paint(); }
});
for (const id of ["show-map", "strength"]) $(id)?.addEventListener("input", paint);

async function showMap(guide, entry) {
  const found = await json(`/api/map/${page.key}?${new URLSearchParams({ guide, entry })}`);
  const bytes = Uint8Array.from(atob(found.bytes), (c) => c.charCodeAt(0));
  const [count, rows, columns] = found.shape, size = rows * columns;
  images = Array.from({ length: count }, (_, at) => {
    const image = new ImageData(columns, rows);
    for (let cell = 0; cell < size; cell++) image.data.set([...HEAT[bytes[at * size + cell]], 255], 4 * cell);
    return image;
  });
  map = found;
  fps = found.fps;
  frames = found.frames;
  scrub.max = frames - 1;
  delete overlay.dataset.at;
  $("range").textContent = `${found.offset.toFixed(3)} to ${(found.offset + 255 * found.scale).toFixed(3)}`;
  profile(found);
  fit();
  paint();
}
function profile({ best, mean, frame_stride: stride }) {
  const low = Math.min(...mean), high = Math.max(...best), last = Math.max(frames - 1, 1);
  const point = (value, at) => `${((600 * at * stride) / last).toFixed(1)},${(56 - (52 * (value - low)) / (high - low || 1)).toFixed(1)}`;
  const area = element("polygon", { class: "area", points: `0,60 ${mean.map(point).join(" ")} 600,60` });
  const line = element("polyline", { class: "best", points: best.map(point).join(" ") });
  $("profile").replaceChildren(area, line, element("line", { class: "now", y1: 0, y2: 60, x1: 0, x2: 0 }));
}
$("profile")?.addEventListener("click", (event) => {
  const box = $("profile").getBoundingClientRect();
  goTo(Math.round(((event.clientX - box.left) / box.width) * (frames - 1)));
});
const radios = [...document.querySelectorAll("input[name=map]")];
function chosenMap() {
  const value = document.querySelector("input[name=map]:checked").value, at = value.lastIndexOf(" ");
  showMap(value.slice(0, at), value.slice(at + 1));
}
for (const radio of radios) radio.addEventListener("change", chosenMap);
if (radios.length) { radios[0].checked = true; chosenMap(); }
follow();

// ---- The mask

const form = $("mask");
const CHANCE = ["random", "tube"], GREY = "#808080";
let strip = { url: "", image: null }, drawn = null, other = null, asking = null;

function possible(kind, guide) {
  if (CHANCE.includes(kind)) return true;
  if (kind === "optical-flow") return guide === "optical-flow";
  return Boolean(guide) && guide !== "optical-flow";
}
function settle() {
  const guide = form.guide.value;
  for (const option of form.kind.options) option.disabled = !possible(option.value, guide);
  if (form.kind.selectedOptions[0].disabled) form.kind.value = guide === "optical-flow" ? "optical-flow" : guide ? "top-k" : "random";
  form.share.disabled = form.kind.value !== "top-k";
  form.epoch.disabled = form.seed.disabled = form.repeat.disabled = false;
  $("ratio-value").textContent = form.ratio.value;
  $("share-value").textContent = form.share.value;
}
function query(guide, kind, entry = form.entry.value) {
  const fields = { run: form.run.value, guide, kind };
  for (const name of ["ratio", "share", "crop", "seed", "epoch", "repeat"]) fields[name] = form[name].value;
  fields.entry = entry;
  return new URLSearchParams(fields);
}
async function draw() {
  settle();
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  const guide = form.guide.value, beside = form.other.value, kind = form.kind.value;
  const kindBeside = possible(kind, beside) ? kind : beside === "optical-flow" ? "optical-flow" : "top-k";
  try {
    const [a, b] = await Promise.all([
      json(`/api/draw/${page.key}?${query(guide, kind)}`, signal),
      beside ? json(`/api/draw/${page.key}?${query(beside, kindBeside, "drawn")}`, signal) : null,
    ]);
    drawn = { ...a, guide };
    other = b && { ...b, guide: beside };
    const first = a.frames.filter((_, at) => at % a.tubelet === 0);
    const url = `/strip/${page.key}?${new URLSearchParams({ run: form.run.value, frames: first, crop: a.crop })}`;
    if (url !== strip.url) strip = { url, image: await picture(url) };
    if (signal.aborted) return;
    $("problem").hidden = true;
    choices();
    say();
    $("object-choice").hidden = !drawn.object;
    $("why").replaceChildren(...(drawn.why.length ? drawn.why : ["Nothing: the mask follows its scores."]).map((text) => {
      const item = document.createElement("li");
      item.textContent = text;
      return item;
    }));
    strips();
    histogram();
  } catch (error) {
    if (error.name === "AbortError") return;
    $("problem").textContent = error.message;
    $("problem").hidden = false;
  }
}
function picture(url) {
  return new Promise((done, failed) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = () => failed(new Error("the frames cannot be decoded"));
    image.src = url;
  });
}
function choices() {
  const before = form.entry.value, texts = drawn.captions;
  form.entry.replaceChildren(new Option("as drawn", "drawn"), ...texts.map((text, at) => new Option(text, at)));
  form.entry.value = [...form.entry.options].some((option) => option.value === before) ? before : "drawn";
  $("slice").max = drawn.shape[0] - 1;
  if (Number($("slice").value) > drawn.shape[0] - 1) $("slice").value = 0;
}
function say() {
  const said = drawn.captions.length ? `; caption “${drawn.captions[drawn.entry]}”` : "";
  const [left, top, width, height] = drawn.crop;
  $("words").textContent = `${drawn.words}; frames ${drawn.frames[0]} to ${drawn.frames.at(-1)}, crop ${width} × ${height} at ${left}, ${top}${said}`;
}
const isHidden = (clip, slice, cell) => clip.hidden[slice * clip.shape[1] * clip.shape[2] + cell] === "1";

function row(title, paintCell, legend = "") {
  const [slices, rows, columns] = drawn.shape, size = drawn.size, gap = 6, cell = size / columns;
  const canvas = document.createElement("canvas");
  canvas.width = slices * (size + gap) - gap;
  canvas.height = size;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", title);
  const context = canvas.getContext("2d");
  for (let slice = 0; slice < slices; slice++) {
    const left = slice * (size + gap);
    context.drawImage(strip.image, slice * size, 0, size, size, left, 0, size, size);
    if (!paintCell) continue;
    for (let at = 0; at < rows * columns; at++) {
      const x = left + (at % columns) * cell, y = Math.floor(at / columns) * cell;
      paintCell(context, slice, at, x, y, cell);
    }
  }
  if (drawn.object && $("show-object").checked) outline(context, slices, rows, columns, size, gap);
  canvas.addEventListener("click", (event) => {
    const box = canvas.getBoundingClientRect();
    $("slice").value = Math.min(Math.floor(((event.clientX - box.left) / box.width) * slices), slices - 1);
    histogram();
  });
  const made = document.createElement("div"), heading = document.createElement("h3");
  made.className = "strip";
  heading.textContent = title;
  if (legend) heading.append(" ", legend);
  made.append(heading, canvas);
  return made;
}
function outline(context, slices, rows, columns, size, gap) {
  const cell = size / columns;
  const inside = (slice, y, x) => x >= 0 && y >= 0 && x < columns && y < rows && drawn.object[(slice * rows + y) * columns + x] === "1";
  for (const [colour, width] of [["#141414", 4.5], ["#ffffff", 2]]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.beginPath();
    for (let slice = 0; slice < slices; slice++) for (let y = 0; y < rows; y++) for (let x = 0; x < columns; x++) {
      if (!inside(slice, y, x)) continue;
      const left = slice * (size + gap) + x * cell, top = y * cell;
      for (const [dy, dx, line] of [[-1, 0, [0, 0, 1, 0]], [1, 0, [0, 1, 1, 1]], [0, -1, [0, 0, 0, 1]], [0, 1, [1, 0, 1, 1]]]) {
        if (inside(slice, y + dy, x + dx)) continue;
        context.moveTo(left + line[0] * cell, top + line[1] * cell);
        context.lineTo(left + line[2] * cell, top + line[3] * cell);
      }
    }
    context.stroke();
  }
  context.lineWidth = 1;
}
function hide(clip) {
  return (context, slice, at, x, y, cell) => {
    if (!isHidden(clip, slice, at)) return;
    context.fillStyle = GREY;
    context.fillRect(x, y, cell, cell);
    context.strokeStyle = "#6a6a6a";
    context.strokeRect(x + 0.5, y + 0.5, cell - 1, cell - 1);
  };
}
function heat(clip) {
  const low = Math.min(...clip.scores), range = Math.max(...clip.scores) - low || 1, size = clip.shape[1] * clip.shape[2];
  return (context, slice, at, x, y, cell) => {
    const [r, g, b] = HEAT[Math.round((255 * (clip.scores[slice * size + at] - low)) / range)];
    context.fillStyle = `rgb(${r} ${g} ${b} / 72%)`;
    context.fillRect(x, y, cell, cell);
  };
}
function differ(context, slice, at, x, y, cell) {
  const [a, b] = [isHidden(drawn, slice, at), isHidden(other, slice, at)];
  if (!a && !b) return;
  context.fillStyle = a && b ? "rgb(128 128 128 / 78%)" : a ? "rgb(43 108 176 / 82%)" : "rgb(224 138 30 / 82%)";
  context.fillRect(x, y, cell, cell);
  if (a !== b) { // a pattern, too: colours alone do not tell everybody
    context.strokeStyle = "rgb(255 255 255 / 75%)";
    context.beginPath();
    if (a) { context.moveTo(x, y + cell); context.lineTo(x + cell, y); } else { context.moveTo(x, y); context.lineTo(x + cell, y + cell); }
    context.stroke();
  }
}
function key(a, b) {
  const made = document.createElement("span");
  for (const [name, text] of [["a", `only ${a} ╱`], ["b", `only ${b} ╲`], ["both", "both"]]) {
    const each = document.createElement("span"), swatch = document.createElement("span");
    each.className = "key note";
    swatch.className = `swatch ${name}`;
    each.append(swatch, text);
    made.append(each);
  }
  return made;
}
function strips() {
  const name = (clip) => `${clip.kind}${CHANCE.includes(clip.kind) ? "" : ` by ${clip.guide}`}`;
  const made = [row("Frames, one of each time slice")];
  if (drawn.scores) made.push(row(`Scores of ${drawn.guide}`, heat(drawn)));
  made.push(row(`Left visible: ${name(drawn)}`, hide(drawn)));
  $("difference-text").textContent = "";
  if (other) {
    if (other.scores) made.push(row(`Scores of ${other.guide}`, heat(other)));
    made.push(row(`Left visible: ${name(other)}`, hide(other)), row("Difference:", differ, key(drawn.guide, other.guide)));
    let both = 0, any = 0;
    for (let at = 0; at < drawn.hidden.length; at++) {
      both += drawn.hidden[at] === "1" && other.hidden[at] === "1";
      any += drawn.hidden[at] === "1" || other.hidden[at] === "1";
    }
    $("difference-text").textContent = `The two masks agree on ${both} of the ${any} patches that either hides: IoU ${(both / any).toFixed(2)}.`;
  }
  $("strips").replaceChildren(...made);
}
function histogram() {
  const slice = Number($("slice").value), svg = $("histogram"), text = $("histogram-text");
  $("slice-value").textContent = slice;
  if (!drawn?.scores) { svg.replaceChildren(); text.textContent = "A mask of chance ranks nothing: there are no scores."; return; }
  const size = drawn.shape[1] * drawn.shape[2], scores = drawn.scores.slice(slice * size, (slice + 1) * size);
  const low = Math.min(...scores), high = Math.max(...scores), bins = 24, range = high - low || 1;
  const counts = Array.from({ length: bins }, () => [0, 0]);
  let hidden = 0;
  scores.forEach((score, at) => {
    const is = isHidden(drawn, slice, at);
    hidden += is;
    counts[Math.min(Math.floor((bins * (score - low)) / range), bins - 1)][is ? 1 : 0] += 1;
  });
  const most = Math.max(...counts.map(([a, b]) => a + b)), made = [];
  counts.forEach(([seen, gone], at) => {
    const x = 10 + (460 * at) / bins, width = 460 / bins - 2, a = (130 * gone) / most, b = (130 * seen) / most;
    made.push(element("rect", { x, y: 140 - a, width, height: a, class: "b-hidden" }), element("rect", { x, y: 140 - a - b, width, height: b, class: "b-seen" }));
  });
  const sorted = [...scores].sort((a, b) => b - a), ranked = ["top-k", "bottom-k", "motion-vectors"].includes(drawn.kind);
  const chosen = drawn.kind === "top-k" ? Math.floor(Number(form.share.value) * hidden + 0.5) : hidden;
  if (ranked && chosen) {
    const cut = drawn.kind === "bottom-k" ? sorted[size - chosen] : sorted[chosen - 1], x = 10 + (460 * (cut - low)) / range;
    made.push(element("line", { x1: x, x2: x, y1: 4, y2: 140, class: "cut" }));
    text.textContent = `${hidden} of ${size} patches are hidden (blue, below) and ${size - hidden} visible (orange, above). ` +
      `By score: ${chosen}, from ${cut.toFixed(1)} ${drawn.kind === "bottom-k" ? "down" : "up"}${chosen < hidden ? `; ${hidden - chosen} more by chance` : ""}.`;
  } else text.textContent = `${hidden} of ${size} patches are hidden (blue, below); this kind has no cut-off by score.`;
  made.push(element("text", { x: 10, y: 160 }, low.toFixed(1)), element("text", { x: 470, y: 160, "text-anchor": "end" }, `${high.toFixed(1)} (of 255)`));
  svg.replaceChildren(...made);
}
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", (event) => {
  if (event.target.name === "run") {
    const here = new URL(location.href);
    here.searchParams.set("run", form.run.value);
    location.assign(here);
  } else draw();
});
$("slice").addEventListener("input", histogram);
$("show-object").addEventListener("change", strips);
$("next-draw").addEventListener("click", () => { form.crop.value = "trainer"; form.epoch.value = Number(form.epoch.value) + 1; draw(); });
settle();
draw();
