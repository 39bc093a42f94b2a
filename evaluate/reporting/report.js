"use strict";
// Folded parts open where a link leads into them, and on paper.
(() => {
  const reveal = () => {
    const target = document.getElementById(location.hash.slice(1));
    for (let e = target; e; e = e.parentElement) if (e.tagName === "DETAILS") e.open = true;
    if (target) target.scrollIntoView();
  };
  let closed = [];
  addEventListener("hashchange", reveal);
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const part of closed) part.open = true;
  });
  addEventListener("afterprint", () => { for (const part of closed) part.open = false; });
  reveal();
})();

// The interactive scatter: draws what scatter_data placed, shows the run under the pointer or
// selected by keyboard, filters by checkbox, and switches the scale.  Without it the static figure is shown.
(() => {
  const data = JSON.parse(document.getElementById("scatter-data").textContent);
  const explorer = document.getElementById("explorer");
  const plot = document.getElementById("plot");
  const tip = document.getElementById("tip");
  const count = document.getElementById("count");
  const LEFT = 58, TOP = 10, RIGHT = 12, BOTTOM = 50, NEAR = 16; // CSS pixels
  let scale = data.scale, size = 0, active = null;

  const make = (name, attributes = {}, parent = plot) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    parent.append(element);
    return element;
  };
  const x = part => LEFT + part * size;
  const y = part => TOP + (1 - part) * size;
  const path = places => places.map(([a, b], i) => `${i ? "L" : "M"}${x(a).toFixed(1)},${y(b).toFixed(1)}`).join("");
  const checked = name => new Set([...explorer.querySelectorAll(`input[name=${name}]:checked`)].map(box => box.value));

  const inside = make("rect", {}, make("clipPath", { id: "inside" }));
  const axes = make("g", { class: "axes" });
  const clipped = make("g", { "clip-path": "url(#inside)" });
  const diagonal = make("path", { class: "diagonal" }, clipped);
  const lines = data.arms.map(arm => {
    const stroke = { fill: "none", stroke: arm.color, "stroke-dasharray": arm.dash };
    return {
      band: make("path", { class: "band", fill: arm.color, "fill-opacity": 0.13 }, clipped),
      extension: make("path", { ...stroke, class: "extension", "stroke-width": 0.8 }, clipped),
      trend: make("path", { ...stroke, class: "trend", "stroke-width": 1.6 }, clipped),
    };
  });
  const group = make("g", {
    role: "group",
    "aria-label": `Runs; the arrow keys move from one to the next by ${data.fields[4]}`,
  });
  const points = data.points.map(point => {
    const arm = data.arms[point.arm];
    const words = data.fields.map((field, i) => [field, point.words[i]]).filter(([, value]) => value !== null);
    const mark = make("path", {
      class: "point", d: arm.path, tabindex: -1, role: "img",
      "aria-label": words.map(([field, value]) => `${field} ${value}`).join(", "),
      fill: point.final ? arm.color : "#ffffff", stroke: point.final ? "#ffffff" : arm.color,
    }, group);
    return { ...point, mark, words, visible: true };
  });
  const rings = make("g", { class: "rings" }); // around points at one place, with their number
  const byId = [...points].sort((a, b) => a.at[data.scale][0] - b.at[data.scale][0]);

  function draw() {
    size = Math.max(200, Math.min(plot.parentElement.clientWidth, 560) - LEFT - RIGHT);
    const width = LEFT + size + RIGHT, height = TOP + size + BOTTOM;
    for (const [key, value] of Object.entries({ width, height, viewBox: `0 0 ${width} ${height}` }))
      plot.setAttribute(key, value);
    for (const [key, value] of Object.entries({ x: LEFT, y: TOP, width: size, height: size }))
      inside.setAttribute(key, value);
    const on = data.scales[scale];
    drawAxes(on);
    diagonal.setAttribute("d", path(on.diagonal));
    lines.forEach((line, i) => Object.entries(line).forEach(([key, e]) => e.setAttribute("d", path(on.arms[i][key]))));
    for (const point of points) {
      const [a, b] = point.at[scale];
      point.mark.setAttribute("transform", `translate(${x(a).toFixed(1)},${y(b).toFixed(1)}) scale(${point.final ? 1 : 0.6})`);
    }
    drawRings();
    if (active) show(active);
  }

  const together = point => // the visible points at a point's place, itself included
    (data.scales[scale].together.find(group => group.includes(points.indexOf(point))) || [])
      .map(i => points[i]).filter(other => other.visible);

  function drawRings() {
    rings.replaceChildren();
    for (const group of data.scales[scale].together) {
      const shown = group.map(i => points[i]).filter(point => point.visible);
      if (shown.length < 2) continue;
      const [a, b] = shown[0].at[scale];
      make("circle", { cx: x(a), cy: y(b), r: 9 }, rings);
      make("text", { x: x(a) + 8, y: y(b) - 8 }, rings).textContent = shown.length;
    }
  }

  function drawAxes(on) {
    axes.replaceChildren();
    for (const [part, text] of on.x.ticks) {
      make("path", { class: "grid", d: `M${x(part)},${TOP}V${TOP + size}` }, axes);
      make("text", { class: "tick-x", x: x(part), y: TOP + size + 16, "text-anchor": "middle" }, axes).textContent = text;
    }
    for (const [part, text] of on.y.ticks) {
      make("path", { class: "grid", d: `M${LEFT},${y(part)}H${LEFT + size}` }, axes);
      make("text", { class: "tick-y", x: LEFT - 7, y: y(part) + 4, "text-anchor": "end" }, axes).textContent = text;
    }
    make("path", { class: "edge", d: `M${LEFT},${TOP}V${TOP + size}H${LEFT + size}` }, axes);
    const label = { class: "axis-label", "text-anchor": "middle" };
    const middle = TOP + size / 2;
    make("text", { ...label, x: LEFT + size / 2, y: TOP + size + 40 }, axes).textContent = on.x.label;
    make("text", { ...label, x: 14, y: middle, transform: `rotate(-90 14 ${middle})` }, axes).textContent = on.y.label;
  }

  function filter() {
    const factors = checked("factor"), arms = checked("arm"), architectures = checked("architecture");
    const kept = data.arms.map((arm, i) => arms.has(String(i)) && (arm.baseline || factors.has(arm.factor)));
    lines.forEach((line, i) => Object.values(line).forEach(e => { e.style.display = kept[i] ? "" : "none"; }));
    for (const point of points) {
      point.visible = kept[point.arm] && architectures.has(point.architecture);
      point.mark.style.display = point.visible ? "" : "none";
    }
    if (active && !active.visible) hide();
    drawRings();
    const visible = byId.filter(point => point.visible);
    enter(visible.includes(active) ? active : visible[0]);
    count.textContent = `${visible.length} of ${points.length} points shown`;
  }

  // One point at a time can be reached with the tab key; the arrow keys move on from there.
  function enter(target) {
    for (const point of points) point.mark.setAttribute("tabindex", point === target ? 0 : -1);
  }

  function show(point) {
    if (active) active.mark.classList.remove("active");
    active = point;
    point.mark.classList.add("active");
    const others = together(point).filter(other => other !== point).map(other => data.arms[other.arm].name);
    const words = others.length ? [...point.words, [`${others.length} more here`, [...new Set(others)].join(", ")]] : point.words;
    tip.replaceChildren(...words.flatMap(([field, value]) => {
      const term = document.createElement("dt"), words = document.createElement("dd"), text = document.createElement("bdi");
      term.textContent = field;
      text.textContent = value;
      words.append(text);
      return [term, words];
    }));
    tip.hidden = false;
    const [a, b] = point.at[scale];
    const room = plot.parentElement.clientWidth - tip.offsetWidth;
    const right = x(a) + 12, left = x(a) - 12 - tip.offsetWidth;
    tip.style.left = `${Math.max(0, right <= room ? right : Math.min(left, room))}px`;
    tip.style.top = `${Math.max(0, y(b) - tip.offsetHeight - (right <= room || left >= 0 ? 0 : 14))}px`;
  }

  function hide() {
    if (active) active.mark.classList.remove("active");
    active = null;
    tip.hidden = true;
  }

  function nearest(event) {
    const box = plot.getBoundingClientRect();
    let found = null, least = NEAR;
    for (const point of points) {
      const [a, b] = point.at[scale];
      const distance = Math.hypot(event.clientX - box.left - x(a), event.clientY - box.top - y(b));
      if (point.visible && distance <= least) [found, least] = [point, distance];
    }
    return found;
  }

  const under = event => { const point = nearest(event); if (point) show(point); else hide(); };
  plot.addEventListener("pointermove", under);
  plot.addEventListener("pointerdown", under);
  plot.addEventListener("pointerleave", hide);
  group.addEventListener("focusin", event => show(points.find(point => point.mark === event.target)));
  group.addEventListener("focusout", hide);
  group.addEventListener("keydown", event => {
    const visible = byId.filter(point => point.visible);
    const at = visible.findIndex(point => point.mark === event.target);
    const next = { ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at - 1, ArrowDown: at - 1, Home: 0, End: visible.length - 1 };
    if (event.key === "Escape") hide();
    if (!(event.key in next)) return;
    event.preventDefault();
    const target = visible[Math.max(0, Math.min(next[event.key], visible.length - 1))];
    enter(target);
    target.mark.focus();
  });
  explorer.addEventListener("change", event => {
    if (event.target.name === "scale") scale = event.target.value;
    draw();
    filter();
  });
  document.getElementById("all").addEventListener("click", () => {
    for (const box of explorer.querySelectorAll("input[type=checkbox]")) box.checked = true;
    filter();
  });

  explorer.hidden = false;
  document.getElementById("static").classList.add("replaced");
  explorer.querySelector("form").reset(); // browsers keep the state of the boxes when a page is reloaded
  draw();
  filter();
  new ResizeObserver(draw).observe(plot.parentElement);
})();
