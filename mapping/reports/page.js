"use strict";
// Arrays of many numbers come as base64 of 16-bit integers: value = offset + scale * integer, -32768 for none.
function decoded(packed) {
  const bytes = Uint8Array.from(atob(packed.q), (c) => c.charCodeAt(0));
  const whole = new Int16Array(bytes.buffer);
  const values = Float32Array.from(whole, (n) => (n === -32768 ? NaN : packed.offset + packed.scale * n));
  if (packed.shape.length < 2) return values;
  const rows = [];
  for (let r = 0; r < packed.shape[0]; r++) rows.push(values.subarray(r * packed.shape[1], (r + 1) * packed.shape[1]));
  return rows;
}

function unpacked(part) {
  if (Array.isArray(part)) return part.map(unpacked);
  if (part === null || typeof part !== "object") return part;
  if (typeof part.q === "string") return decoded(part);
  return Object.fromEntries(Object.entries(part).map(([key, value]) => [key, unpacked(value)]));
}

const BASE = {
  font: { family: "system-ui, sans-serif", size: 13, color: "#1b1f24" },
  margin: { l: 70, r: 20, t: 36, b: 50 },
  paper_bgcolor: "white", plot_bgcolor: "white", hoverlabel: { align: "left" },
};

function draw(place, name) {
  const kept = document.getElementById("data-" + name);
  const figure = unpacked(JSON.parse(kept.textContent));
  for (const trace of figure.data) {  // the number of another trace: its values are shown too where the mouse is
    if (Number.isInteger(trace.customdata)) trace.customdata = figure.data[trace.customdata].z.map((row) => [...row]);
  }
  const layout = Object.assign({}, BASE, figure.layout);
  return Plotly.react(place, figure.data, layout, { responsive: true, displaylogo: false });
}

function setUp(place) {
  const choice = document.getElementById(place.dataset.choice || "");
  const name = () => (choice ? choice.value : place.dataset.figure);
  let seen = false;
  const show = () => { if (seen) draw(place, name()); };
  new IntersectionObserver((entries, self) => {
    if (entries.some((entry) => entry.isIntersecting)) { seen = true; show(); self.disconnect(); }
  }, { rootMargin: "200px" }).observe(place);
  if (choice) choice.addEventListener("change", show);
}

// Tables are sorted by a click on, or Enter at, the name of a column.
function sortable(table) {
  table.querySelectorAll("thead button").forEach((button, column) => {
    let rising = false;
    button.addEventListener("click", () => {
      rising = !rising;
      const value = (row) => row.children[column].dataset.value ?? row.children[column].textContent;
      const body = table.tBodies[0];
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        const both = x !== "" && y !== "" && !isNaN(x) && !isNaN(y);
        return (rising ? 1 : -1) * (both ? x - y : String(x).localeCompare(String(y)));
      });
      body.append(...rows);
      table.querySelectorAll("th").forEach((head) => head.removeAttribute("aria-sort"));
      button.parentElement.setAttribute("aria-sort", rising ? "ascending" : "descending");
    });
  });
}

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".figure").forEach(setUp);
  document.querySelectorAll("table.sortable").forEach(sortable);
});
