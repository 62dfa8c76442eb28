"use strict";

// The charts: drawn in the page's colours, zoomed together, drawn anew when the colour scheme changes.
(() => {
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const dark = matchMedia("(prefers-color-scheme: dark)");

  const config = () => {
    const [soft, line, font] = ["--soft", "--line", "--font"].map(style);
    return {
      background: null,
      font,
      view: { stroke: null },
      axis: {
        labelColor: soft, titleColor: soft, gridColor: line, domainColor: line, tickColor: line,
        labelFontSize: 12, titleFontSize: 12, titleFontWeight: 400, labelPadding: 5, gridOpacity: 0.7,
      },
      axisX: { grid: false, domain: true },
      axisY: { domain: false, ticks: false },
      range: { category: style("--series").split(" ") },
    };
  };

  const draw = (element) => {
    const spec = JSON.parse(element.dataset.spec);
    const options = {
      renderer: "svg", ast: true, config: config(), tooltip: { theme: dark.matches ? "dark" : "light" },
      actions: { export: true, source: false, compiled: false, editor: false },
    };
    return vegaEmbed(element, spec, options).then((result) => result.view);
  };

  const shade = (key) => {
    const colours = style("--series").split(" ");
    key.querySelectorAll("li").forEach((line, i) => {
      line.style.setProperty("--shade", colours[i % colours.length]);
      line.style.setProperty("--dash", ["solid", "dashed", "dotted"][Math.floor(i / colours.length) % 3]);
    });
  };

  const link = (group) => {
    const charts = [...group.querySelectorAll("[data-chart]")];
    const range = group.querySelector(".range");
    let views = [], whole = [0, 1], shown = null, setting = false;

    const set = (domain) => {
      if (setting) return;
      setting = true;
      const same = !domain || (domain[0] <= whole[0] && domain[1] >= whole[1]);
      shown = same ? null : domain;
      const [low, high] = shown || whole;
      range.textContent = shown
        ? `${range.dataset.unit}s ${Number(low.toPrecision(3))} to ${Number(high.toPrecision(3))}` : "";
      Promise.all(views.map((view) => view.signal("zoom_x", shown).runAsync())).finally(() => { setting = false; });
    };

    const steps = {
      in: ([low, high]) => [low + (high - low) / 4, high - (high - low) / 4],
      out: ([low, high]) => [low - (high - low) / 2, high + (high - low) / 2],
      left: ([low, high]) => [low - (high - low) / 3, high - (high - low) / 3],
      right: ([low, high]) => [low + (high - low) / 3, high + (high - low) / 3],
      reset: () => null,
    };
    const within = (domain) => {
      if (!domain) return null;
      const width = Math.min(domain[1] - domain[0], whole[1] - whole[0]);
      const low = Math.min(Math.max(domain[0], whole[0]), whole[1] - width);
      return [low, low + width];
    };
    for (const button of group.querySelectorAll("[data-zoom]")) {
      button.addEventListener("click", () => set(within(steps[button.dataset.zoom](shown || whole))));
    }

    const start = async () => {
      const kept = shown;
      views = await Promise.all(charts.map(draw));
      const ends = views.map((view) => view.scale("x").domain());
      whole = [Math.min(...ends.map((end) => end[0])), Math.max(...ends.map((end) => end[1]))];
      for (const view of views) view.addSignalListener("zoom_x", (_, domain) => set(domain));
      shown = null;
      set(kept);
      group.querySelector(".toolbar").hidden = false;
    };
    return start;
  };

  for (const element of document.querySelectorAll("[data-chart]")) {
    element.dataset.spec = element.querySelector("script").textContent;
  }
  const groups = [...document.querySelectorAll("[data-charts]")].map(link);
  const single = [...document.querySelectorAll("[data-chart]")].filter((chart) => !chart.closest("[data-charts]"));
  const all = () => {
    document.querySelectorAll(".key").forEach(shade);
    const drawn = [...groups.map((start) => start()), ...single.map(draw)];
    return Promise.all(drawn).then(() => { document.documentElement.dataset.charts = "drawn"; });
  };
  all();
  dark.addEventListener("change", all);
})();

// The confusion matrix: a number opens the images behind it, and the arrow keys move between the numbers.
(() => {
  const section = document.querySelector("[data-confusion]");
  if (!section) return;
  const { names, cells, pictures, confidence } = JSON.parse(section.querySelector("[data-behind]").textContent);
  const panel = section.querySelector("#behind");
  const empty = panel.innerHTML;
  const buttons = [...section.querySelectorAll("[data-cell]")];
  const matrix = section.querySelector(".matrix");
  const create = (tag, text, fields = {}) => Object.assign(document.createElement(tag), { textContent: text }, fields);

  const close = () => {
    panel.innerHTML = empty;
    for (const button of buttons) button.setAttribute("aria-expanded", "false");
  };
  const open = (button) => {
    const [row, column] = button.dataset.cell.split("-").map(Number);
    const shown = cells[button.dataset.cell];
    const total = Number(button.textContent.replaceAll(",", ""));
    const title = row === column ? `${names[row]}, rightly answered` : `${names[row]} taken for ${names[column]}`;
    const note = shown.length < total ? `${shown.length} of ${total} images` : total === 1 ? "1 image" : `${total} images`;
    const list = create("ul", "", { className: "cards" });
    for (const index of shown) {
      const item = document.createElement("li");
      const chance = `${(100 * confidence[index]).toFixed(0)}\u00a0%`;
      item.append(
        create("img", "", { src: pictures[index], alt: `Test image ${index}, a ${names[row]}, answered ${names[column]}` }),
        create("p", chance),
      );
      list.append(item);
    }
    close();
    button.setAttribute("aria-expanded", "true");
    panel.replaceChildren(
      create("h3", title), create("p", `${note}, with the confidence of the answer; the surest first.`, { className: "hint" }), list,
    );
  };

  section.addEventListener("click", (event) => {
    const button = event.target.closest("[data-cell]");
    if (!button) return;
    if (button.getAttribute("aria-expanded") === "true") close();
    else open(button);
  });
  section.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
  });

  if (!matrix) return;
  if (names.some((name) => name.length > 3)) matrix.classList.add("long");
  // One stop of the Tab key for the whole matrix, and the arrows within it.
  const place = new Map(buttons.map((button) => [button.dataset.cell, button]));
  const stop = (button) => {
    for (const other of buttons) other.tabIndex = other === button ? 0 : -1;
  };
  stop(buttons[0]);
  const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  matrix.addEventListener("keydown", (event) => {
    const move = moves[event.key];
    const from = event.target.closest("[data-cell]");
    if (!move || !from) return;
    event.preventDefault();
    let [row, column] = from.dataset.cell.split("-").map(Number);
    do {
      row += move[0];
      column += move[1];
    } while (row >= 0 && column >= 0 && row < names.length && column < names.length && !place.has(`${row}-${column}`));
    const to = place.get(`${row}-${column}`);
    if (to) {
      stop(to);
      to.focus();
    }
  });
  matrix.addEventListener("focusin", (event) => {
    const button = event.target.closest("[data-cell]");
    if (button) stop(button);
  });
})();

// Commands to the clipboard, where the browser allows it.
(() => {
  if (!navigator.clipboard) return;
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }
})();
