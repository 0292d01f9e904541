// The keys of the case page, and what changes while it is open: a late image, a result, another reader's word.
"use strict";

(() => {
  const click = (id) => {
    const found = document.getElementById(id);
    return found ? found.click() : false;
  };
  const images = [...document.querySelectorAll(".images-of-study a")];
  const turn = (by) => {
    const at = images.findIndex((one) => one.getAttribute("aria-current"));
    return images[at + by] ? images[at + by].click() : false;
  };
  window.medd.keys({
    a: () => click("agree"),
    d: () => document.getElementById("disagree") ? click("disagree") : document.getElementById("other")?.focus(),
    c: () => click("unsure"),
    z: () => click("undo"),
    m: () => click("read"),
    n: () => click("skip"),
    w: () => click("back"),
    ",": () => turn(-1),
    ".": () => turn(1),
  });

  const side = () => document.getElementById("side");
  const trail = () => htmx.trigger("#trail", "refresh");
  document.addEventListener("htmx:afterSwap", (event) => {
    if (event.detail.requestConfig?.verb === "post") trail();
  });

  async function refresh() {
    const answer = await fetch(`/case/side?${side().dataset.query}`, { headers: { Accept: "text/html" } }).catch(() => null);
    if (!answer?.ok) return;
    const next = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("side");
    // Whoever is in the middle of a word, or on a button, is not disturbed; the next change will do.
    if (!next || next.dataset.changed === side().dataset.changed || side().contains(document.activeElement)) return;
    side().replaceWith(next);
    htmx.process(next);
    trail();
  }

  // Only while it is looked at: a browser has six connections to a server, for all its pages together.
  let source = null;
  function listen() {
    source?.close();
    source = null;
    if (document.hidden) return;
    source = new EventSource("/events");
    source.addEventListener("changed", refresh);
  }
  document.addEventListener("visibilitychange", listen);
  addEventListener("pagehide", () => source?.close());
  listen();
})();
