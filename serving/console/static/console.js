// What HTML alone cannot: theme, copying, parts of a page that are loaded again by themselves.
const root = document.documentElement;
const said = document.getElementById("said");

function tell(text) {
  said.textContent = text;
  said.classList.remove("hidden");
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
  const again = async () => {
    if (document.hidden || part.contains(document.activeElement)) return;
    try {
      const answer = await fetch(part.dataset.live, { headers: { "x-part": "1" } });
      if (!answer.ok) throw new Error(`${answer.status}`);
      part.innerHTML = await answer.text();
      part.classList.remove("stale");
    } catch (error) {
      part.classList.add("stale");
      part.dataset.since ??= new Date().toLocaleTimeString();
      part.title = `not loaded since ${part.dataset.since}: ${error.message}`;
    }
  };
  setInterval(again, 1000 * Number(part.dataset.every));
}
