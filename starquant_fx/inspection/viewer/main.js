// Starts the viewer.

import { byId, make } from "./text.js";
import { recordingOf, unpacked } from "./data.js";
import { setColumns } from "./chains.js";
import { App } from "./app.js";
import { showLegend, showStage } from "./overview.js";
import { bindSearch } from "./search.js";
import { bindKeys } from "./keys.js";

async function start() {
  try {
    const recording = recordingOf(await unpacked(byId("recording").textContent));
    setColumns(window.innerWidth < 700 ? [4, 3] : [8, 7, 6, 5]);
    byId("model").textContent = recording.model;
    byId("recipe").textContent = `${recording.recipe} · ${recording.tokens}`;
    const app = new App(recording);
    app.render();
    app.fit(0.5);
    showStage(app);
    showLegend(app);
    app.showPanel();
    bindKeys(app);
    bindSearch(app);
    byId("loading").remove();
    window.__readyMs = performance.now();
    document.documentElement.dataset.ready = "true";
  } catch (error) {
    byId("loading").replaceChildren(
      make("p", {}, "The recording cannot be shown."),
      make("p", {}, String(error.message ?? error)),
    );
    document.documentElement.dataset.ready = "failed";
  }
}

start();
