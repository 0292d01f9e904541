// Before anything is drawn, so that no light page flashes up in a dark reading room.
(() => {
  "use strict";
  let chosen = null;
  try {
    chosen = localStorage.getItem("medd-theme");
  } catch {
    // Storage may be forbidden; the system's choice holds then.
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
