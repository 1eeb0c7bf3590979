// Reloads the server's configuration after a confirmation.

import { Unauthorized, post } from "./api.js";
import { element, write } from "./words.js";

const at = (id) => document.getElementById(id);

/** Show the server's answer key by key, and lists line by line. */
function facts(answer) {
  return Object.entries(answer).flatMap(([key, value]) => {
    const lines = [value].flat().map((each) => element("p", { class: "peer" }, typeof each === "object" ? JSON.stringify(each) : String(each)));
    return lines.length ? [element("dt", {}, key), element("dd", {}, ...lines)] : [];
  });
}

export function offerReload(refused) {
  const say = (text, answer = {}) => {
    write(at("reload-result"), text);
    at("reload-facts").replaceChildren(...facts(answer));
  };
  at("reload").addEventListener("click", () => {
    say("The server reads its file and applies the changes. Unchanged endpoints stay connected.");
    at("reload-yes").hidden = false;
    at("reload-dialog").showModal();
  });
  at("reload-yes").addEventListener("click", async () => {
    at("reload-yes").hidden = true;
    say("Reloading");
    try {
      const { ok, answer, text } = await post("api/reload");
      if (!answer) say(text);
      else if (!ok) say("Nothing was changed.", answer);
      else say(facts(answer).length ? "Reloaded." : "Reloaded; the file has no changes.", answer);
    } catch (error) {
      if (!(error instanceof Unauthorized)) say("No answer. Check the state of the fleet before you try again.");
      else {
        at("reload-dialog").close();
        refused();
      }
    }
  });
}
