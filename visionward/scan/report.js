"use strict";

const PAGE = 60;
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const names = read("names");
// Pictures are kept once: samples with the same content refer to the first one.
const rows = read("rows");
document.getElementById("rows").remove();

const form = document.getElementById("filters");
const cards = document.getElementById("cards");
const number = new Intl.NumberFormat("en");
let shown = [];
let page = 0;

function outcome(row) {
  return row.error === null ? row.verdict : "not judged";
}

function count(values) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) || 0) + 1);
  return counts;
}

function fill(name, counts, text, key) {
  const select = form.elements[name];
  for (const value of [...counts.keys()].sort((one, other) => key(one, other))) {
    select.append(new Option(`${text(value)} (${number.format(counts.get(value))})`, value));
  }
}

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function picture(row) {
  const data = typeof row.picture === "number" ? rows[row.picture].picture : row.picture;
  if (!data) return element("div", "none", "no picture");
  const button = element("button", "thumb");
  button.type = "button";
  button.setAttribute("aria-pressed", "false");
  button.setAttribute("aria-label", `Show the picture ${row.name}`);
  const image = element("img");
  image.alt = "";
  image.src = `data:image/jpeg;base64,${data}`;
  button.append(image);
  button.addEventListener("click", () => {
    button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
  });
  return button;
}

function card(row) {
  const made = element("li");
  const facts = element("div");
  const first = element("p");
  if (row.error === null) {
    first.append(element("span", `badge ${row.verdict}`, `${row.verdict.toUpperCase()} ${row.score.toFixed(3)}`));
  } else {
    first.append(element("span", "badge error", "NOT JUDGED"));
  }
  facts.append(first, element("p", "name", row.name));
  for (const code of row.categories) facts.append(element("p", "", `${code} ${names[code] || ""}`));
  if (row.error !== null) facts.append(element("p", "", row.error));
  if (row.text) facts.append(element("p", "text quiet", row.text));
  if (row.copy) facts.append(element("p", "quiet", `the same content as ${row.copy}`));
  for (const warning of row.warnings) facts.append(element("p", "quiet", `Note: ${warning}`));
  made.append(picture(row), facts);
  return made;
}

function draw() {
  const pages = Math.max(1, Math.ceil(shown.length / PAGE));
  page = Math.min(page, pages - 1);
  const start = page * PAGE;
  cards.replaceChildren(...shown.slice(start, start + PAGE).map(card));
  const end = Math.min(start + PAGE, shown.length);
  document.getElementById("position").textContent = shown.length
    ? `${number.format(start + 1)} to ${number.format(end)} of ${number.format(shown.length)}`
    : "no sample matches the filters";
  document.getElementById("previous").disabled = page === 0;
  document.getElementById("next").disabled = page === pages - 1;
}

const ORDERS = {
  // Samples without a score come last in both.
  down: (one, other) => (other.score ?? -1) - (one.score ?? -1),
  up: (one, other) => (one.score ?? 2) - (other.score ?? 2),
  name: (one, other) => (one.name < other.name ? -1 : one.name > other.name ? 1 : 0),
};

function filter() {
  const wanted = new FormData(form);
  const outcomes = new Set(wanted.getAll("verdict"));
  const category = wanted.get("category");
  const folder = wanted.get("folder");
  const name = wanted.get("name").toLowerCase();
  const from = Number(wanted.get("from"));
  const to = wanted.get("to") === "" ? 1 : Number(wanted.get("to"));
  shown = rows.filter(
    (row) =>
      outcomes.has(outcome(row)) &&
      (!category || row.categories.includes(category)) &&
      (!folder || row.folder === folder) &&
      (row.score === null || (row.score >= from && row.score <= to)) &&
      (!name || row.name.toLowerCase().includes(name)),
  );
  shown.sort(ORDERS[wanted.get("order")]);
  cards.classList.toggle("clear", wanted.get("clear") !== null);
  page = 0;
  draw();
}

function turn(step) {
  page += step;
  draw();
  window.scrollTo(0, 0);
}

const outcomes = count(rows.map(outcome));
document.getElementById("counts").textContent =
  `${number.format(rows.length)} samples: ` +
  ["safe", "unsafe", "not judged"].map((value) => `${number.format(outcomes.get(value) || 0)} ${value}`).join(", ");
const byNumber = (one, other) => Number(one.slice(1)) - Number(other.slice(1));
fill("category", count(rows.flatMap((row) => row.categories)), (code) => `${code} ${names[code] || ""}`, byNumber);
fill("folder", count(rows.map((row) => row.folder)), (folder) => folder, (one, other) => (one < other ? -1 : 1));
form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
document.getElementById("previous").addEventListener("click", () => turn(-1));
document.getElementById("next").addEventListener("click", () => turn(1));
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input, select") || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "ArrowRight" && !document.getElementById("next").disabled) turn(1);
  if (event.key === "ArrowLeft" && !document.getElementById("previous").disabled) turn(-1);
});
filter();
