import { curlCommand, pythonProgram } from "./snippets.js";

const API = new URL("v1", location.href).href;
const TIMINGS = [
  ["queue", "Waiting for other requests"],
  ["preprocess", "Image to tiles"],
  ["vision", "Vision tower"],
  ["prefill", "Prompt"],
  ["decode", "Categories"],
  ["total", "Total, without waiting"],
];

const element = (id) => document.getElementById(id);
const made = (tag, text = "", properties = {}) => Object.assign(document.createElement(tag), { textContent: text }, properties);

// What the server is, and what is asked.
let model = { id: "", visionward: { threshold: 0.5, categories: {} } };
let needsKey = false;
let images = [];
let running = null;

const turns = () => [...document.querySelectorAll("#turns textarea")];
const role = (index) => (index % 2 ? "assistant" : "user");

function addTurn(focused = true) {
  const index = turns().length;
  const id = `turn-${index}`;
  const item = made("li");
  const head = made("div", "", { className: "turn-head" });
  head.append(made("label", index % 2 ? "Assistant" : "User", { htmlFor: id }));
  if (index > 0) {
    const remove = made("button", "Remove", { type: "button" });
    remove.setAttribute("aria-label", `Remove message ${index + 1} and those after it`);
    remove.addEventListener("click", () => {
      [...element("turns").children].slice(index).forEach((one) => one.remove());
      turnsChanged();
      element("add-turn").focus();
    });
    head.append(remove);
  }
  const text = made("textarea", "", { id, rows: 3 });
  text.addEventListener("input", showRequest);
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      element("form").requestSubmit();
    }
  });
  item.append(head, text);
  element("turns").append(item);
  turnsChanged();
  if (focused) {
    text.focus();
  }
}

function turnsChanged() {
  const last = turns().length - 1;
  element("add-turn").textContent = last % 2 ? "Add a user message" : "Add a response";
  element("judged-line").textContent = `Message ${last + 1}, the ${last % 2 ? "assistant" : "user"}'s, is judged.`;
  showRequest();
}

async function addImages(files) {
  for (const file of files) {
    if (!file.type.startsWith("image/")) {
      showError(`${file.name} is no image.`);
      continue;
    }
    const url = await new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.onerror = () => reject(reader.error);
      reader.readAsDataURL(file);
    });
    images.push({ name: file.name, type: file.type, url });
  }
  showImages();
}

function showImages() {
  element("images").replaceChildren(
    ...images.map((image, index) => {
      const item = made("li");
      const remove = made("button", "Remove", { type: "button" });
      remove.setAttribute("aria-label", `Remove ${image.name}`);
      remove.addEventListener("click", () => {
        images.splice(index, 1);
        showImages();
        element("image-input").focus();
      });
      item.append(made("img", "", { src: image.url, alt: "" }), made("span", image.name), remove);
      return item;
    }),
  );
  showRequest();
}

function requestBody(urls) {
  const messages = turns().map((turn, index) => ({ role: role(index), content: turn.value }));
  if (urls.length) {
    const parts = urls.map((url) => ({ type: "image_url", image_url: { url } }));
    messages[0].content = [...parts, { type: "text", text: messages[0].content }];
  }
  const scored = element("category-scores").checked;
  return { model: model.id, messages, ...(scored ? { visionward: { category_scores: true } } : {}) };
}

function showRequest() {
  let token = "IMAGE_";
  while (turns().some((turn) => turn.value.includes(token))) {
    token += "_";
  }
  const body = requestBody(images.map((_, index) => token + index));
  element("curl").textContent = curlCommand(API, body, token, images, needsKey);
  element("python").textContent = pythonProgram(API, body, token, images, needsKey);
}

const headers = () => (needsKey ? { Authorization: `Bearer ${element("key").value}` } : {});

async function failure(response) {
  const body = await response.json().catch(() => null);
  return body?.error?.message ?? `The server answered with status ${response.status}.`;
}

async function readModel() {
  const response = await fetch(`${API}/models`, { headers: headers() });
  if (response.status === 401) {
    needsKey = true;
    element("key-field").hidden = false;
    showRequest();
    return;
  }
  if (!response.ok) {
    throw new Error(await failure(response));
  }
  model = (await response.json()).data[0];
  const { threshold } = model.visionward;
  element("model-line").textContent = `The model is ${model.id}; the threshold is ${threshold}.`;
  showRequest();
}

async function classify() {
  running = new AbortController();
  setRunning(true);
  try {
    if (!model.id) {
      await readModel();
    }
    const response = await fetch(`${API}/chat/completions`, {
      method: "POST",
      headers: { "Content-Type": "application/json", ...headers() },
      body: JSON.stringify(requestBody(images.map((image) => image.url))),
      signal: running.signal,
    });
    if (!response.ok) {
      throw new Error(await failure(response));
    }
    showVerdict((await response.json()).visionward);
  } catch (error) {
    if (error.name === "AbortError") {
      showError("Cancelled; there is no verdict.");
    } else {
      showError(error instanceof TypeError ? "The server cannot be reached; there is no verdict." : error.message);
    }
  } finally {
    running = null;
    setRunning(false);
  }
}

function setRunning(on) {
  element("judge").disabled = on;
  element("cancel").hidden = !on;
  element("progress").textContent = on ? "Classifying …" : "";
}

function showError(message) {
  for (const id of ["verdict", "score-line", "details", "empty"]) {
    element(id).hidden = true;
  }
  element("error").hidden = false;
  element("error").textContent = message;
}

function showVerdict(found) {
  element("empty").hidden = element("error").hidden = true;
  for (const id of ["verdict", "score-line", "details"]) {
    element(id).hidden = false;
  }
  const named = found.categories.map(({ code, name }) => `${code} ${name}`).join(", ");
  const sign = found.verdict === "safe" ? "✓ SAFE" : "✕ UNSAFE";
  element("verdict").className = found.verdict;
  element("verdict").textContent = named ? `${sign}: ${named}` : sign;
  element("score-line").textContent =
    `P(unsafe) ${found.score.toFixed(3)}, threshold ${model.visionward.threshold}; ` +
    `${Math.round(found.answer_mass * 100)} % of the probability is on safe/unsafe.`;
  element("warnings").replaceChildren(...found.warnings.map((warning) => made("li", warning)));
  showBars(
    "categories",
    Object.entries(found.category_scores)
      .filter(([, score]) => score !== null)
      .map(([code, score]) => ({
        label: `${code} ${model.visionward.categories[code] ?? ""}`,
        share: score,
        number: score.toFixed(3),
        named: found.categories.some((category) => category.code === code),
      })),
  );
  const times = found.timings_ms;
  const longest = Math.max(times.total, times.queue, 1e-9);
  showBars(
    "timings",
    TIMINGS.map(([stage, label]) => ({
      label,
      share: times[stage] / longest,
      number: times[stage] < 9999.5 ? `${times[stage].toFixed(times[stage] < 10 ? 1 : 0)} ms` : `${(times[stage] / 1000).toFixed(1)} s`,
    })),
  );
  element("result").scrollIntoView({ block: "nearest" });
}

function showBars(id, rows) {
  element(id).hidden = rows.length === 0;
  element(id).tBodies[0].replaceChildren(
    ...rows.map(({ label, share, number, named = false }) => {
      const row = made("tr", "", { className: named ? "named" : "" });
      const head = made("th", named ? `${label} (named)` : label, { scope: "row" });
      const bar = made("td", "", { className: "bar" });
      bar.setAttribute("aria-hidden", "true");
      const filled = made("div");
      filled.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
      bar.append(filled);
      row.append(head, bar, made("td", number, { className: "number" }));
      return row;
    }),
  );
}

element("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!running) {
    classify();
  }
});
element("cancel").addEventListener("click", () => running?.abort());
element("add-turn").addEventListener("click", () => addTurn());
element("category-scores").addEventListener("change", showRequest);
element("key").addEventListener("change", () => readModel().catch((error) => showError(error.message)));
element("image-input").addEventListener("change", async (event) => {
  await addImages(event.target.files);
  event.target.value = "";
});

document.addEventListener("dragover", (event) => {
  event.preventDefault();
  element("drop").classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) {
    element("drop").classList.remove("over");
  }
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  element("drop").classList.remove("over");
  addImages(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) {
    event.preventDefault();
    addImages(event.clipboardData.files);
  }
});

for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const name = button.dataset.copy === "curl" ? "The curl command" : "The Python program";
    const copied = await navigator.clipboard?.writeText(element(button.dataset.copy).textContent).then(
      () => true,
      () => false,
    );
    element("copied").textContent = copied ? `${name} was copied.` : "The browser allows no copying here; select the text.";
  });
}

addTurn(false);
readModel().catch((error) => showError(error instanceof TypeError ? "The server cannot be reached." : error.message));
