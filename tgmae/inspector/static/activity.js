// The jobs of the workspace and their latest events, as they come.
const MOST = 300;
const list = document.getElementById("events");
const shown = document.getElementById("jobs");
const jobs = new Map();
const recent = [];

const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString();
function left(job) {
  const rate = job.rate;
  if (!rate || job.ended) return "";
  const seconds = Math.max(0, Math.round((job.total - job.done) / rate));
  return `, ${rate.toPrecision(3)} ${job.unit}s/s, ${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")} left`;
}
function text(event) {
  const rest = Object.entries(event).filter(([name]) => !["time", "event", "stage", "job"].includes(name));
  const said = rest.map(([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : value}`).join("  ");
  return `${clock(event.time)}  ${event.stage}  ${event.event}  ${said}`;
}
function draw() {
  const newest = [...jobs.values()].sort((a, b) => b.time - a.time).slice(0, 12);
  shown.replaceChildren(...newest.map((job) => {
    const item = document.createElement("li");
    item.className = "job";
    const title = document.createElement("strong");
    title.textContent = job.stage;
    const words = document.createElement("span");
    words.className = "note";
    const silent = !job.ended && Date.now() / 1000 - job.time > 120 ? " (silent for two minutes)" : "";
    words.textContent = ` ${job.done ?? 0} of ${job.total} ${job.unit}s${left(job)}, ${job.failures} failed, since ${clock(job.first)}: ${job.ended || "running"}${silent}`;
    const bar = document.createElement("progress");
    bar.max = Math.max(job.total, 1);
    bar.value = job.done ?? 0;
    bar.setAttribute("aria-label", job.stage);
    item.append(title, words, bar);
    return item;
  }));
  list.replaceChildren(...recent.slice(-MOST).reverse().map((event) => {
    const line = document.createElement("li");
    line.textContent = text(event);
    if (event.event === "failure") line.className = "bad";
    return line;
  }));
}
document.addEventListener("tgmae:events", ({ detail }) => {
  if (!detail.length) return;
  for (const event of detail) {
    if (event.event === "begin") jobs.set(event.job, { ...event, first: event.time, from: event.done, failures: 0 });
    const job = jobs.get(event.job);
    if (event.event !== "progress") recent.push(event);
    if (!job) continue;
    job.time = event.time;
    if (event.done !== undefined) job.done = event.done;
    if (event.event === "failure") job.failures += 1;
    if (event.event === "end") job.ended = event.status + (event.message ? `: ${event.message}` : "");
    if (event.time > job.first) job.rate = (job.done - job.from) / (event.time - job.first);
  }
  draw();
});
