// Sends files one by one, a few at a time, and shows of each how far it is and what became of it.
// Without this script the form sends them all at once, and the server shows the same table.
"use strict";

(() => {
  const form = document.getElementById("drop");
  const input = document.getElementById("files");
  const list = document.getElementById("list");
  const summary = document.getElementById("summary");
  const limit = Number(form.dataset.limitMib) * 2 ** 20;
  const AT_ONCE = 2;
  /** How often a file is sent again by itself when the server is busy. */
  const TRIES = 4;
  const BADGES = { received: "waiting", known: "waiting", refused: "failed", failed: "failed" };

  const queue = [];
  const counts = { received: 0, known: 0, refused: 0, failed: 0 };
  let running = 0;
  let total = 0;

  form.querySelector(".can-drop").hidden = false;
  document.getElementById("send").hidden = true;
  input.required = false;

  function element(name, text = "", kind = "") {
    const made = document.createElement(name);
    made.textContent = text;
    if (kind) made.className = kind;
    return made;
  }

  function size(bytes) {
    return bytes < 2 ** 20 ? `${Math.ceil(bytes / 1024)} KiB` : `${(bytes / 2 ** 20).toFixed(1)} MiB`;
  }

  function tell() {
    const done = Object.values(counts).reduce((sum, one) => sum + one, 0);
    const parts = [`${done} of ${total} done`];
    if (counts.known) parts.push(`${counts.known} known already`);
    if (counts.refused) parts.push(`${counts.refused} refused`);
    if (counts.failed) parts.push(`${counts.failed} failed`);
    summary.textContent = total ? parts.join(", ") + "." : "";
  }

  function add(file) {
    const row = element("tr");
    const name = element("th");
    name.scope = "row";
    name.append(element("bdi", file.name));
    const outcome = element("td", "waits");
    const actions = element("td");
    row.append(name, element("td", size(file.size), "nowrap"), outcome, actions);
    list.append(row);
    total += 1;
    queue.push({ file, outcome, actions, tries: 0 });
  }

  function finish(item, kind, text, link) {
    counts[kind] += 1;
    item.outcome.replaceChildren(element("span", kind, `badge ${BADGES[kind]}`), ` ${text}`);
    item.actions.replaceChildren();
    if (link) {
      const open = element("a", "Open");
      open.href = link;
      item.actions.append(open);
    } else if (kind === "failed") {
      const again = element("button", "Try again", "button");
      again.type = "button";
      again.addEventListener("click", () => {
        counts.failed -= 1;
        item.tries = 0;
        item.outcome.textContent = "waits";
        again.remove();
        queue.push(item);
        next();
      });
      item.actions.append(again);
    }
  }

  function answered(item, request) {
    let answer = {};
    try {
      answer = JSON.parse(request.responseText);
    } catch {
      // A proxy's page, or nothing.
    }
    const wait = Number(request.getResponseHeader("Retry-After"));
    if ([429, 503].includes(request.status) && wait > 0 && item.tries < TRIES) {
      item.outcome.textContent = "waits for the server";
      setTimeout(() => { queue.push(item); next(); }, wait * 1000);
      return;
    }
    const [found] = answer.files || [];
    if (found) finish(item, found.outcome, found.text, found.link);
    else finish(item, "failed", answer.detail || `the server answers with ${request.status}`);
  }

  function send(item) {
    const request = new XMLHttpRequest();
    const bar = element("progress");
    bar.max = 1;
    bar.setAttribute("aria-label", `Sending ${item.file.name}`);
    item.outcome.replaceChildren(bar);
    item.tries += 1;
    request.upload.addEventListener("progress", (event) => { if (event.lengthComputable) bar.value = event.loaded / event.total; });
    request.addEventListener("load", () => answered(item, request));
    request.addEventListener("error", () => finish(item, "failed", "the server does not answer"));
    request.addEventListener("loadend", () => { running -= 1; tell(); next(); });
    const data = new FormData();
    data.append("files", item.file, item.file.name);
    request.open("POST", form.action);
    request.setRequestHeader("Accept", "application/json");
    request.send(data);
  }

  function next() {
    while (running < AT_ONCE && queue.length) {
      const item = queue.shift();
      if (item.file.size > limit) {
        finish(item, "refused", `larger than ${size(limit)}`);
        tell();
        continue;
      }
      running += 1;
      send(item);
    }
  }

  function start(files) {
    for (const file of files) add(file);
    document.getElementById("uploads").hidden = !total;
    tell();
    next();
  }

  /** The files of what was dropped; a folder's are found one after the other. */
  async function filesOf(entry) {
    if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
    const reader = entry.createReader();
    const found = [];
    for (;;) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) return found;
      for (const one of some) found.push(...(await filesOf(one)));
    }
  }

  input.addEventListener("change", () => {
    start([...input.files]);
    input.value = "";
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("dragover", (event) => {
    event.preventDefault();
    form.classList.add("over");
  });
  form.addEventListener("dragleave", () => form.classList.remove("over"));
  form.addEventListener("drop", async (event) => {
    event.preventDefault();
    form.classList.remove("over");
    // The lists are emptied as soon as this function waits for the first time.
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
    if (!entries.length) start([...event.dataTransfer.files]);
    for (const entry of entries) {
      try {
        start(await filesOf(entry));
      } catch {
        window.medd.notify(`${entry.name} cannot be read.`, "failed");
      }
    }
  });
  addEventListener("beforeunload", (event) => { if (running || queue.length) event.preventDefault(); });
})();
