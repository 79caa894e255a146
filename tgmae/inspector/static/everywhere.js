// On every page: theme, keyboard, filters that apply themselves, what runs in the background.

export async function json(url, signal) {
  const answer = await fetch(url, { signal });
  if (!answer.ok) throw new Error((await answer.text()).trim() || answer.statusText);
  return answer.json();
}

const themes = ["", "light", "dark"];
const theme = document.getElementById("theme");
function say() {
  const now = document.documentElement.dataset.theme || "";
  theme.textContent = { "": "◐", light: "○", dark: "●" }[now];
  theme.setAttribute("aria-label", `Colours: ${now || "as the system"}`);
}
theme.addEventListener("click", () => {
  const next = themes[(themes.indexOf(document.documentElement.dataset.theme || "") + 1) % 3];
  if (next) document.documentElement.dataset.theme = next;
  else delete document.documentElement.dataset.theme;
  try { localStorage.setItem("tgmae-theme", next); } catch { /* for this page only */ }
  say();
});
say();

const shortcuts = document.getElementById("shortcuts");
document.getElementById("keys").addEventListener("click", () => shortcuts.showModal());

const grid = document.getElementById("grid");
function moveInGrid(key) {
  const cards = [...grid.querySelectorAll(".card")];
  const at = cards.indexOf(document.activeElement);
  if (!cards.length) return false;
  if (at < 0) { cards[0].focus(); return true; }
  const columns = getComputedStyle(grid).gridTemplateColumns.split(" ").length;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
  const next = cards[at + step];
  if (next) next.focus();
  return Boolean(next);
}
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, select, textarea, dialog[open]")) return;
  const search = document.getElementById("search");
  if (event.key === "/" && search) { event.preventDefault(); search.focus(); search.select(); }
  else if (event.key === "?") shortcuts.showModal();
  else if (event.key === "j" || event.key === "k") document.getElementById(event.key === "j" ? "next" : "previous")?.click();
  else if (event.key.startsWith("Arrow") && grid && moveInGrid(event.key)) event.preventDefault();
});

const filters = document.getElementById("filters");
if (filters) {
  const more = document.getElementById("more");
  if (window.matchMedia("(max-width: 820px)").matches) more.open = false;
  filters.addEventListener("change", (event) => {
    // Another sort begins at its own end; the search waits for Enter.
    if (event.target.name === "sort") for (const each of filters.elements.order) each.disabled = true;
    if (event.target.name !== "q") filters.requestSubmit();
  });
  filters.addEventListener("submit", () => {
    for (const each of filters.elements) if (each.name && each.value === "") each.disabled = true;
  });
  window.addEventListener("pageshow", () => { for (const each of filters.elements) each.disabled = false; });
}

for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
    button.textContent = "Copied";
  });
}

for (const video of document.querySelectorAll(".card video")) {
  const card = video.closest(".card");
  const play = () => video.play().catch(() => {});
  card.addEventListener("pointerenter", play);
  card.addEventListener("focus", play);
  card.addEventListener("pointerleave", () => video.pause());
  card.addEventListener("blur", () => video.pause());
}

// What is measured, and the job that runs: asked for now and then while the page is looked at.
const live = document.getElementById("live");
const waiting = document.querySelector("[data-wait]");
let next = 0;
const jobs = new Map();
async function look() {
  if (document.hidden) return;
  try {
    const state = await json("/api/state");
    if (waiting && state.ready) { location.reload(); return; }
    if (waiting) document.getElementById("busy").textContent = state.trouble || state.busy;
    const found = await json(`/api/events?after=${next}`);
    next = found.next;
    for (const event of found.events) {
      if (event.event === "end") jobs.delete(event.job);
      else if (event.event === "begin") jobs.set(event.job, { ...event });
      else if (jobs.has(event.job)) Object.assign(jobs.get(event.job), { ...event, event: "begin" });
    }
    document.dispatchEvent(new CustomEvent("tgmae:events", { detail: found.events }));
    const running = [...jobs.values()].filter((job) => Date.now() / 1000 - job.time < 120).pop();
    if (running) live.textContent = `${running.stage}: ${running.done ?? 0} of ${running.total}`;
    else if (state.measured < state.maps) live.textContent = `measuring maps: ${Math.floor((100 * state.measured) / state.maps)} %`;
    else live.textContent = "";
    const note = document.getElementById("measuring");
    if (note && state.measured >= state.maps) note.textContent = "All score maps are measured now: reload for the final order.";
  } catch { /* the server ended; the page stays readable */ }
}
look();
setInterval(look, 1500);

// A node of an SVG picture.
export function element(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}
