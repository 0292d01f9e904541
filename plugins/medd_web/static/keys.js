// Single keys as commands, and the dialog that lists them: medd.keys({ "j": () => …, "Shift+ArrowUp": () => … }).
// Who speaks to the computer, or holds a key by mistake, can switch them off (WCAG 2.1.4).
"use strict";

(() => {
  const NAME = "medd-single-keys";
  const dialog = document.getElementById("keys");
  const box = document.getElementById("single-keys");

  let wanted = true;
  try {
    wanted = localStorage.getItem(NAME) !== "off";
  } catch {
    // Storage may be forbidden; they are on then.
  }
  box.checked = wanted;
  box.addEventListener("change", () => {
    wanted = box.checked;
    try {
      localStorage.setItem(NAME, wanted ? "on" : "off");
    } catch {
      // It holds for this page.
    }
  });

  const isTyping = (element) =>
    element.isContentEditable || element.matches("textarea, select, input:not([type=checkbox], [type=radio], [type=range])");

  /** What does no more each time than move what is looked at: held down, it goes on. All else waits for the next press. */
  const goesOn = (key) => key.startsWith("Arrow") || ["+", "=", "-", "j", "k"].includes(key);

  const show = () => dialog.open || dialog.showModal();
  document.getElementById("help").addEventListener("click", show);

  window.medd.keys = (commands) => {
    document.addEventListener("keydown", (event) => {
      if (!wanted || dialog.open || event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey) return;
      if (isTyping(event.target)) {
        if (event.key === "Escape") event.target.blur();
        return;
      }
      if (event.key === "?") {
        event.preventDefault();
        show();
        return;
      }
      if (event.repeat && !goesOn(event.key)) return;
      const command = commands[event.shiftKey && event.key.length > 1 ? `Shift+${event.key}` : event.key];
      if (command && command(event) !== false) event.preventDefault();
    });
  };
})();
