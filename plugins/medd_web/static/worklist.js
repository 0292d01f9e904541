// Keeps the worklist as the database has it. The row under the pointer never moves: while there is one, rows are brought
// up to date where they stand, and what is new is announced. A row with the focus keeps it, and its place on the screen.
"use strict";

(() => {
  const live = document.getElementById("live");
  const fresh = document.getElementById("fresh");
  const told = document.getElementById("told");
  const title = document.title;
  /** Seconds after which the list is asked for anew though nothing was told: times pass, and deliveries end. */
  const REFRESH_S = 30;

  const list = () => document.getElementById("list");
  const rowsOf = (root) => [...root.querySelectorAll("tr[data-study]")];
  const byStudy = (root) => new Map(rowsOf(root).map((row) => [row.dataset.study, row]));
  const isUrgent = (row) => ["overdue", "finding"].includes(row.dataset.place);
  const focused = () => document.activeElement?.closest?.("#list tr[data-study]");
  const hovered = () => matchMedia("(hover: hover)").matches && !document.hidden && list().querySelector("tbody:hover");

  /** What the server said last, where it is not all shown yet. */
  let waiting = null;

  function count(number, urgent) {
    const some = `${number} new${urgent ? `, ${urgent} urgent` : ""}`;
    return number || urgent ? some : "";
  }

  /** Put the new list in place of the old one. */
  function show(next) {
    waiting = null;
    fresh.hidden = true;
    document.title = title;
    const before = byStudy(list());
    const held = focused();
    const inRow = held && [...held.querySelectorAll("a")].indexOf(document.activeElement);
    const top = held?.getBoundingClientRect().top;
    const added = rowsOf(next).filter((row) => !before.has(row.dataset.study));
    list().replaceWith(next);
    if (before.size || added.length < 5) added.forEach((row) => row.classList.add("is-new"));
    if (added.length) told.textContent = count(added.length, added.filter(isUrgent).length);
    if (!held) return;
    const again = byStudy(next).get(held.dataset.study);
    const link = (again || rowsOf(next)[0])?.querySelectorAll("a")[again ? inRow : 0];
    link?.focus({ preventScroll: true });
    if (again) scrollBy({ top: again.getBoundingClientRect().top - top, behavior: "instant" });
  }

  /** Bring the rows up to date where they stand, and say what there is besides. */
  function hold(next) {
    waiting = next;
    const now = byStudy(next);
    const before = byStudy(list());
    for (const [study, row] of before) {
      const newer = now.get(study);
      row.classList.toggle("is-gone", !newer);
      if (newer && newer.innerHTML !== row.innerHTML && row !== focused()) {
        row.className = newer.className;
        row.dataset.place = newer.dataset.place;
        row.innerHTML = newer.innerHTML;
      }
    }
    const added = [...now].filter(([study]) => !before.has(study)).map(([, row]) => row);
    const order = [...now.keys()].filter((study) => before.has(study)).join() !== [...before.keys()].filter((study) => now.has(study)).join();
    const said = count(added.length, added.filter(isUrgent).length) || (order ? "another order" : "");
    fresh.hidden = !said;
    if (!said || fresh.dataset.said === said) return;
    fresh.dataset.said = said;
    fresh.textContent = `${said} · show (u)`;
    document.title = added.length ? `(${added.length}) ${title}` : title;
    told.textContent = said;
  }

  let asking = false;
  let again = false;

  async function refresh() {
    if (asking) {
      again = true;
      return;
    }
    asking = true;
    try {
      const answer = await fetch(`/worklist/rows${location.search}`, { headers: { Accept: "text/html" } });
      if (answer.redirected || answer.status === 401) return location.reload();
      if (!answer.ok) throw new Error(String(answer.status));
      const next = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("list");
      if (hovered()) hold(next);
      else show(next);
    } catch {
      say(false);
    } finally {
      asking = false;
      if (again) {
        again = false;
        refresh();
      }
    }
  }

  function say(isLive) {
    live.classList.toggle("is-live", isLive);
    live.textContent = isLive ? "live" : "not up to date: no connection";
  }

  const source = new EventSource("/events");
  source.addEventListener("open", () => say(true));
  source.addEventListener("changed", (event) => {
    say(true);
    if (event.data !== (waiting || list()).dataset.signature) refresh();
  });
  source.addEventListener("error", () => {
    say(false);
    if (source.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 5000);
  });
  setInterval(refresh, REFRESH_S * 1000);
  addEventListener("pagehide", () => source.close());
  addEventListener("pageshow", (event) => event.persisted && location.reload());

  // Once the pointer has left the rows, nothing can be hit by mistake.
  document.addEventListener("pointerover", () => waiting && !hovered() && show(waiting));
  document.documentElement.addEventListener("pointerleave", () => waiting && show(waiting));
  document.addEventListener("visibilitychange", () => document.hidden && waiting && show(waiting));
  const showFresh = () => waiting && show(waiting);
  fresh.addEventListener("click", showFresh);

  for (const field of document.querySelectorAll(".filters select")) {
    field.addEventListener("change", () => field.form.requestSubmit());
  }

  /** Put the focus on the row so many places further. */
  function move(by) {
    const rows = rowsOf(list());
    const at = rows.indexOf(focused());
    const to = at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(Math.max(at + by, 0), rows.length - 1);
    rows[to]?.querySelector("a.open").focus();
  }
  const turn = (way) => document.querySelector(`.pager a[rel=${way}]`)?.click();
  const search = document.getElementById("q");
  window.medd.keys({
    j: () => move(1),
    k: () => move(-1),
    ArrowDown: () => focused() ? move(1) : false,
    ArrowUp: () => focused() ? move(-1) : false,
    Enter: () => false, // the link's own
    "/": () => search.select(),
    u: showFresh,
    n: () => turn("next"),
    p: () => turn("prev"),
  });
})();
