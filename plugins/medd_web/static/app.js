// What every page has: the switch between light and dark, and words for requests that failed.
"use strict";

const root = document.documentElement;

document.getElementById("theme").addEventListener("click", () => {
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  const next = (root.dataset.theme || system) === "dark" ? "light" : "dark";
  root.dataset.theme = next;
  try {
    localStorage.setItem("medd-theme", next);
  } catch {
    // Storage may be forbidden; the choice holds for this page.
  }
});

// A menu closes when the focus or a click leaves it, and by Escape.
for (const menu of document.querySelectorAll("details.menu")) {
  document.addEventListener("click", (event) => menu.contains(event.target) || (menu.open = false));
  menu.addEventListener("focusout", (event) => event.relatedTarget && !menu.contains(event.relatedTarget) && (menu.open = false));
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !menu.open) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
}

// Says something for a while in the corner: medd.notify("saved"), medd.notify("no answer", "failed").
function notify(text, kind = "") {
  const notice = document.createElement("p");
  notice.className = `notice ${kind}`;
  notice.textContent = text;
  document.getElementById("notices").append(notice);
  setTimeout(() => notice.remove(), 8000);
}

window.medd = { notify };

document.addEventListener("htmx:sendError", () => notify("The server does not answer.", "failed"));
document.addEventListener("htmx:responseError", (event) => {
  let detail = "";
  try {
    detail = JSON.parse(event.detail.xhr.responseText).detail;
  } catch {
    // Not every answer is problem details.
  }
  notify(detail || `The server refused this (${event.detail.xhr.status}).`, "failed");
});
