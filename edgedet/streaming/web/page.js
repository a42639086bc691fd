"use strict";
const PICTURE_MS = 100, FIGURES_MS = 1000, TIMEOUT_MS = 4000, OLD_MS = 5000;
const cards = new Map();
let lostSince = null;
const byId = (id) => document.getElementById(id);
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const visible = new IntersectionObserver((entries) => {
  for (const entry of entries) entry.target.seen = entry.isIntersecting;
});

/* Words and numbers */
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString();
const moment = (seconds) => {
  const day = new Date(seconds * 1000);
  return (day.toDateString() === new Date().toDateString() ? "" : day.toLocaleDateString() + " ") + clock(seconds);
};
function duration(seconds) {
  if (seconds < 90) return `${Math.max(Math.round(seconds), 0)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}
const milliseconds = (value) => (value < 10 ? value.toFixed(1) : value < 10000 ? value.toFixed(0) : (value / 1000).toFixed(0) + " k");
const count = (number) => number.toLocaleString();
const unbroken = (words) => words.replaceAll(" ", "\u00a0");
const listed = (counts) => Object.entries(counts).map(([name, number]) => unbroken(`${name} ${count(number)}`)).join(", ");
const total = (counts) => Object.values(counts).reduce((sum, number) => sum + number, 0);

/* Write only what changed: a screen reader and the layout are left alone otherwise. */
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
function figure(card, name, text, detail = "") {
  const place = card.querySelector(`[data-figure=${name}]`);
  if (place.dataset.shown === text + "\n" + detail) return;
  place.dataset.shown = text + "\n" + detail;
  place.textContent = text;
  if (detail) place.append(Object.assign(document.createElement("span"), { textContent: detail }));
}

/* Rows of text and detail; the figure is not shown where there are none. */
function rows(card, name, found) {
  const place = card.querySelector(`[data-figure=${name}]`), shown = JSON.stringify(found);
  place.parentElement.hidden = !found.length;
  if (place.dataset.shown === shown) return;
  place.dataset.shown = shown;
  place.replaceChildren(...found.map(([text, detail]) => {
    const row = Object.assign(document.createElement("div"), { textContent: text });
    if (detail) row.append(Object.assign(document.createElement("span"), { textContent: detail }));
    return row;
  }));
}
function crossings([line, ways]) {
  const sides = Object.entries(ways);
  const text = sides.map(([way, counts]) => unbroken(`${count(total(counts))} to the ${way}`)).join(", ");
  return [`${line}: ${text}`, sides.filter(([, counts]) => total(counts)).map(([way, counts]) => `${way}: ${listed(counts)}`).join("; ")];
}

/* A card a stream */
function cardOf(name) {
  if (cards.has(name)) return cards.get(name);
  const card = byId("card").content.cloneNode(true).querySelector("article");
  const base = `streams/${encodeURIComponent(name)}`;
  card.dataset.name = name;
  card.live = { url: `${base}/live.jpg`, tag: "", at: performance.now(), wanted: false };
  card.querySelector("h2").textContent = name;
  card.setAttribute("aria-label", name);
  card.querySelector(".with").href = `${base}/snapshot.jpg`;
  card.querySelector(".without").href = `${base}/snapshot.jpg?boxes=0`;
  card.querySelector("button").addEventListener("click", () => card.querySelector("figure").requestFullscreen());
  cards.set(name, card);
  byId("streams").append(card);
  visible.observe(card);
  follow(card);
  return card;
}
const failed = (stream) => stream.state === "ended" && Boolean(stream.reason);
function show(stream, now) {
  const card = cardOf(stream.name);
  const state = stream.state === "online" && stream.stalled ? "stalled" : stream.state;
  if (!card.live.wanted) card.live.at = performance.now();
  card.live.wanted = stream.picture && (state === "online" || (state === "ended" && !stream.reason));
  card.className = `card ${failed(stream) ? "failed" : state}`;
  write(card.querySelector(".badge"), failed(stream) ? "given up" : state === "stalled" ? "no new results" : state);
  cover(card, state, stream, now);
  const age = stream.age_ms, size = stream.size_hw;
  figure(card, "fps", stream.fps.toFixed(1));
  figure(card, "age", age ? `${milliseconds(age.p50)} ms` : "–", age ? `95 %: ${milliseconds(age.p95)} ms` : "");
  figure(card, "size", size ? `${size[1]} × ${size[0]}` : "–");
  figure(card, "objects", count(stream.objects), listed(stream.classes));
  figure(card, "tracks", stream.tracks === null ? "–" : count(stream.tracks));
  figure(card, "frames", count(stream.frames));
  const drops = { ...stream.dropped };
  for (const [sink, number] of Object.entries(stream.sink_dropped)) drops[`sink ${sink}`] = number;
  figure(card, "dropped", count(total(drops)), listed(drops));
  figure(card, "reconnects", count(stream.reconnects));
  rows(card, "zones", Object.entries(stream.zones).map(([zone, number]) => [`${zone}: ${count(number)}`, ""]));
  rows(card, "lines", Object.entries(stream.lines).map(crossings));
  const stages = Object.entries(stream.stages_ms).map(([name, value]) => unbroken(`${name} ${milliseconds(value.p50)} ms`));
  figure(card, "stages", stages.length ? "" : "–", stages.join(", "));
}

/* What must never look live is grey, dark and says what it is. */
function cover(card, state, stream, now) {
  const since = `since ${moment(stream.since_s)}, for ${duration(now - stream.since_s)}${stream.reason ? "\n" + stream.reason : ""}`;
  const old = performance.now() - card.live.at > OLD_MS && card.live.wanted;
  let title = "", text = "";
  if (failed(stream)) [title, text] = ["Given up", since];
  else if (state === "offline") [title, text] = ["Offline", since];
  else if (state === "connecting") [title, text] = ["Connecting", since];
  else if (state === "stalled") [title, text] = ["No new results", `for ${duration(stream.result_age_s ?? now - stream.since_s)}`];
  else if (state === "ended") text = stream.picture ? "" : "Ended";
  else if (!stream.picture) text = "No picture yet";
  else if (old) [title, text] = ["Picture is old", "the server gives no newer one"];
  const place = card.querySelector(".cover");
  place.hidden = !title && !text;
  card.classList.toggle("frozen", !place.hidden);
  write(place.querySelector("strong"), title);
  write(place.querySelector("span"), text);
  const things = `${count(stream.objects)} ${stream.objects === 1 ? "object" : "objects"}`;
  const label = `${stream.name}: ${title || text || (state === "ended" ? "the last picture" : "live picture")}, ${things}`;
  const canvas = card.querySelector("canvas");
  if (canvas.getAttribute("aria-label") !== label) canvas.setAttribute("aria-label", label);
}

/* Pictures: one request at a time a stream, so that a slow network gets fewer of them instead of older ones. */
async function follow(card) {
  while (cards.get(card.dataset.name) === card) {
    const began = performance.now();
    if (card.live.wanted && card.seen && !document.hidden && lostSince === null) await refresh(card).catch(() => {});
    else card.live.at = began;
    await pause(Math.max(PICTURE_MS - (performance.now() - began), 10));
  }
}
async function refresh(card) {
  const answer = await fetch(card.live.url, { headers: { "If-None-Match": card.live.tag }, signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (answer.status === 200) {
    const bitmap = await createImageBitmap(await answer.blob());
    const canvas = card.querySelector("canvas");
    if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
    card.live.tag = answer.headers.get("ETag");
  } else if (answer.status !== 304) return;
  card.live.at = performance.now();
}

/* Events, newest first */
function sentence(event) {
  const detail = Object.entries(event.detail).map(([name, value]) => {
    if (name === "reason") return String(value);
    if (name === "size_hw") return `${value[1]} × ${value[0]}`;
    return name.endsWith("_s") ? `${name.slice(0, -2)} ${value} s` : `${name.replaceAll("_", " ")} ${value}`;
  });
  return `${event.stream} ${event.kind}${detail.length ? ": " + detail.join(", ") : ""}`;
}
function showEvents(events) {
  const list = byId("events"), latest = events.length ? String(events.at(-1).id) : "none";
  if (list.dataset.latest === latest) return;
  list.dataset.latest = latest;
  const items = events.map((event) => {
    const item = Object.assign(document.createElement("li"), { className: event.kind });
    item.append(Object.assign(document.createElement("time"), { textContent: clock(event.at_s) }), sentence(event));
    return item;
  });
  list.replaceChildren(...(items.length ? items.reverse() : [Object.assign(document.createElement("li"), { textContent: "None yet" })]));
}

/* The page as a whole */
function showAll(answer) {
  const names = new Set(answer.streams.map((stream) => stream.name));
  for (const [name, card] of cards) if (!names.has(name)) { cards.delete(name); card.remove(); }
  for (const stream of answer.streams) show(stream, answer.time_s);
  showEvents(answer.events);
  const live = answer.streams.filter((stream) => stream.state === "online" && !stream.stalled).length;
  const out = answer.streams.filter((stream) => stream.state === "offline" || stream.stalled || failed(stream)).map((stream) => stream.name);
  write(byId("summary"), `${live} of ${names.size} ${names.size === 1 ? "stream" : "streams"} online${out.length ? "; out: " + out.join(", ") : ""}`);
  document.title = `${out.length ? "(" + out.length + " out) " : ""}edgedet`;
}
function lose(reason) {
  lostSince ??= Date.now() / 1000;
  byId("lost").hidden = false;
  write(byId("lost"), `No answer since ${moment(lostSince)}: ${reason}. Nothing here is live.`);
  write(byId("summary"), "Not connected");
  document.title = "(lost) edgedet";
  for (const card of cards.values()) {
    card.className = "card frozen";
    write(card.querySelector(".badge"), "unknown");
    card.querySelector(".cover").hidden = false;
    write(card.querySelector("strong"), "No connection");
    write(card.querySelector(".cover span"), `last seen ${moment(lostSince)}`);
    card.querySelector("canvas").setAttribute("aria-label", `${card.dataset.name}: no connection, an old picture`);
  }
}
async function figures() {
  for (;;) {
    try {
      const answer = await fetch("streams", { signal: AbortSignal.timeout(TIMEOUT_MS) });
      if (!answer.ok) throw new Error(answer.status === 401 ? "the token is needed again" : `the server answers ${answer.status}`);
      const known = await answer.json();
      lostSince = null;
      byId("lost").hidden = true;
      showAll(known);
    } catch (error) {
      lose(error.name === "Error" ? error.message : "the server cannot be reached");
    }
    await pause(FIGURES_MS);
  }
}
figures();
