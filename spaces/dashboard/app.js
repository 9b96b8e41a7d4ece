// Runs once, when gradio has put the page in place: `element` holds it, `server.show(query)` draws another one.
// Links of the page (href="?…") are followed here, so that only the page is exchanged and the back button works.
const show = async (query, { push = false, replace = false, focus = "" } = {}) => {
  const asked = (show.asked = (show.asked || 0) + 1);
  element.classList.add("busy");
  let html;
  try { html = await server.show(query); }
  catch { if (push) location.href = query || "?"; return; }
  finally { if (asked === show.asked) element.classList.remove("busy"); }
  if (asked !== show.asked || typeof html !== "string") return;
  if (push) {
    history[replace ? "replaceState" : "pushState"]({}, "", query || location.pathname);
    window.parent !== window && window.parent.postMessage({ queryString: query.slice(1) }, "https://huggingface.co");
  }
  const place = element.querySelector("#dashboard");
  const before = place.dataset.page, typed = document.activeElement;
  const field = typed && place.contains(typed) ? typed.id : "", caret = typed && typed.selectionStart;
  place.outerHTML = html;
  const now = element.querySelector("#dashboard");
  document.title = now.dataset.title;
  const again = (focus || field) && document.getElementById(focus || field);
  if (again) {
    again.focus({ preventScroll: true });
    if (typeof caret === "number" && again.setSelectionRange && again.type === "search") again.setSelectionRange(caret, caret);
  } else if (before !== now.dataset.page) {
    now.querySelector("#content").focus({ preventScroll: true });
    window.scrollTo(0, 0);
  } else if (push) {
    const mark = now.querySelector("a.mark[aria-current]");
    if (mark && typed && typed.closest("svg")) mark.focus({ preventScroll: true });
  }
};
const local = (event, selector) => event.target.closest && event.target.closest(selector);
element.addEventListener("click", (event) => {
  const copy = local(event, "[data-copy]");
  if (copy) return copied(copy);
  const save = local(event, "[data-save]");
  if (save) return saved(save);
  const link = local(event, "a[href^='?']");
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  show(link.getAttribute("href"), { push: true, focus: link.id });
});
let drawn = Date.now();
document.addEventListener("visibilitychange", () => { // a page that comes back after more than a minute may be old
  if (document.hidden || Date.now() - drawn < 60000) return;
  drawn = Date.now();
  show(location.search);
});
window.addEventListener("popstate", () => show(location.search));
const filtered = (form, replace = false) => {
  const query = new URLSearchParams(form.dataset.filters === "own" ? "" : location.search);
  query.delete("from");
  for (const [name, value] of new FormData(form)) value ? query.set(name, value) : query.delete(name);
  show("?" + query, { push: true, replace });
};
let waiting;
element.addEventListener("submit", (event) => { event.preventDefault(); clearTimeout(waiting); filtered(event.target); });
element.addEventListener("change", (event) => {
  const form = event.target.tagName === "SELECT" && local(event, "form[data-filters]");
  if (form) filtered(form);
});
element.addEventListener("input", (event) => {
  const form = event.target.type === "search" && local(event, "form[data-filters]");
  clearTimeout(waiting);
  if (form) waiting = setTimeout(() => filtered(form, true), 250);
});
element.addEventListener("keydown", (event) => {
  const marks = local(event, "[data-roving]");
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!marks || !step) return;
  const all = [...marks.querySelectorAll("a.mark")];
  const next = all[all.indexOf(document.activeElement) + step];
  if (next) { event.preventDefault(); next.focus(); }
});
const tip = (event) => {
  const mark = local(event, "[data-tip]"), box = element.querySelector(".tip");
  if (!box) return;
  box.hidden = !mark;
  if (!mark) return;
  box.textContent = mark.dataset.tip;
  const at = (mark.querySelector(".dot") || mark).getBoundingClientRect(), frame = box.parentElement.getBoundingClientRect();
  const left = at.left + at.width / 2 - frame.left - box.offsetWidth / 2;
  box.style.left = Math.max(4, Math.min(left, frame.width - box.offsetWidth - 4)) + "px";
  box.style.top = at.top - frame.top - box.offsetHeight - 10 + "px";
};
element.addEventListener("pointerover", tip);
element.addEventListener("focusin", tip);
element.addEventListener("focusout", () => { const box = element.querySelector(".tip"); if (box) box.hidden = true; });
const copied = async (button) => {
  const source = document.getElementById(button.dataset.copy);
  try { await navigator.clipboard.writeText(source.textContent); }
  catch { getSelection().selectAllChildren(source); document.execCommand("copy"); }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
};
const saved = async (button) => {
  const kind = button.dataset.save, text = await server.save([kind, location.search]);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: kind === "csv" ? "text/csv" : "application/json" }));
  link.download = "contributions." + kind;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};
show(location.search);
