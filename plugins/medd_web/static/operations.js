// Parts that ask for themselves again (`data-keep`): nothing moves, loses its focus or closes where nothing has changed.
"use strict";

let last = "";

const isPoll = (event) => event.detail.elt?.hasAttribute("data-keep");

document.addEventListener("htmx:beforeRequest", (event) => {
  // A page that nobody sees asks for nothing; one that comes back is up to date within seconds.
  if (isPoll(event) && document.hidden) event.preventDefault();
});

document.addEventListener("htmx:beforeSwap", (event) => {
  const part = event.detail.target;
  if (!part?.hasAttribute("data-keep") || event.detail.xhr.status !== 200) return;
  if (isPoll(event)) document.getElementById("fresh").textContent = `as of ${new Date().toLocaleTimeString()}`;
  if (event.detail.serverResponse === last) event.detail.shouldSwap = false;
  last = event.detail.serverResponse;
  part.open = [...part.querySelectorAll("details[open]")].map((one) => one.id);
  part.places = [...part.querySelectorAll(".scroll")].map((one) => [one.scrollLeft, one.scrollTop]);
});

document.addEventListener("htmx:afterSwap", (event) => {
  const part = event.detail.target;
  if (!part?.open) return;
  for (const id of part.open) document.getElementById(id)?.setAttribute("open", "");
  part.querySelectorAll(".scroll").forEach((one, place) => {
    if (part.places[place]) [one.scrollLeft, one.scrollTop] = part.places[place];
  });
});

// Where a poll fails, the words in the corner would come every five seconds: once is enough, and it stands above.
document.addEventListener(
  "htmx:sendError",
  (event) => {
    if (!isPoll(event)) return;
    event.stopImmediatePropagation();
    document.getElementById("fresh").textContent = "The server does not answer.";
  },
  true,
);
