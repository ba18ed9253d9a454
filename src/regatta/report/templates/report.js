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
      const key = all(".choices input:checked", browser).map((input) => input.value).join("|");
      const cell = cells[key];
      document.getElementById("browser-missing").hidden = Boolean(cell);
      browser.querySelector(".scroll").hidden = !cell;
      document.getElementById("browser-note").textContent = cell ? cell.note : "";
      browser.dataset.condition = cell ? cell.id : "";
      if (!cell) return;
      rows.forEach((row, index) => {
        const entry = cell.entries[index];
        for (const name of Object.keys(entry.texts)) {
          const target = row.querySelector(`[data-k="${name}"]`);
          if (target) target.textContent = entry.texts[name];
        }
        for (const cell of all("td[data-k]", row)) cell.title = entry.source;
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

  // Film-strips: the sample that is chosen, at the condition that the browser shows.
  const film = document.getElementById("film");
  const filmData = readData("film-data");
  if (film && filmData) {
    const reels = document.getElementById("film-reels");
    const select = document.getElementById("film-sample");
    const shot = (place, sample, again) => {
      const picture = document.createElement("i");
      picture.style.setProperty("--x", String(place % sample.columns));
      picture.style.setProperty("--y", String(Math.floor(place / sample.columns)));
      const label = document.createElement("small");
      label.textContent = sample.labels[place];
      const element = document.createElement("span");
      element.className = "shot";
      element.classList.toggle("again", again);
      element.classList.toggle("missing", place >= sample.count);
      element.append(picture, label);
      return element;
    };
    const show = () => {
      const sample = filmData.samples[Number(select.value)];
      const condition = browser ? browser.dataset.condition : Object.keys(sample.places)[0];
      reels.hidden = !condition;
      if (!condition) return;
      reels.className = `reels film-${select.value}`;
      document.getElementById("film-facts").textContent = sample.facts;
      all(".reel", reels).forEach((reel, entry) => {
        const strip = sample.strips[sample.places[condition][entry]] ?? null;
        const none = "no strip was recorded";
        const answer = sample.answers[condition][entry];
        const said = reel.querySelector(".answer");
        said.textContent = answer.text;
        said.dataset.mark = answer.mark;
        reel.querySelector('[data-k="count"]').textContent = strip ? strip.count : none;
        const pictures = strip ? strip.pictures : [];
        const row = reel.querySelector(".strip");
        row.setAttribute("aria-label", `${filmData.entries[entry]}: ${strip ? strip.alt : none}`);
        row.replaceChildren(...pictures.map((place, i) => shot(place, sample, pictures.indexOf(place) < i)));
      });
    };
    document.getElementById("film-tools").hidden = filmData.samples.length < 2;
    select.addEventListener("change", show);
    if (browser) browser.addEventListener("change", show);
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

  // One class at a time: chosen in its list or by its name in the table. Names only ever become text.
  const drill = document.getElementById("drill");
  const drillData = readData("drill-data");
  if (drill && drillData && classes) {
    const { entries, words, sources } = drillData;
    const headline = drillData.headline;
    const body = document.getElementById("drill-body");
    const select = document.getElementById("drill-class");
    const make = (tag, className, ...children) => {
      const element = document.createElement(tag);
      if (className) element.className = className;
      element.append(...children.map((child) => (child instanceof Node ? child : String(child))));
      return element;
    };
    const titled = (element, title) => {
      element.title = title;
      return element;
    };
    const heading = (scope, text, className = "n") => {
      const cell = make("th", className, text);
      cell.scope = scope;
      return cell;
    };
    const swatch = (entry) => {
      const mark = make("span", "swatch");
      mark.style.setProperty("--entry", entry.color);
      mark.setAttribute("aria-hidden", "true");
      return mark;
    };
    const named = (entry) => [swatch(entry), entry.name];
    const numberText = (value) => (value === null ? "–" : value.toFixed(1));
    const shaded = (place, number, id, name) => {
      const value = classes[id]?.[place]?.[number] ?? null;
      const cell = make("td", id === headline ? "n here" : "n", numberText(value));
      const [paper, ink] = drillData.shades[Math.round(((value ?? 0) / 100) * (drillData.shades.length - 1))];
      if (value !== null) Object.assign(cell.style, { backgroundColor: paper, color: ink });
      return titled(cell, `${entries[place].source}, class ${name}, condition ${id}`);
    };
    const scrolling = (label, table) => {
      const box = make("div", "scroll", table);
      box.tabIndex = 0;
      box.setAttribute("role", "region");
      box.setAttribute("aria-label", label);
      return box;
    };
    const table = (caption, headings, rows) =>
      make("table", "", make("caption", "", ...caption), make("thead", "", make("tr", "", ...headings)), make("tbody", "", ...rows));

    const heatMaps = (number, name) => {
      const { rows, columns, cells } = drillData.grid;
      const maps = entries.map((entry, place) =>
        table(
          named(entry),
          [heading("col", "coverage \\ stride", ""), ...columns.map((text) => heading("col", text))],
          rows.map((text, row) =>
            make(
              "tr",
              "",
              heading("row", text, ""),
              ...cells[row].map((id) => (id ? shaded(place, number, id, name) : make("td", "n", "–"))),
            ),
          ),
        ),
      );
      return make("div", "heats", ...maps.map((map, place) => scrolling(`Accuracy of ${entries[place].name}`, map)));
    };
    const conditionTable = (number, name) => {
      const headings = [heading("col", "condition", ""), ...entries.map((entry) => heading("col", entry.name))];
      const rows = drillData.conditions.map(([id, text]) =>
        make("tr", "", heading("row", text, ""), ...entries.map((_, place) => shaded(place, number, id, name))),
      );
      return make("div", "heats", scrolling("Accuracy under every condition", table(["Accuracy, %"], headings, rows)));
    };
    const counted = (pairs) =>
      pairs.length ? pairs.map(([other, count]) => `${drillData.classes[other]} (${count})`).join(", ") : "none";
    const scoreTable = (number, name) => {
      const hasScores = entries.some((entry) => entry.scores);
      const hasDrops = entries.some((entry) => entry.drops);
      const headings = [heading("col", "entry", ""), heading("col", "accuracy, %")];
      if (hasScores) headings.push(...["precision", "recall", "F1"].map((text) => heading("col", text)));
      if (hasDrops) headings.push(heading("col", "drop, points"), heading("col", "rank of drop"));
      if (hasScores) headings.push(heading("col", "answered instead", ""), heading("col", "taken for it", ""));
      const rows = entries.map((entry, place) => {
        const source = (kind) => `${sources[kind]}, ${entry.name}, class ${name}`;
        const cells = [heading("row", "", ""), shaded(place, number, headline, name)];
        cells[0].append(...named(entry));
        cells[1].removeAttribute("style");
        cells[1].className = "n";
        const add = (texts, kind, className) => {
          for (const text of texts) cells.push(titled(make("td", className, text), source(kind)));
        };
        if (hasScores) add(entry.scores?.[number] ?? ["–", "–", "–"], "scores", "n");
        if (hasDrops) add(entry.drops?.[number] ?? ["–", "–"], "drops", "n");
        if (hasScores) add((entry.confusions?.[number] ?? [[], []]).map(counted), "confusions", "names");
        return make("tr", "", ...cells);
      });
      const where = `At ${words.headline}${hasScores ? `; wrong answers with ${words.counts}` : ""}.`;
      const scores = make("table", "", make("thead", "", make("tr", "", ...headings)), make("tbody", "", ...rows));
      return [make("p", "small quiet", where), scrolling("Scores of this class", scores)];
    };
    const idList = (text, count, items) => {
      const shown = items.length < count ? `, ${items.length} of them listed` : "";
      const list = make("ul", "ids", ...items.map((parts) => make("li", "", ...parts)));
      return make("div", "", make("h4", "", `${text}: ${count}${shown}`), items.length ? titled(list, sources.samples) : "");
    };
    const sampleLists = (number) => {
      const [never, differ] = drillData.samples[number];
      const lists = [idList(words.never, never[0], never[1].map((id) => [make("code", "", id)]))];
      if (differ) {
        const who = (places) => ` right in ${places.map((place) => entries[place].name).join(", ")}`;
        const items = differ[1].map(([id, places]) => [make("code", "", id), make("span", "quiet", who(places))]);
        lists.push(idList(words.differ, differ[0], items));
      }
      return make("div", "lists", ...lists);
    };
    const sourceLine = () => {
      const files = entries.map((entry) => entry.source);
      if (entries.some((entry) => entry.scores)) files.push(sources.scores, sources.confusions);
      if (entries.some((entry) => entry.drops)) files.push(sources.drops);
      if (drillData.samples) files.push(sources.samples);
      return make("p", "small quiet", `Sources: ${files.join(", ")}.`);
    };
    const show = () => {
      const number = Number(select.value);
      const name = drillData.classes[number];
      const [samples, groups] = drillData.counts[number];
      const size = `${samples} ${words.samples}${groups === undefined ? "" : ` in ${groups} ${words.groups}`}`;
      const parts = [make("p", "", make("b", "", name), `, ${size}`)];
      if (drillData.grid) parts.push(heatMaps(number, name));
      else if (drillData.conditions.length > 1) parts.push(conditionTable(number, name));
      parts.push(...scoreTable(number, name));
      if (drillData.samples) parts.push(sampleLists(number));
      body.replaceChildren(...parts, sourceLine());
    };
    for (const row of document.getElementById("classes-table").tBodies[0].rows) {
      const pick = make("button", "pick", ...row.cells[0].childNodes);
      pick.type = "button";
      row.cells[0].append(pick);
      pick.addEventListener("click", () => {
        select.value = row.dataset.row;
        show();
        document.getElementById("drill-title").focus({ preventScroll: true });
        drill.scrollIntoView({ block: "nearest" });
      });
    }
    select.addEventListener("change", show);
    drill.hidden = false;
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

  // Paper has no buttons: folded parts are opened for printing. Links to files are taken out, because
  // a PDF would hold them with the whole path of the folder that this page lies in.
  let fileLinks = [];
  window.addEventListener("beforeprint", () => {
    for (const part of all("details")) part.open = true;
    fileLinks = all("a[href]:not([href^='#'])").map((link) => [link, link.getAttribute("href")]);
    for (const [link] of fileLinks) link.removeAttribute("href");
  });
  window.addEventListener("afterprint", () => {
    for (const [link, address] of fileLinks) link.setAttribute("href", address);
  });
})();
