// What HTML alone cannot: theme, copying, parts of a page that are loaded again by themselves.
const root = document.documentElement;
const said = document.getElementById("said");

let quiet;
function tell(text) {
  said.textContent = text;
  said.classList.remove("hidden");
  clearTimeout(quiet);
  quiet = setTimeout(() => said.classList.add("hidden"), 5000);
}

try {
  const theme = localStorage.getItem("theme");
  if (theme) root.dataset.theme = theme;
} catch { /* storage may be closed */ }

document.addEventListener("click", async (event) => {
  const target = event.target.closest("[data-theme-switch], [data-copy]");
  if (!target) return;
  if (target.dataset.copy) {
    await navigator.clipboard.writeText(document.getElementById(target.dataset.copy).textContent);
    tell("Copied");
    return;
  }
  const dark = getComputedStyle(root).getPropertyValue("--dark").trim() === "1";
  root.dataset.theme = dark ? "light" : "dark";
  try { localStorage.setItem("theme", root.dataset.theme); } catch { /* it holds for this page */ }
});

// <div data-live="URL" data-every="SECONDS">: loaded again while the page is seen and nobody types in it.
for (const part of document.querySelectorAll("[data-live]")) {
  let last;
  const again = async () => {
    if (document.hidden || part.contains(document.activeElement)) return;
    try {
      const answer = await fetch(part.dataset.live, { headers: { "x-part": "1" } });
      if (!answer.ok) throw new Error(`${answer.status}`);
      const text = await answer.text();
      const before = part.querySelector("[data-tell]")?.dataset.tell;
      if (text !== last) part.innerHTML = last = text; // a message that is still there is not read out again
      const now = part.querySelector("[data-tell]")?.dataset.tell;
      if (now && now !== before) tell(now);
      part.classList.remove("stale");
      part.removeAttribute("title");
      delete part.dataset.since;
    } catch (error) {
      part.classList.add("stale");
      part.dataset.since ??= new Date().toLocaleTimeString();
      part.title = `not loaded since ${part.dataset.since}: ${error.message}`;
    }
  };
  setInterval(again, 1000 * Number(part.dataset.every));
}

// <section data-upload="URL" data-most="BYTES">: a file, dropped or chosen, goes there as it is.
for (const place of document.querySelectorAll("[data-upload]")) {
  const chosen = place.querySelector("input[type=file]");
  const sending = place.querySelector("[data-sending]");
  const [bar, how, problem] = ["progress", "[aria-live]", ".problem"].map((what) => place.querySelector(what));
  const fail = (text) => {
    problem.textContent = text;
    problem.classList.remove("hidden");
    sending.classList.add("hidden");
    chosen.disabled = false;
    chosen.value = "";
  };
  const send = (file) => {
    if (!file || chosen.disabled) return;
    problem.classList.add("hidden");
    if (file.size > Number(place.dataset.most)) {
      fail(`${file.name} has ${file.size.toLocaleString("en")} bytes, more than fit`);
      return;
    }
    sending.classList.remove("hidden");
    how.textContent = `Sending ${file.name}`;
    chosen.disabled = true;
    const request = new XMLHttpRequest();
    request.open("POST", `${place.dataset.upload}?name=${encodeURIComponent(file.name)}`);
    request.responseType = "json";
    request.upload.onprogress = (event) => { if (event.lengthComputable) bar.value = event.loaded / event.total; };
    request.onload = () => {
      if (request.status === 201) location.assign(request.response.url);
      else fail(request.response?.error ?? `refused: ${request.status}`);
    };
    request.onerror = () => fail("the file could not be sent; is this page still there?");
    request.send(file);
  };
  chosen.addEventListener("change", () => send(chosen.files[0]));
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      place.classList.toggle("over", kind === "dragover");
      if (kind === "drop") send(event.dataTransfer.files[0]);
    });
  }
}

// <section data-follow="URL">: how far a file is; the page is loaded again when it is done.
for (const part of document.querySelectorAll("[data-follow]")) {
  const [bar, how] = ["progress", "[aria-live]"].map((what) => part.querySelector(what));
  const look = async () => {
    try {
      const answer = await fetch(part.dataset.follow);
      if (!answer.ok) { location.reload(); return; }
      const { stage, done, total, over } = await answer.json();
      if (over) { location.reload(); return; }
      const rows = `${done.toLocaleString("en")}${total ? ` of ${total.toLocaleString("en")}` : ""} rows`;
      how.textContent = done ? `${stage}: ${rows}` : `${stage} …`;
      if (total) bar.value = done / total;
      part.classList.remove("stale");
    } catch { part.classList.add("stale"); }
    setTimeout(look, 400);
  };
  setTimeout(look, 200);
}

// The threshold page: what holds where a slider stands is looked up in the points of the page.
const points = JSON.parse(document.getElementById("points")?.textContent ?? "null");
if (points) {
  const sliders = Object.fromEntries([...document.querySelectorAll("[data-slider]")].map((one) => [one.dataset.slider, one]));
  const { review, block } = sliders;
  const stand = () => {
    for (const [which, slider] of Object.entries(sliders)) {
      const point = points[slider.value];
      slider.setAttribute("aria-valuetext", `${point.text}: recall ${point.recall}, precision ${point.precision}`);
      for (const cell of document.querySelectorAll(`[data-cell^="${which}."]`)) cell.textContent = point[cell.dataset.cell.split(".")[1]];
      for (const field of document.querySelectorAll(`[data-threshold="${which}"]`)) field.value = point.value;
      for (const mark of document.querySelectorAll(`[data-mark="${which}"]`)) mark.setAttribute("transform", `translate(${point.x} 0)`);
    }
    const cost = points[review.value].review + points[block.value].block;
    document.querySelector("[data-cost]").textContent = cost.toLocaleString("en-US", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
  };
  const moved = (event) => {  // review stays below block: one pushes the other
    const first = event.target === review;
    if (+review.value >= +block.value) (first ? block : review).value = +event.target.value + (first ? 1 : -1);
    if (+review.value >= +block.value) event.target.value = +event.target.value - (first ? 1 : -1);
    stand();
  };
  for (const slider of Object.values(sliders)) {
    slider.hidden = false;
    slider.addEventListener("input", moved);
  }
}
