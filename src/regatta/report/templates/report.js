"use strict";
(() => {
  const all = (selector, root = document) => Array.from(root.querySelectorAll(selector));
  const readData = (id) => {
    const element = document.getElementById(id);
    return element ? JSON.parse(element.textContent) : null;
  };

  // Sortable tables: a button in each heading, aria-sort on the heading, unmeasured cells always last.
  const cellKey = (row, column) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim();
  const compareKeys = (a, b, numeric, sign) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    return sign * (numeric ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true }));
  };
  const sortRows = (table, column, direction) => {
    const body = table.tBodies[0];
    const numeric = table.tHead.rows[0].cells[column].classList.contains("n");
    const sign = direction === "descending" ? -1 : 1;
    const rows = Array.from(body.rows);
    rows.sort((a, b) => compareKeys(cellKey(a, column), cellKey(b, column), numeric, sign));
    body.append(...rows);
  };
  for (const table of all("table[data-sortable]")) {
    const headings = Array.from(table.tHead.rows[0].cells);
    headings.forEach((heading, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      heading.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const first = heading.classList.contains("n") ? "descending" : "ascending";
        const other = first === "descending" ? "ascending" : "descending";
        const direction = heading.getAttribute("aria-sort") === first ? other : first;
        headings.forEach((each) => each.setAttribute("aria-sort", each === heading ? direction : "none"));
        sortRows(table, column, direction);
      });
    });
  }

  // Filter: rows whose heading does not contain the typed text are hidden; the count says so.
  for (const input of all("input[data-filter]")) {
    const table = document.getElementById(input.dataset.filter);
    const count = document.getElementById(`${input.dataset.filter}-count`);
    const apply = () => {
      const wanted = input.value.trim().toLocaleLowerCase();
      const rows = Array.from(table.tBodies[0].rows);
      for (const row of rows) row.hidden = !row.cells[0].textContent.toLocaleLowerCase().includes(wanted);
      const shown = rows.filter((row) => !row.hidden).length;
      count.textContent = `${shown} of ${rows.length} shown`;
    };
    input.addEventListener("input", apply);
    apply();
  }

  // Condition browser: radio groups choose a cell; texts are made by the report, this only places them.
  const browser = document.getElementById("browser");
  const cells = readData("browser-data");
  if (browser && cells) {
    const rows = all("tbody tr", browser);
    const percent = (value) => `${Math.max(0, Math.min(100, value))}%`;
    const place = (element, visible, styles) => {
      element.hidden = !visible;
      if (visible) Object.assign(element.style, styles);
    };
    const show = () => {
      const key = all("input:checked", browser).map((input) => input.value).join("|");
      const cell = cells[key];
      document.getElementById("browser-missing").hidden = Boolean(cell);
      browser.querySelector(".scroll").hidden = !cell;
      document.getElementById("browser-note").textContent = cell ? cell.note : "";
      if (!cell) return;
      rows.forEach((row, index) => {
        const entry = cell.entries[index];
        for (const name of Object.keys(entry.texts)) {
          const target = row.querySelector(`[data-k="${name}"]`);
          if (target) target.textContent = entry.texts[name];
        }
        row.querySelector('[data-k="accuracy"]').title = entry.source;
        const known = entry.accuracy !== null;
        place(row.querySelector(".track i"), known, { width: percent(entry.accuracy) });
        place(row.querySelector(".track b"), entry.low !== null, {
          left: percent(entry.low),
          width: percent(entry.high - entry.low),
        });
        place(row.querySelector(".track u"), entry.ceiling !== null, { left: percent(entry.ceiling) });
      });
    };
    browser.addEventListener("change", show);
    show();
  }

  // Class accuracies at the condition that is chosen.
  const chooser = document.getElementById("class-condition");
  const classes = readData("class-data");
  if (chooser && classes) {
    const table = document.getElementById("classes-table");
    const rows = Array.from(table.tBodies[0].rows).map((row) => [row, Number(row.dataset.row)]);
    const sorted = () => all("th[aria-sort]", table).findIndex((each) => each.getAttribute("aria-sort") !== "none");
    const show = () => {
      const values = classes[chooser.value];
      for (const [row, number] of rows) {
        for (const cell of all("td[data-entry]", row)) {
          const value = values[Number(cell.dataset.entry)]?.[number] ?? null;
          cell.textContent = value === null ? "not measured" : value.toFixed(1);
          cell.dataset.v = value === null ? "" : String(value);
          cell.classList.toggle("unmeasured", value === null);
        }
      }
      const column = sorted();
      if (column >= 0) sortRows(table, column, table.tHead.rows[0].cells[column].getAttribute("aria-sort"));
    };
    chooser.addEventListener("change", show);
    show();
  }

  // The contents list shows where the reader is.
  const links = new Map(all(".contents a[href^='#']").map((link) => [link.getAttribute("href").slice(1), link]));
  if ("IntersectionObserver" in window) {
    const observer = new IntersectionObserver(
      (records) => {
        for (const record of records) {
          if (!record.isIntersecting) continue;
          for (const link of links.values()) link.removeAttribute("aria-current");
          links.get(record.target.id)?.setAttribute("aria-current", "true");
        }
      },
      { rootMargin: "-10% 0px -75% 0px" },
    );
    for (const id of links.keys()) {
      const section = document.getElementById(id);
      if (section) observer.observe(section);
    }
  }

  // Paper has no buttons: folded parts are opened for printing.
  window.addEventListener("beforeprint", () => {
    for (const part of all("details")) part.open = true;
  });
})();
