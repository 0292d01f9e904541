// Shows one radiograph with all its grey values. The server sends every pixel once, as `pack` in picture.py says; from
// then on a change of the window is a new table of greys, and no request.
"use strict";

(() => {
  const viewer = document.getElementById("viewer");
  const stage = document.getElementById("stage");
  const canvas = document.getElementById("canvas");
  const readout = document.getElementById("readout");
  const message = document.getElementById("message");
  const presets = document.getElementById("window");
  const center = document.getElementById("center");
  const width = document.getElementById("width");
  const opacity = document.getElementById("opacity");
  const button = (name) => viewer.querySelector(`[data-do=${name}]`);
  const context = canvas.getContext("2d");
  const MAX_SCALE = 16;
  const AS_SENT = "sent", ALL = "all", AUTO = "auto", OWN = "own";

  /** The image: what the server told of it, `shown` (a grey for each level) and `pixels` (a level for each pixel). */
  let image = null;
  /** The image in the greys of now, full size. */
  const film = document.createElement("canvas");
  let greys = null;
  let heat = null;
  /** Which window, and the place: `x` and `y` of the image are in the middle, `scale` of our pixels wide each of its own. */
  const look = { preset: AS_SENT, center: 0, width: 1, inverted: false, heat: false };
  const place = { x: 0, y: 0, scale: 1, fitted: true };
  let moves = false;

  // -- from the server -----------------------------------------------------------------------------------------------

  async function load() {
    for (let tries = 0; ; tries += 1) {
      const answer = await fetch(`/image/${viewer.dataset.image}/levels`);
      if (answer.status === 503 && tries < 20) {
        await new Promise((resolve) => setTimeout(resolve, 1000 * Number(answer.headers.get("Retry-After") || 1)));
        continue;
      }
      if (answer.status === 401) location.reload();
      if (!answer.ok) throw new Error(await explain(answer));
      return unpack(await answer.arrayBuffer());
    }
  }

  async function explain(answer) {
    try {
      return (await answer.json()).detail;
    } catch {
      return `the server answers ${answer.status}`;
    }
  }

  function unpack(data) {
    const [head, length] = new Uint32Array(data, 0, 2);
    const about = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 8, length)));
    const table = Math.ceil((8 + length) / 4) * 4;
    const count = about.columns * about.rows;
    return {
      ...about,
      shown: new Uint8Array(data, table, about.levels),
      pixels: about.bytes === 2 ? new Uint16Array(data, head, count) : new Uint8Array(data, head, count),
      high: about.low + about.step * (about.levels - 1),
    };
  }

  // -- greys ---------------------------------------------------------------------------------------------------------

  /** For each level the pixel that is drawn. */
  function table() {
    const found = new Uint32Array(image.levels);
    const first = look.center - 0.5 - (look.width - 1) / 2; // PS3.3 section C.11.2.1.2.1
    const range = Math.max(look.width - 1, image.step);
    for (let level = 0; level < found.length; level += 1) {
      let grey = image.shown[level];
      if (look.preset !== AS_SENT) {
        grey = Math.round(255 * Math.min(Math.max((image.low + image.step * level - first) / range, 0), 1));
        if (image.inverse) grey = 255 - grey;
      }
      if (look.inverted) grey = 255 - grey;
      found[level] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
    }
    return found;
  }

  function paint() {
    const known = table();
    const { pixels } = image;
    const drawn = new Uint32Array(greys.data.buffer);
    for (let at = 0; at < pixels.length; at += 1) drawn[at] = known[pixels[at]];
    film.getContext("2d").putImageData(greys, 0, 0);
  }

  /** The window from the darkest to the brightest percent of the image. */
  function automatic() {
    const counts = new Uint32Array(image.levels);
    const every = Math.max(1, Math.floor(image.pixels.length / 500000));
    let total = 0;
    for (let at = 0; at < image.pixels.length; at += every, total += 1) counts[image.pixels[at]] += 1;
    const find = (share) => {
      let level = 0;
      for (let sum = counts[0]; sum < share * total && level < image.levels - 1; sum += counts[level]) level += 1;
      return image.low + image.step * level;
    };
    return between(find(0.01), find(0.99));
  }

  const between = (low, high) => [(low + high) / 2, Math.max(high - low, image.step)];

  function choose(preset) {
    const known = { [AS_SENT]: () => image.windows[0], [ALL]: () => between(image.low, image.high), [AUTO]: automatic };
    const [c, w] = preset in known ? known[preset]() : image.windows[Number(preset)];
    window_(c, w, preset);
  }

  function window_(c, w, preset = OWN) {
    look.preset = preset;
    look.center = Math.min(Math.max(c, image.low - image.step), image.high + image.step);
    look.width = Math.min(Math.max(w, image.step), 2 * (image.high - image.low) + image.step);
    presets.value = preset;
    update({ greys: true });
  }

  // -- drawing -------------------------------------------------------------------------------------------------------

  let due = { greys: false, asked: false };

  function update(what = {}) {
    due.greys ||= Boolean(what.greys);
    if (due.asked || !image) return;
    due.asked = true;
    requestAnimationFrame(() => {
      if (due.greys) paint();
      due = { greys: false, asked: false };
      draw();
    });
  }

  const ratio = () => devicePixelRatio || 1;

  function draw() {
    const { x, y, scale } = place;
    const zoom = scale * ratio();
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.setTransform(zoom, 0, 0, zoom, canvas.width / 2 - x * zoom, canvas.height / 2 - y * zoom);
    context.imageSmoothingQuality = "high";
    context.drawImage(film, 0, 0);
    if (look.heat && heat?.complete) {
      context.globalAlpha = Number(opacity.value) / 100;
      context.drawImage(heat, 0, 0, image.columns, image.rows);
      context.globalAlpha = 1;
    }
    tell();
  }

  const short = (number) => (Number.isInteger(number) || Math.abs(number) >= 100 ? Math.round(number) : number.toPrecision(3));

  function tell(at = null) {
    const values = [`C ${short(look.center)}  W ${short(look.width)}`, `${Math.round(place.scale * ratio() * 100)} %`];
    if (at && at.x >= 0 && at.y >= 0 && at.x < image.columns && at.y < image.rows) {
      const level = image.pixels[Math.floor(at.y) * image.columns + Math.floor(at.x)];
      values.push(`${Math.floor(at.x)}, ${Math.floor(at.y)}: ${short(image.low + image.step * level)}`);
    }
    readout.textContent = values.join("   ");
    if (document.activeElement !== center) center.value = short(look.center);
    if (document.activeElement !== width) width.value = short(look.width);
    viewer.dataset.look = `${look.preset} ${short(look.center)} ${short(look.width)}`;
    for (const [name, pressed] of [["invert", look.inverted], ["heat", look.heat], ["pan", moves]]) {
      button(name)?.setAttribute("aria-pressed", String(pressed));
    }
  }

  // -- place ---------------------------------------------------------------------------------------------------------

  const fitting = () => Math.min(stage.clientWidth / image.columns, stage.clientHeight / image.rows);

  function fit() {
    Object.assign(place, { x: image.columns / 2, y: image.rows / 2, scale: fitting(), fitted: true });
    update();
  }

  /** Move by so many of the screen's pixels; never so far that nothing of the image is left. */
  function pan(dx, dy) {
    place.x = Math.min(Math.max(place.x - dx / place.scale, 0), image.columns);
    place.y = Math.min(Math.max(place.y - dy / place.scale, 0), image.rows);
    place.fitted = false;
    update();
  }

  /** Zoom; what lies at this point of the stage, measured from its middle, stays there. */
  function zoom(factor, x = 0, y = 0) {
    const scale = Math.min(Math.max(place.scale * factor, fitting() / 4), MAX_SCALE);
    const shift = 1 / place.scale - 1 / scale;
    Object.assign(place, { x: place.x + x * shift, y: place.y + y * shift, scale, fitted: false });
    update();
  }

  function resize() {
    canvas.width = Math.max(1, Math.round(stage.clientWidth * ratio()));
    canvas.height = Math.max(1, Math.round(stage.clientHeight * ratio()));
    if (!image) return;
    if (place.fitted) fit();
    else update();
  }

  // -- commands ------------------------------------------------------------------------------------------------------

  function reset() {
    look.inverted = false;
    choose(AS_SENT);
    fit();
  }

  function showHeat() {
    if (!("heat" in viewer.dataset)) return;
    look.heat = !look.heat;
    if (!heat) {
      heat = new Image();
      heat.addEventListener("load", () => update());
      heat.addEventListener("error", () => window.medd.notify("The heat map cannot be loaded.", "failed"));
      heat.src = `/image/${viewer.dataset.image}/heat`;
    }
    update();
  }

  const range = () => (image.high - image.low) / 800;
  const change = (dc, dw) => window_(look.center + dc * range(), look.width + dw * range());
  const commands = {
    fit,
    reset,
    heat: showHeat,
    "zoom-in": () => zoom(1.25),
    "zoom-out": () => zoom(0.8),
    pan() {
      moves = !moves;
      update();
    },
    invert() {
      look.inverted = !look.inverted;
      update({ greys: true });
    },
  };
  viewer.addEventListener("click", (event) => {
    const name = event.target.closest("[data-do]")?.dataset.do;
    if (name && image) commands[name]();
  });
  presets.addEventListener("change", () => choose(presets.value));
  for (const field of [center, width]) {
    field.addEventListener("change", () => {
      if (image && center.value && width.value) window_(Number(center.value), Number(width.value));
    });
  }
  opacity?.addEventListener("input", () => {
    if (!look.heat) showHeat();
    update();
  });

  const onCanvas = (action) => () => (document.activeElement === canvas ? action() : false);
  const STEP = 40;
  const whenLoaded = (keys) =>
    Object.fromEntries(Object.entries(keys).map(([key, action]) => [key, (event) => (image ? action(event) : false)]));
  window.medd.keys(whenLoaded({
    f: fit,
    r: reset,
    i: commands.invert,
    h: showHeat,
    v: commands.pan,
    "+": commands["zoom-in"],
    "=": commands["zoom-in"],
    "-": commands["zoom-out"],
    ArrowLeft: onCanvas(() => pan(STEP, 0)),
    ArrowRight: onCanvas(() => pan(-STEP, 0)),
    ArrowUp: onCanvas(() => pan(0, STEP)),
    ArrowDown: onCanvas(() => pan(0, -STEP)),
    "Shift+ArrowLeft": () => change(0, -STEP),
    "Shift+ArrowRight": () => change(0, STEP),
    "Shift+ArrowUp": () => change(STEP / 2, 0),
    "Shift+ArrowDown": () => change(-STEP / 2, 0),
  }));

  // -- mouse and fingers ---------------------------------------------------------------------------------------------

  const fingers = new Map();

  function fromMiddle(event) {
    const box = canvas.getBoundingClientRect();
    return { x: event.clientX - box.left - box.width / 2, y: event.clientY - box.top - box.height / 2 };
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (!image) return;
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    event.preventDefault();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!image) return;
    const before = fingers.get(event.pointerId);
    if (!before) {
      const { x, y } = fromMiddle(event);
      tell({ x: place.x + x / place.scale, y: place.y + y / place.scale });
      return;
    }
    const dx = event.clientX - before.x;
    const dy = event.clientY - before.y;
    if (fingers.size === 2) pinch(event, dx, dy);
    else if (moves || event.shiftKey || event.buttons & 6) pan(dx, dy);
    else change(dy, dx);
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  });

  function pinch(event, dx, dy) {
    const [other] = [...fingers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
    const mine = fingers.get(event.pointerId);
    const far = (at) => Math.hypot(at.x - other.x, at.y - other.y) || 1;
    const middle = fromMiddle({ clientX: (event.clientX + other.x) / 2, clientY: (event.clientY + other.y) / 2 });
    zoom(far({ x: event.clientX, y: event.clientY }) / far(mine), middle.x, middle.y);
    pan(dx / 2, dy / 2);
  }

  for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
    canvas.addEventListener(end, (event) => fingers.delete(event.pointerId));
  }
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("dblclick", () => image && fit());
  canvas.addEventListener("wheel", (event) => {
    if (!image) return;
    event.preventDefault();
    const at = fromMiddle(event);
    zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.03 : 0.0015)), at.x, at.y);
  }, { passive: false });

  // -- begin ---------------------------------------------------------------------------------------------------------

  function offer() {
    const windows = image.windows.slice(1).map(([c, w], at) => [String(at + 1), `${short(c)} / ${short(w)}`]);
    for (const [value, words] of [[AS_SENT, "as sent"], ...windows, [ALL, "all values"], [AUTO, "1 % to 99 %"], [OWN, "own"]]) {
      presets.append(new Option(words, value));
    }
  }

  new ResizeObserver(resize).observe(stage);
  load().then((loaded) => {
    image = loaded;
    film.width = image.columns;
    film.height = image.rows;
    greys = new ImageData(image.columns, image.rows);
    offer();
    message.hidden = true;
    resize();
    choose(AS_SENT);
    viewer.dataset.ready = "1";
  }).catch((error) => {
    message.classList.add("failed");
    message.textContent = `This image cannot be shown: ${error.message}`;
  });
})();
