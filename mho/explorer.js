"use strict";
// The explorer: axes, colours, filters and fronts over the rows of a table that is kept in the page.
(() => {
  const kept = JSON.parse(document.getElementById("data-run").textContent);
  const COLOURS = kept.colours;
  const MARKS = ["circle", "square", "diamond", "cross", "x", "triangle-up", "star", "hexagon"];
  const TICKS = 10;
  const rows = kept.rows;
  const columns = kept.columns.map((column) => {
    if (column.kind === "number") return { ...column, at: numbers(column) };
    const width = column.bytes === 1 ? Uint8Array : column.bytes === 2 ? Uint16Array : Uint32Array;
    const index = new width(bytes(column.index).buffer);
    return { ...column, at: (row) => column.values[index[row]] };
  });
  const named = new Map(columns.map((column) => [column.name, column]));
  const place = (id) => document.getElementById(id);

  function bytes(text) { return Uint8Array.from(atob(text), (c) => c.charCodeAt(0)); }
  function numbers(column) {
    const values = new Float64Array(bytes(column.data).buffer);
    return (row) => values[row];
  }
  function isNumber(column) {
    return column.kind === "number" || column.values.every((v) => v === null || typeof v === "number");
  }
  function said(value) {
    if (value === null || value === undefined || Number.isNaN(value)) return "-";
    if (typeof value === "object") return JSON.stringify(value);
    if (typeof value !== "number") return String(value);
    const short = +value.toPrecision(6);
    return short !== 0 && (Math.abs(short) < 1e-3 || Math.abs(short) >= 1e7) ? short.toExponential() : String(short);
  }
  function ordered(a, b) {
    return typeof a === "number" && typeof b === "number" ? a - b : said(a).localeCompare(said(b));
  }

  // Controls

  function options(select, names, chosen, none) {
    if (none) select.append(new Option(none, ""));
    names.forEach((name) => select.append(new Option(name, name)));
    select.value = chosen ?? "";
  }
  const all = columns.map((column) => column.name);
  const numeric = columns.filter(isNumber).map((column) => column.name);
  options(place("x"), all, kept.start.x);
  options(place("y"), numeric, kept.start.y);
  options(place("colour"), all, kept.start.colour, "nothing");
  place("better-x").value = kept.start.betterX;
  place("better-y").value = kept.start.betterY;
  place("log-x").checked = kept.start.logX;

  const tests = []; // of a row: whether it stays
  for (const column of columns.filter((c) => c.setting || isNumber(c))) {
    const box = document.createElement("fieldset");
    box.append(Object.assign(document.createElement("legend"), { textContent: column.name }));
    if (column.kind !== "number" && column.values.length <= 12) {
      const off = new Set();
      [...column.values].sort(ordered).forEach((value) => {
        const label = document.createElement("label");
        const tick = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
        tick.addEventListener("change", () => { tick.checked ? off.delete(value) : off.add(value); draw(); });
        label.append(tick, " " + said(value));
        box.append(label);
      });
      tests.push((row) => !off.has(column.at(row)));
    } else if (isNumber(column)) {
      const ends = ["at least", "at most"].map((text) => {
        const label = document.createElement("label");
        const input = Object.assign(document.createElement("input"), { type: "number", step: "any" });
        input.addEventListener("change", draw);
        label.append(text + " ", input);
        box.append(label);
        return input;
      });
      tests.push((row) => {
        const value = column.at(row);
        return (ends[0].value === "" || value >= +ends[0].value) && (ends[1].value === "" || value <= +ends[1].value);
      });
    } else continue;
    place(column.setting ? "settings" : "results").append(box);
  }

  // The figure

  let shown = []; // rows that stay
  let front = []; // those of them that no other is better than in both axes, by x

  function frontOf(x, y, wayX, wayY) {
    const good = shown.filter((row) => Number.isFinite(x.at(row)) && Number.isFinite(y.at(row)));
    good.sort((a, b) => wayX * (x.at(a) - x.at(b)) || wayY * (y.at(a) - y.at(b)));
    let best = Infinity;
    return good.filter((row) => { const value = wayY * y.at(row); const is = value < best; if (is) best = value; return is; });
  }

  function traces(x, y, colour) {
    const kind = rows > 4000 ? "scattergl" : "scatter";
    const base = { type: kind, mode: "markers", hoverinfo: "none" };
    const trace = (mine, more) => ({
      ...base, x: mine.map(x.at), y: mine.map(y.at), customdata: mine, ...more,
    });
    const values = colour ? [...new Set(shown.map(colour.at))] : [];
    if (colour && isNumber(colour) && values.length > COLOURS.length) {
      const marker = { color: shown.map(colour.at), colorscale: "Cividis", showscale: true, colorbar: { title: { text: colour.name } } };
      return [trace(shown, { marker, name: colour.name })];
    }
    if (!colour || values.length > 40) return [trace(shown, { marker: { color: COLOURS[0] }, name: "rows" })];
    values.sort(ordered);
    return values.map((value, k) => trace(shown.filter((row) => colour.at(row) === value), {
      name: `${colour.name} = ${said(value)}`,
      marker: { color: COLOURS[k % COLOURS.length], symbol: MARKS[k % MARKS.length], size: 8 },
    }));
  }

  function draw() {
    const [x, y, colour] = ["x", "y", "colour"].map((id) => named.get(place(id).value));
    shown = [];
    for (let row = 0; row < rows; row++) if (tests.every((test) => test(row))) shown.push(row);
    const ways = [place("better-x").value, place("better-y").value];
    const ranked = isNumber(x) && ways.every(Boolean);
    front = ranked ? frontOf(x, y, ways[0] === "low" ? 1 : -1, ways[1] === "low" ? 1 : -1) : [];
    const data = traces(x, y, colour);
    if (front.length) {
      data.push({ type: "scatter", mode: "lines", x: front.map(x.at), y: front.map(y.at), name: "front",
        line: { color: "#000", dash: "dot", width: 1.5, shape: "linear" }, hoverinfo: "skip" });
    }
    const axis = (column, log) => {
      const found = { title: { text: column.name }, type: log && isNumber(column) ? "log" : "-", automargin: true };
      const values = column.setting && isNumber(column) ? [...new Set(shown.map(column.at))].sort(ordered) : [];
      const few = values.length && values.length <= TICKS; // these, and no numbers that no row has
      return few ? { ...found, tickvals: values, ticktext: values.map(said) } : found;
    };
    const layout = {
      ...BASE, hovermode: "closest", uirevision: [x.name, y.name].join(),
      xaxis: axis(x, place("log-x").checked), yaxis: axis(y, place("log-y").checked), legend: { orientation: "h", y: -0.2 },
    };
    Plotly.react(place("plot"), data, layout, { responsive: true, displaylogo: false });
    place("count").textContent = `${shown.length.toLocaleString("en")} of ${rows.toLocaleString("en")} rows` +
      (front.length ? `, ${front.length} on the front` : "");
    list(x, y);
  }

  function list(x, y) {
    const names = [...new Set([x.name, y.name, ...columns.filter((c) => c.setting).map((c) => c.name)])];
    const table = place("front");
    const head = names.map((name) => `<th scope="col"></th>`).join("");
    table.innerHTML = `<thead><tr>${head}<th scope="col"></th></tr></thead><tbody></tbody>`;
    names.forEach((name, k) => { table.tHead.rows[0].cells[k].textContent = name; });
    for (const row of front.slice(0, 200)) {
      const line = table.tBodies[0].insertRow();
      names.forEach((name) => { line.insertCell().textContent = said(named.get(name).at(row)); });
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: "show" });
      button.addEventListener("click", () => pin(row));
      line.insertCell().append(button);
    }
  }

  // One row

  function describe(row) {
    const table = document.createElement("table");
    for (const column of columns) {
      const line = table.insertRow();
      line.insertCell().textContent = column.name;
      line.insertCell().textContent = said(column.at(row));
    }
    return table;
  }

  function yaml(row) {
    const scalar = (value) => (value === null || value === undefined || Number.isNaN(value) ? "null"
      : ["string", "object"].includes(typeof value) ? JSON.stringify(value) : String(value));
    const own = columns.filter((column) => column.setting);
    const over = new Set(own.map((column) => column.name));
    const lines = Object.entries(kept.base).filter(([name]) => !over.has(name)).map(([, text]) => text);
    const top = own.filter((column) => column.top);
    const inside = own.filter((column) => !column.top);
    top.forEach((column) => lines.push(`${column.name}: ${scalar(column.at(row))}`));
    if (inside.length) lines.push("grid:");
    inside.forEach((column) => lines.push(`  ${column.name}: [${scalar(column.at(row))}]`));
    return lines.join("\n") + "\n";
  }

  function pin(row) {
    place("row").replaceChildren(describe(row));
    place("yaml").textContent = yaml(row);
    place("yaml-part").hidden = !kept.again;
  }

  place("copy").addEventListener("click", async () => {
    const text = place("yaml").textContent;
    try { await navigator.clipboard.writeText(text); } catch {
      const range = document.createRange();
      range.selectNodeContents(place("yaml"));
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      document.execCommand("copy");
    }
    place("copied").textContent = "copied";
  });
  place("save").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([place("yaml").textContent], { type: "text/yaml" }));
    link.download = "point.yaml";
    link.click();
    URL.revokeObjectURL(link.href);
  });
  for (const id of ["x", "y", "colour", "better-x", "better-y", "log-x", "log-y"]) place(id).addEventListener("change", draw);
  draw();
  const pointed = (event) => event.points[0].customdata;
  place("plot").on("plotly_hover", (event) => {
    if (pointed(event) !== undefined) place("row").replaceChildren(describe(pointed(event)));
  });
  place("plot").on("plotly_click", (event) => { if (pointed(event) !== undefined) pin(pointed(event)); });
})();
