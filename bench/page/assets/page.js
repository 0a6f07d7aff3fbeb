"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const table = document.getElementById("table");
  const controls = document.getElementById("controls");
  const filter = document.getElementById("filter");
  const selects = [...controls.querySelectorAll("select[data-filter]")];
  const boxes = [...controls.querySelectorAll("input[data-columns]")];
  const status = document.getElementById("status");
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...table.tBodies].flatMap((body) => [...body.rows].slice(1));
  const order = new Map(rows.map((row, index) => [row, index]));
  const words = new Map(rows.map((row) => [row, text(row) + " " + row.dataset.model.toLowerCase()]));
  let sorted = "";

  function text(element) {
    return element.textContent.replace(/\s+/g, " ").trim().toLowerCase();
  }

  // ---- sorting: within a group, so that models, engines and devices never mix

  function compare(column, ascending) {
    const sign = ascending ? 1 : -1;
    return (one, other) => {
      const a = one.cells[column], b = other.cells[column];
      const x = a.dataset.value, y = b.dataset.value;
      if (x !== undefined && y !== undefined) return sign * (x - y);
      if (x !== undefined) return -1;
      if (y !== undefined) return 1;
      const unknown = (text(a) === "–") - (text(b) === "–");
      return unknown || sign * text(a).localeCompare(text(b), "en", { numeric: true });
    };
  }

  function arrange(comparison) {
    for (const body of table.tBodies) {
      const found = [...body.rows].slice(1);
      found.sort((a, b) => comparison(a, b) || order.get(a) - order.get(b));
      body.append(...found);
    }
  }

  function sort(head) {
    const ascending = head.getAttribute("aria-sort")
      ? head.getAttribute("aria-sort") !== "ascending"
      : head.dataset.first === "ascending";
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    table.classList.add("sorted");
    arrange(compare(heads.indexOf(head), ascending));
    const name = head.textContent.replace(/\s+/g, " ").trim();
    sorted = `Sorted by ${name}, ${ascending ? "lowest" : "highest"} first. `;
    tell();
  }

  for (const head of heads) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(head));
  }

  // ---- filters and columns

  function kept(row) {
    const wanted = filter.value.toLowerCase().split(/\s+/);
    return wanted.every((word) => words.get(row).includes(word))
      && selects.every((select) => !select.value || row.dataset[select.dataset.filter] === select.value.slice(1));
  }

  function apply() {
    for (const row of rows) row.hidden = !kept(row);
    for (const body of table.tBodies) body.hidden = [...body.rows].slice(1).every((row) => row.hidden);
    const hidden = new Set(boxes.filter((box) => !box.checked).map((box) => box.dataset.columns));
    for (const head of heads) head.hidden = hidden.has(head.dataset.set);
    for (const row of rows) heads.forEach((head, column) => { row.cells[column].hidden = head.hidden; });
    const shown = heads.filter((head) => !head.hidden).length;
    for (const body of table.tBodies) body.rows[0].cells[0].colSpan = shown;
    tell();
  }

  function tell() {
    const count = rows.filter((row) => !row.hidden).length;
    status.textContent = `${sorted}${count} of ${rows.length} rows shown.`;
  }

  for (const kind of ["input", "change"]) controls.addEventListener(kind, apply);
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.addEventListener("reset", () => setTimeout(() => {
    for (const head of heads) head.removeAttribute("aria-sort");
    sorted = "";
    table.classList.remove("sorted");
    arrange(() => 0);
    apply();
  }));
  apply();

  // ---- a cell's details: its address opens them, the native dialog keeps the focus

  function open() {
    const dialog = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (const other of document.querySelectorAll("dialog[open]")) if (other !== dialog) other.close();
    if (dialog instanceof HTMLDialogElement && !dialog.open) dialog.showModal();
  }

  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.querySelector(".close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("close", () => {
      if (location.hash === `#${dialog.id}`) history.replaceState(null, "", location.pathname + location.search);
    });
  }
  for (const link of document.querySelectorAll("a[aria-haspopup=dialog]")) {
    link.addEventListener("click", (event) => {
      event.preventDefault(); // following it would take the focus away before the dialog can note it
      history.pushState(null, "", link.getAttribute("href"));
      open();
    });
  }
  addEventListener("popstate", open);
  open();

  // ---- charts

  const specs = JSON.parse(document.getElementById("specs").textContent);
  const options = { actions: false, ast: true, defaultStyle: false, mode: "vega-lite", renderer: "svg", tooltip: { disableDefaultStyle: true } };
  for (const place of document.querySelectorAll("[data-chart]")) {
    vegaEmbed(place, specs[place.dataset.chart], options).catch((error) => {
      place.textContent = "This chart could not be drawn; its table is below.";
      console.error(error);
    });
  }
})();
